"""What makes a segment unfit to be a response: each rule returns what it found, or None.

The header rules and the sentence rule are the paper's; `mostly_not_text` is ours. Rules are pure and see one segment.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from typing import NamedTuple

from humpback.corpus.segments import NO_HEADER
from humpback.recipe import CorpusSettings
from humpback.records import Segment

__all__ = [
    "NAVIGATION_HEADERS",
    "Verdict",
    "header_empty",
    "header_navigation",
    "header_upper",
    "judge",
    "mostly_not_text",
    "repeated_sentences",
]

_NAVIGATION = """
about the author|about the authors|ad|ads|advertise|advertise with us|advertisement|advertisements|advertising
all posts|bibliography|breadcrumb|breadcrumbs|comment|comments|contact|contact us|contents|cookie policy
email newsletter|external links|feedback|follow us|footer|footnotes|forum|forums|free newsletter|further reading
get the newsletter|home|in this article|in this section|join our newsletter|keep reading|latest news|latest posts
leave a comment|leave a reply|links|log in|login|main menu|main navigation|menu|more articles|more from this site
more like this|more links|more resources|most popular|most read|navigation|newsletter|newsletter signup
newsletters|notes and references|on this page|other articles|other resources|page contents|permalink
popular posts|post navigation|privacy policy|quick link|quick links|quicklinks|read more|read next
recent comments|recent posts|recommended for you|recommended reading|references|related|related articles
related content|related links|related pages|related posts|related resources|related topics|see also|share
share this|share this article|share this page|share this post|sidebar|sign in|sign up|site map|sitemap
skip to content|social media|sponsored|sponsors|subscribe|subscribe to our newsletter|table of contents|tags
terms and conditions|terms of service|terms of use|toc|top stories|trending|useful links|you may also like
you might also like
"""
NAVIGATION_HEADERS = frozenset(_NAVIGATION.strip().replace("\n", "|").split("|"))
"""Headers, casefolded, of parts that help to get around a site rather than say something."""

_MIN_WORDS = 6
"""Shorter sentences are not compared: "See the example below." may well come twice."""
_MAX_POSTINGS = 64
"""Sentences remembered per word 3-gram: bounds the work on a text of thousands of similar sentences."""
_MIN_LETTERS = 0.5
_MAX_SYMBOLS = 0.15
_MIN_PROSE = 0.5
_SHOWN = 80

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(
    r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+"
    r"|\n(?=[ \t]*(?:[-*+\u2022|>]|\d+[.)])\s)"  # a list item begins
    r"|(?<=[\u3002\uff01\uff1f])"  # Chinese and Japanese: no space follows
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)
_CODE_START = re.compile(r"\s*(?:>>> |\.\.\. |\$ |\(Pdb\)|[|+][ :|+=-]|\w+ +::=)")
_UNSEEN = re.compile(r"</?[A-Za-z!][^<>]*>|(?<=\])\([^()\s]*\)|https?://[^\s<>()]*")
_SYMBOL = re.compile(r"[(){}\[\]<>=_;\\/|*&%$#@+^~`]")


class Verdict(NamedTuple):
    """Why a segment is unfit."""

    reason: str
    """Name of the rule."""
    detail: str


def judge(segment: Segment, settings: CorpusSettings) -> Verdict | None:
    """Return the first rule that finds the segment unfit, or None when it is fit."""
    for rule in (header_empty, header_upper, header_navigation, mostly_not_text):
        if detail := rule(segment):
            return Verdict(rule.__name__, detail)
    repeated = repeated_sentences(segment, limit=settings.max_repetition)
    return Verdict("repeated_sentences", repeated) if repeated else None


def header_empty(segment: Segment) -> str | None:
    """Return the header when it has no letter or digit; a title, or no header at all, is not an empty one."""
    header = _header(segment)
    if not header or segment.header_path == segment.title or any(char.isalnum() for char in header):
        return None
    return "the header is empty" if header == NO_HEADER else f"header {header[:_SHOWN]!r} has no letter or digit"


def header_upper(segment: Segment) -> str | None:
    """Return the header when it shouts: all upper case, and more than one word or 6 letters (`HTTP`, `NATO` pass)."""
    header = _header(segment)
    letters = sum(char.isalpha() for char in header)
    if not header.isupper() or (letters <= 6 and len(header.split()) == 1):
        return None
    return f"header {header[:_SHOWN]!r} is all upper case"


def header_navigation(segment: Segment) -> str | None:
    """Return the header when the whole of it, apart from case and punctuation, is a navigation header."""
    header = _header(segment)
    if " ".join(_WORD.findall(header.casefold())) not in NAVIGATION_HEADERS:
        return None
    return f"header {header[:_SHOWN]!r} is one of the navigation headers"


def mostly_not_text(segment: Segment) -> str | None:
    """Return the shares when letters are under half of the text, or prose is.

    Prose are the blocks (between blank lines) that are no fenced code, table, prompt or grammar, and in which brackets
    and operators are at most 15 % of the characters. Tags and link addresses are no prose. Whitespace counts nowhere.
    """
    total = _ink(segment.text)
    if not total:
        return "no text"
    letters = sum(char.isalpha() for char in segment.text) / total
    if letters < _MIN_LETTERS:
        return f"letters are {letters:.0%} of the characters, below {_MIN_LETTERS:.0%}"
    prose = sum(_ink(block) for block in _prose_blocks(segment.text)) / total
    return f"prose is {prose:.0%} of the characters, below {_MIN_PROSE:.0%}" if prose < _MIN_PROSE else None


def repeated_sentences(segment: Segment, *, limit: float) -> str | None:
    """Return two sentences of prose, 6 words or more, whose word 3-grams have a Jaccard similarity above the limit.

    Exact for texts in which no 3-gram is in more than 64 sentences; beyond that the last 64 are compared, so that the
    work stays in proportion to the text. Scripts without spaces between words have no sentences of 6 words.
    """
    kept: list[tuple[str, int]] = []
    holders: dict[tuple[str, str, str], deque[int]] = defaultdict(lambda: deque(maxlen=_MAX_POSTINGS))
    for sentence in (part for block in _prose_blocks(segment.text) for part in _SENTENCE_END.split(block)):
        words = _WORD.findall(sentence.casefold())
        if len(words) < _MIN_WORDS:
            continue
        grams = set(zip(words, words[1:], words[2:], strict=False))
        shared: dict[int, int] = defaultdict(int)
        for gram in grams:
            for other in holders[gram]:
                shared[other] += 1
        for other, count in shared.items():
            similarity = count / (len(grams) + kept[other][1] - count)
            if similarity > limit:
                return f"{similarity:.2f} above {limit:g}: {_shown(kept[other][0])} / {_shown(sentence)}"
        for gram in grams:
            holders[gram].append(len(kept))
        kept.append((sentence, len(grams)))
    return None


def _header(segment: Segment) -> str:
    return segment.header_path.rsplit(" > ", 1)[-1].strip()


def _prose_blocks(text: str) -> list[str]:
    blocks = _BLANK_LINE.split(_FENCED.sub("\n\n", text))
    return [block for block in (_UNSEEN.sub(" ", block) for block in blocks) if _is_prose(block)]


def _is_prose(block: str) -> bool:
    ink = _ink(block)
    if not ink or _CODE_START.match(block):
        return False
    return len(_SYMBOL.findall(block)) <= _MAX_SYMBOLS * ink


def _ink(text: str) -> int:
    return sum(map(len, text.split()))


def _shown(sentence: str) -> str:
    return repr(" ".join(sentence.split())[:_SHOWN])
