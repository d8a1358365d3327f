"""Header-rooted segmentation: a segment is the text under one header with its lower-level headers.

In: a document. Out: segments within the limits, and a `Rejected` for every other piece of text, so that each character of the
document but the header lines of the path is in exactly one of them. What of a page is not its main content is counted by the rule
that dropped it, and is a `Rejected` too where it is long and reads like prose.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from humpback.corpus.dropped import Dropped, count_dropped
from humpback.corpus.html import CostlyPageError, read_page
from humpback.corpus.outline import Lines, TooManyLinesError, front_matter, markdown_headers, plain_headers
from humpback.corpus.tree import NO_HEADER, Header, Joined, Section, Units, choose, find_sections, path_of
from humpback.records import Document, Rejected, Segment, content_id

__all__ = ["KEPT_CHARS", "NOT_MAIN", "NO_HEADER", "Blocks", "Outline", "cut", "outline"]

NOT_MAIN = "not_main_content"
"""Reason of rows that hold prose dropped from a page."""
KEPT_CHARS = 100_000
"""Characters of its text that a rejected row keeps, unless the recipe says otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
    """A document's header tree."""

    document: Document
    """With what the text itself says of its title, licence and time."""
    units: Units
    sections: tuple[Section, ...]
    front: Joined | None = None
    """Settings above the text (YAML front matter), when there are any."""
    main_chars: int = 0
    """Characters of an HTML page's main content that are no white space, Markdown's marks not counted."""
    dropped: tuple[Dropped, ...] = ()
    """What of an HTML page is not its main content."""


class Blocks:
    """The blocks of an HTML page, as units of its header tree."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self._starts = [0, *accumulate(len(text) + 2 for text in texts)]

    def at_least(self, first: int, last: int) -> int:
        """Return the length of the blocks, joined by blank lines."""
        return self._starts[last] - self._starts[first] - 2

    def join(self, first: int, last: int) -> Joined:
        """Return the blocks joined by blank lines, and their offset in the page's main content."""
        return Joined("\n\n".join(self.texts[first:last]), self._starts[first])


class _Limits(NamedTuple):
    min_chars: int
    max_chars: int
    kept_chars: int


def cut(
    document: Document,
    *,
    min_chars: int,
    max_chars: int,
    kept_chars: int = KEPT_CHARS,
    tally: Counter[str] | None = None,
) -> Iterator[Segment | Rejected]:
    """Yield the document's segments of `min_chars` to `max_chars` characters in order, all other text as rejected.

    A rejected row keeps `kept_chars` of its text. The tally counts the characters of pages, and what was dropped by which rule.
    """
    found = False
    limits = _Limits(min_chars, max_chars, kept_chars)
    try:
        for record in _cut(document, limits, Counter() if tally is None else tally):
            found = found or isinstance(record, Segment) or record.reason != NOT_MAIN
            yield record
    except CostlyPageError as error:
        yield _reject(document, document.title, document.text, 0, "costly_page", f"{error}; it is not parsed", limits)
        return
    except TooManyLinesError as error:
        yield _reject(document, document.title, document.text, 0, "too_many_lines", str(error), limits)
        return
    if not found:
        what = "no main content" if document.format == "html" else "nothing but headers and blank lines"
        yield _reject(document, document.title, document.text, 0, "no_text", what, limits)


def _cut(document: Document, limits: _Limits, tally: Counter[str]) -> Iterator[Segment | Rejected]:
    if document.header_path:
        yield from _judge(document, document.header_path, *_whole(document.text), limits)
        return
    tree = outline(document)
    document = tree.document
    if tree.front:
        yield _reject(document, document.title, *tree.front, "front_matter", "settings of the page, not text", limits)
    for piece in choose(tree.units, tree.sections, max_chars=limits.max_chars):
        path = path_of(tree.sections, piece.section)
        yield from _judge(document, path, piece.text, piece.offset, limits)
    if tree.main_chars or tree.dropped:
        count_dropped(tally, tree.main_chars, tree.dropped)
    for number, part in enumerate(tree.dropped):
        if part.is_prose:
            yield _not_main(document, part, number, limits)


def outline(document: Document) -> Outline:
    """Return the document's header tree."""
    if document.format == "html":
        return _page_outline(document)
    text = Lines(document)
    start, title = front_matter(text) if document.format == "markdown" else (0, "")
    document = dataclasses.replace(document, title=document.title or title)
    find = markdown_headers if document.format == "markdown" else plain_headers
    return Outline(
        document=document,
        units=text,
        sections=tuple(find_sections(find(text, start), document.title, start, len(text.lines))),
        front=text.join(0, start) if start else None,
    )


def _page_outline(document: Document) -> Outline:
    page = read_page(document.text)
    document = dataclasses.replace(
        document,
        title=document.title or _without_site(page.title, [block.text for block in page.blocks if block.level][:3]),
        licence=document.licence or page.licence,
        time=document.time or page.time,
    )
    headers = [Header(block.level, block.text, i, i + 1) for i, block in enumerate(page.blocks) if block.level]
    return Outline(
        document=document,
        units=Blocks([block.markdown() for block in page.blocks]),
        sections=tuple(find_sections(headers, document.title, 0, len(page.blocks))),
        main_chars=page.main_chars,
        dropped=page.dropped,
    )


def _without_site(title: str, headers: list[str]) -> str:
    """Return a page's title as its own header has it: `<title>` mostly adds the name of the site."""
    for header in headers:
        if header in title and 2 * len(header) >= len(title) - 30:
            return header
    return title


def _whole(text: str) -> tuple[str, int]:
    body = text.strip()
    return body, text.index(body)


def _judge(document: Document, path: str, text: str, offset: int, limits: _Limits) -> Iterator[Segment | Rejected]:
    if not text:
        return
    if len(text) < limits.min_chars:
        detail = f"{len(text):,} characters, below min_chars={limits.min_chars:,}"
        yield _reject(document, path, text, offset, "too_short", detail, limits)
    elif len(text) > limits.max_chars:
        detail = f"{len(text):,} characters without a lower header, above max_chars={limits.max_chars:,}"
        yield _reject(document, path, text, offset, "too_long", detail, limits)
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
            location=document.location,
            time=document.time,
        )


def _reject(
    document: Document, path: str, text: str, offset: int, reason: str, detail: str, limits: _Limits
) -> Rejected:
    return Rejected(
        id=content_id(document.source_uri, str(offset), text),
        reason=reason,
        detail=f"{document.source_uri} at character {offset:,}: {detail}",
        row=_row(document, text, limits, header_path=path, offset=offset),
    )


def _not_main(document: Document, part: Dropped, number: int, limits: _Limits) -> Rejected:
    return Rejected(
        id=content_id(document.source_uri, NOT_MAIN, str(number), part.text),
        reason=NOT_MAIN,
        detail=f"{document.source_uri}: {part.where} is not its main content: {part.rule}",
        row=_row(document, part.text, limits, rule=part.rule, where=part.where),
    )


def _row(document: Document, text: str, limits: _Limits, **more: object) -> str:
    """Return a row of text that is no segment: `chars` is how long it is, whatever of it is kept."""
    kept = {"text": text[: limits.kept_chars], "chars": len(text)}
    if len(text) > limits.kept_chars:
        kept["kept_chars"] = limits.kept_chars
    row = {**kept, "source_uri": document.source_uri, "location": document.location, **more}
    return json.dumps(row, ensure_ascii=False)
