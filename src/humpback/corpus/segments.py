"""Header-rooted segmentation: a segment is the text under one header with its lower-level headers.

In: a document. Out: segments within the limits, and a `Rejected` for every other piece of text, so that each character
of the document but the header lines of the path is in exactly one of them. Of nested candidates the largest that fits
wins: a header's whole subtree, else the text right below it and then each lower header's.
Linear in the document: Markdown has 6 header levels and plain text 16, so a line is joined at most that often.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from humpback.records import Document, Rejected, Segment, content_id

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

__all__ = ["NO_HEADER", "cut"]

NO_HEADER = "—"
"""How a header without words is written in a header path."""

_MAX_TITLE = 300
_MAX_PLAIN_TITLE = 120
_MAX_FRONT_MATTER = 400
_SHOWN = 2000
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_MAYBE_HEADER = re.compile(r"^ {0,3}(?:#{1,6}(?:[ \t]|$)|(?:=+|-+)[ \t]*$)", re.MULTILINE)
_FRONT_KEY = re.compile(r"[\w-]+[ \t]*:")
_FRONT_TITLE = re.compile(r"title[ \t]*:[ \t]*([^>|\s].*)", re.IGNORECASE)
_RULE = re.compile(r"""([*=\-~^"#+])\1{2,}""")


class _Header(NamedTuple):
    level: int
    title: str
    first: int
    """First line of the header itself."""
    body: int
    """First line after the header."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Section:
    title: str
    parent: int
    body: int
    own_end: int
    """Line where the first lower header, or the end, begins."""
    end: int
    """Line after the last lower header's text."""
    following: int
    """Index of the next section outside this one."""
    rooted: bool
    """Whether the whole of it, lower headers included, may be one segment."""


class _Text:
    """A document's lines, with what is needed to measure a range of them without joining it."""

    def __init__(self, document: Document) -> None:
        spans = list(_LINE.finditer(document.text))
        self.document = document
        self.lines = [span.group().rstrip("\r\n") for span in spans]
        self.offsets = [span.start() for span in spans]
        self.weights = [0, *accumulate(len(line.strip()) for line in self.lines)]

    def at_least(self, first: int, last: int) -> int:
        """Return a lower bound of the length of `join`."""
        return self.weights[last] - self.weights[first]

    def join(self, first: int, last: int) -> tuple[str, int]:
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
        return text, self.offsets[first] if first < last else 0


def cut(document: Document, *, min_chars: int, max_chars: int) -> Iterator[Segment | Rejected]:
    """Yield the document's segments of `min_chars` to `max_chars` characters in order, all other text as rejected."""
    found = False
    for record in _cut(document, min_chars, max_chars):
        found = True
        yield record
    if not found:
        yield _reject(document, document.title, document.text, 0, "no_text", "nothing but headers and blank lines")


def _cut(document: Document, min_chars: int, max_chars: int) -> Iterator[Segment | Rejected]:
    if document.header_path:
        yield from _judge(document, document.header_path, *_whole(document.text), min_chars, max_chars)
        return
    text = _Text(document)
    start, title = _front_matter(text) if document.format == "markdown" else (0, "")
    document = dataclasses.replace(document, title=document.title or title)
    if start:
        yield _reject(document, document.title, *text.join(0, start), "front_matter", "settings of the page, not text")
    find = _markdown_headers if document.format == "markdown" else _plain_headers
    sections = _sections(find(text, start), document.title, start, len(text.lines))
    index = 0
    while index < len(sections):
        section = sections[index]
        path = _path(sections, index)
        if section.rooted and text.at_least(section.body, section.end) <= max_chars:
            body, offset = text.join(section.body, section.end)
            if len(body) <= max_chars:
                yield from _judge(document, path, body, offset, min_chars, max_chars)
                index = section.following
                continue
        yield from _judge(document, path, *text.join(section.body, section.own_end), min_chars, max_chars)
        index += 1


def _whole(text: str) -> tuple[str, int]:
    body = text.strip()
    return body, text.index(body)


def _judge(
    document: Document, path: str, text: str, offset: int, min_chars: int, max_chars: int
) -> Iterator[Segment | Rejected]:
    if not text:
        return
    if len(text) < min_chars:
        yield _reject(
            document, path, text, offset, "too_short", f"{len(text):,} characters, below min_chars={min_chars:,}"
        )
    elif len(text) > max_chars:
        detail = f"{len(text):,} characters without a lower header, above max_chars={max_chars:,}"
        yield _reject(document, path, text, offset, "too_long", detail)
    else:
        yield Segment(
            id=content_id(document.source_uri, str(offset), text),
            text=text,
            header_path=path,
            source_uri=document.source_uri,
            offset=offset,
            title=document.title,
            licence=document.licence,
            language=document.language,
            document_id=document.id,
        )


def _reject(document: Document, path: str, text: str, offset: int, reason: str, detail: str) -> Rejected:
    row = {
        "text": text[:_SHOWN],
        "header_path": path,
        "source_uri": document.source_uri,
        "offset": offset,
        "chars": len(text),
    }
    return Rejected(
        id=content_id(document.source_uri, str(offset), text),
        reason=reason,
        detail=f"{document.source_uri} at character {offset:,}: {detail}",
        row=json.dumps(row, ensure_ascii=False),
    )


def _sections(headers: Sequence[_Header], title: str, start: int, count: int) -> list[_Section]:
    """Return the document itself and its headers in order, each knowing its parent and where its subtree ends."""
    nodes = [_Header(0, title, start, start), *headers]
    parents = [-1] * len(nodes)
    following = [len(nodes)] * len(nodes)
    open_nodes: list[int] = []
    for index, node in enumerate(nodes):
        while open_nodes and nodes[open_nodes[-1]].level >= node.level:
            following[open_nodes.pop()] = index
        parents[index] = open_nodes[-1] if open_nodes else -1
        open_nodes.append(index)

    def line_of(index: int) -> int:
        return nodes[index].first if index < len(nodes) else count

    # The title is the header of a document with several top headers; above a single one it is only its other name.
    tops = parents.count(0)
    return [
        _Section(
            title=node.title,
            parent=parents[index],
            body=node.body,
            own_end=line_of(index + 1),
            end=line_of(following[index]),
            following=following[index],
            rooted=index > 0 or tops == 0 or (tops > 1 and bool(title)),
        )
        for index, node in enumerate(nodes)
    ]


def _path(sections: Sequence[_Section], index: int) -> str:
    titles = []
    while index > 0:
        titles.append(sections[index].title)
        index = sections[index].parent
    title = sections[0].title
    if title and (not titles or titles[-1].casefold() != title.casefold()):
        titles.append(title)
    return " > ".join(reversed(titles))


def _plain_headers(text: _Text, start: int) -> list[_Header]:
    """Find titles underlined, or over- and underlined, by a run of one punctuation character, as docutils does."""
    lines = text.lines
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    levels: dict[tuple[str, bool], int] = {}
    headers: list[_Header] = []
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
        headers.append(_Header(level, title, index - 2 if over else index - 1, free))
    return headers


def _is_title(title: str, width: int) -> bool:
    return 0 < len(title) <= min(width, _MAX_PLAIN_TITLE) and any(char.isalnum() for char in title)


def _markdown_headers(text: _Text, start: int) -> list[_Header]:
    source = "\n".join(text.lines[start:])
    if not _MAYBE_HEADER.search(source):
        return []
    headers = []
    tokens = _block_parser().parse(source)
    for token, inline in pairwise(tokens):
        # Level 0 alone: a heading inside a quote or a list item belongs to it.
        if token.type == "heading_open" and token.level == 0 and token.map:
            first, last = token.map
            headers.append(_Header(int(token.tag[1:]), _heading_words(inline.content), first + start, last + start))
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
    for pattern, replacement in _HEADING_MARKS:
        content = pattern.sub(replacement, content)
    return " ".join(html.unescape(content).split())[:_MAX_TITLE] or NO_HEADER


def _front_matter(text: _Text) -> tuple[int, str]:
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
