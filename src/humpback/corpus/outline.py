"""Markdown and plain text as lines, and where their headers are.

In: a document's text. Out: `Lines`, and the `Header`s found in them. Markdown has 6 header levels and plain text 16, so a line is
joined at most that often: linear in the document.
"""

from __future__ import annotations

import html
import itertools
import re
import textwrap
from array import array
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from humpback.corpus.tree import NO_HEADER, Header, Joined
from humpback.records import Document

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

__all__ = [
    "MAX_LINES",
    "Lines",
    "TooManyLinesError",
    "front_matter",
    "looks_like_markdown",
    "markdown_headers",
    "plain_headers",
]

MAX_LINES = 250_000
"""Lines of a text that is cut, about twice those of a Bible: each costs some hundred bytes and a look from Python."""
_MAX_TITLE = 300
_MAX_MARKUP = 3_000
"""Characters of a heading that are read: a run of blanks costs the square of its length."""
_MAX_PLAIN_TITLE = 120
_MAX_FRONT_MATTER = 400
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_MAYBE_HEADER = re.compile(r"^ {0,3}(?:#{1,6}(?:[ \t]|$)|(?:=+|-+)[ \t]*$)", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\n[\w-]+[ \t]*:(?:[^\n]*\n){1,400}?(?:---|\.\.\.)[ \t]*\n")
_FENCED = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_LONE_HEADER = re.compile(r"(?:\A|^[ \t]*\n) {0,3}#{1,6}[ \t]+[^\s#][^\n]*(?=\n[ \t]*(?:\n|\Z)|\Z)", re.MULTILINE)
_FRONT_KEY = re.compile(r"[\w-]+[ \t]*:")
_FRONT_TITLE = re.compile(r"title[ \t]*:[ \t]*([^>|\s].*)", re.IGNORECASE)
_RULE = re.compile(r"""([*=\-~^"#+])\1{2,}""")


class TooManyLinesError(ValueError):
    """A text of so many lines that its tree would take far more time and memory than its size: the message says how many."""


class Lines:
    """A document's lines, with what is needed to measure a range of them without joining it. TooManyLinesError for a bomb."""

    def __init__(self, document: Document) -> None:
        text = document.text
        if (count := text.count("\n") + text.count("\r") - text.count("\r\n")) > MAX_LINES:
            raise TooManyLinesError(f"{count:,} line ends, above {MAX_LINES:,}; split the text")
        self.document = document
        self.lines: list[str] = []
        self.offsets = array("q")
        for span in _LINE.finditer(text):
            self.lines.append(span.group().rstrip("\r\n"))
            self.offsets.append(span.start())
        self.weights = array("q", accumulate((len(line.strip()) for line in self.lines), initial=0))

    def at_least(self, first: int, last: int) -> int:
        """Return a lower bound of the length of `join`."""
        return self.weights[last] - self.weights[first]

    def join(self, first: int, last: int) -> Joined:
        """Return the range as text and its offset: no blank lines around, at most two inside, no common indentation."""
        while first < last and not self.lines[first].strip():
            first += 1
        kept: list[str] = []
        blank = 0
        for line in self.lines[first:last]:
            blank = 0 if line.strip() else blank + 1
            if blank <= 2:
                kept.append(line if not blank else "")
        while kept and not kept[-1]:
            kept.pop()
        text = "\n".join(kept).rstrip()
        if self.document.format == "plain":
            text = textwrap.dedent(text)
        return Joined(text, self.offsets[first] if first < last else 0)


def plain_headers(text: Lines, start: int) -> list[Header]:
    """Find titles underlined, or over- and underlined, by a run of one punctuation character, as docutils does."""
    lines = text.lines
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    levels: dict[tuple[str, bool], int] = {}
    headers: list[Header] = []
    free = start
    for index in range(start + 1, len(lines)):
        rule = _RULE.fullmatch(lines[index].rstrip(), margin)
        title = lines[index - 1].strip()
        if not rule or index - 1 < free or not _is_title(title, len(rule.group())):
            continue
        above = lines[index - 2].rstrip() if index - 2 >= free else ""
        over = above == lines[index].rstrip()
        # Inside a paragraph (text above) or a block of code (indented) it is no title.
        if not over and (above.strip() or lines[index - 1][margin : margin + 1].isspace()):
            continue
        level = levels.setdefault((rule.group(1), over), len(levels) + 1)
        free = index + 1
        headers.append(Header(level, title, index - 2 if over else index - 1, free))
    return headers


def _is_title(title: str, width: int) -> bool:
    return 0 < len(title) <= min(width, _MAX_PLAIN_TITLE) and any(char.isalnum() for char in title)


def looks_like_markdown(text: str) -> bool:
    """Tell whether a text that nobody named is Markdown by its headers (`# Title`) or its front matter.

    It is when it begins with front matter or a header, or holds two headers or more; each with a blank line, or the text's edge,
    above and below it, and none in fenced code. So comments in code (`# like this`) do not count, and a single one in the
    middle says too little.
    """
    if _FRONT_MATTER.match(text):
        return True
    if not text.lstrip().startswith("#") and text.count("\n#") < 2:
        return False
    if "```" in text or "~~~" in text:
        text = _FENCED.sub("", text)
    headers = list(itertools.islice(_LONE_HEADER.finditer(text), 2))
    return len(headers) > 1 or (bool(headers) and not text[: headers[0].start()].strip())


def markdown_headers(text: Lines, start: int) -> list[Header]:
    """Find the headers of the page itself; one inside a quote or a list item belongs to that."""
    source = "\n".join(text.lines[start:])
    if not _MAYBE_HEADER.search(source):
        return []
    headers = []
    tokens = _block_parser().parse(source)
    for token, inline in pairwise(tokens):
        # Level 0 alone: a heading inside a quote or a list item belongs to it.
        if token.type == "heading_open" and token.level == 0 and token.map:
            first, last = token.map
            headers.append(Header(int(token.tag[1:]), _heading_words(inline.content), first + start, last + start))
    return headers


@cache
def _block_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    # Each of n link definitions in a row reads to the end of the row: quadratic, and no header depends on it.
    parser.block.ruler.disable("reference")
    return parser


_HEADING_MARKS = (
    (re.compile(r"[ \t]*\{[#.:][^{}]*\}$"), ""),
    (re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])"), r"\1"),
    (re.compile(r"<[^<>]*>"), ""),
    (re.compile(r"(?<!\\)\*+|~~+|`+|(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)"), ""),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
)


def _heading_words(content: str) -> str:
    """Return a heading as a reader sees it: no links, emphasis, tags or anchors."""
    content = content[:_MAX_MARKUP]
    for pattern, replacement in _HEADING_MARKS:
        content = pattern.sub(replacement, content)
    return " ".join(html.unescape(content).split())[:_MAX_TITLE] or NO_HEADER


def front_matter(text: Lines) -> tuple[int, str]:
    """Return the line after a YAML front matter, and its title: CommonMark would take its end for an underline."""
    lines = text.lines
    top = next((index for index, line in enumerate(lines) if line.strip()), 0)
    if not lines or lines[top].rstrip() != "---":
        return 0, ""
    for index, line in enumerate(lines[top + 1 : top + _MAX_FRONT_MATTER], start=top + 1):
        if line.rstrip() in ("---", "..."):
            inside = lines[top + 1 : index]
            if not any(_FRONT_KEY.match(item) for item in inside):
                return 0, ""
            titles = (found.group(1) for item in inside if (found := _FRONT_TITLE.fullmatch(item.strip())))
            title = next(titles, "").strip("\"'")
            return index + 1, _heading_words(title) if title else ""
    return 0, ""
