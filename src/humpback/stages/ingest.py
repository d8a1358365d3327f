"""Ingest: documents in, fit segments out. Each document stands alone; duplicates are the dedup stage's business.

A segment meets, in this order: the length limits (`cut`), the licences, the languages, the filters, the search for personal data
and for texts of evaluation sets. The language comes before the filters because their stop words depend on it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from humpback.corpus.language import find_language
from humpback.corpus.licence import licence_allowed
from humpback.corpus.pii import find_pii, mask_pii
from humpback.corpus.quality import Verdict, judge
from humpback.corpus.segments import cut
from humpback.recipe import CorpusSettings
from humpback.records import Document, Rejected, Segment
from humpback.stages.rejecting import reject

__all__ = ["DOCUMENTS", "MASKED", "UNREAD", "Contaminated", "ingest"]

DOCUMENTS = "documents"
"""Tally of the documents read."""
UNREAD = "unread"
"""Tally of the records and files that gave no document."""
MASKED = "masked "
"""Beginning of the tallies of personal data masked, by kind, in segments kept."""

_SHOWN = 2000


class Contaminated(Protocol):
    """The texts of the evaluation sets (`corpus.overlap.Overlap`)."""

    def find(self, text: str) -> str | None:
        """Return what of them the text shares, or None."""
        ...


def ingest(
    documents: Iterable[Document | Rejected],
    settings: CorpusSettings,
    *,
    overlap: Contaminated | None = None,
    tally: Counter[str] | None = None,
) -> Iterator[Segment | Rejected]:
    """Cut documents into header-rooted segments and yield each, or why it is unfit. A rejected document passes through."""
    tally = Counter() if tally is None else tally
    for document in documents:
        if isinstance(document, Rejected):
            tally[UNREAD] += 1
            yield document
            continue
        tally[DOCUMENTS] += 1
        for piece in _cut(document, settings, tally):
            yield piece if isinstance(piece, Rejected) else _examine(piece, settings, overlap, tally)


def _cut(document: Document, settings: CorpusSettings, tally: Counter[str]) -> Iterator[Segment | Rejected]:
    """Yield the document's pieces; what makes its parser give up costs this one document."""
    try:
        yield from cut(
            document,
            min_chars=settings.min_chars,
            max_chars=settings.max_chars,
            kept_chars=settings.max_rejected_chars,
            tally=tally,
        )
    except _parser_errors() as error:
        yield _unparsed(document, error, settings.max_rejected_chars)


@functools.cache
def _parser_errors() -> tuple[type[Exception], ...]:
    from selectolax.lexbor import SelectolaxError

    return SelectolaxError, MemoryError, RuntimeError, UnicodeError  # RecursionError is a RuntimeError


def _unparsed(document: Document, error: Exception, kept_chars: int) -> Rejected:
    detail = f"{document.location or document.source_uri} cannot be parsed: {type(error).__name__}: {error}"[:_SHOWN]
    beginning = dataclasses.replace(document, text=document.text[:kept_chars])
    return reject(beginning, "parse_error", detail, failed=True, chars=len(document.text))


def _examine(
    segment: Segment, settings: CorpusSettings, overlap: Contaminated | None, tally: Counter[str]
) -> Segment | Rejected:
    if settings.licences and (detail := licence_allowed(segment.licence, settings.licences)):
        return reject(segment, "licence", detail)
    segment, foreign = _speak(segment, settings)
    if foreign:
        return reject(segment, "language", foreign)
    if verdict := judge(segment, settings):
        return reject(segment, verdict.reason, verdict.detail)
    masked, found, verdict = _hide(segment, settings)
    if verdict:
        return reject(segment, verdict.reason, verdict.detail)
    # The text as it was: a mask inside a 13-gram would hide it.
    if overlap is not None and (detail := overlap.find(segment.text)):
        return reject(segment, "contaminated", detail)
    tally.update({MASKED + kind: number for kind, number in found.items()})
    return masked


def _speak(segment: Segment, settings: CorpusSettings) -> tuple[Segment, str | None]:
    """Return the segment with its language, and why it is none of the recipe's.

    What the source states is taken at its word only when the recipe does not ask: pages copy their `lang` from templates.
    """
    if segment.language and not settings.languages:
        return segment, None
    guess = find_language(segment.text)
    sure = guess.score >= settings.min_language_score
    segment = dataclasses.replace(segment, language=guess.code if sure else segment.language)
    if not settings.languages or (sure and guess.code in settings.languages):
        return segment, None
    found = f"{guess.code or 'no language'} at {guess.score:.2f}"
    return segment, f"{found}, not one of {', '.join(settings.languages)} at {settings.min_language_score:g} or more"


def _hide(segment: Segment, settings: CorpusSettings) -> tuple[Segment, Counter[str], Verdict | None]:
    """Return the segment without personal data and what was masked, or why it is unfit. Its id stays the original text's."""
    found: Counter[str] = Counter()
    if settings.pii == "reject":
        kinds = Counter(
            hit.kind for text in (segment.text, segment.header_path, segment.title) for hit in find_pii(text)
        )
        told = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        return segment, found, Verdict("pii", f"holds {told}") if kinds else None
    if settings.pii == "mask":
        hidden = mask_pii(segment.text)
        path, title = mask_pii(segment.header_path), mask_pii(segment.title)
        found.update(hidden.found)
        found.update(path.found)
        if path.found or title.found:
            segment = dataclasses.replace(segment, header_path=path.text, title=title.text)
        if len(hidden.text) < settings.min_chars:
            short = (
                f"{len(hidden.text):,} characters once personal data is masked, below min_chars={settings.min_chars:,}"
            )
            return segment, found, Verdict("too_short", short)
        if len(hidden.text) > settings.max_chars:
            long = (
                f"{len(hidden.text):,} characters once personal data is masked, above max_chars={settings.max_chars:,}"
            )
            return segment, found, Verdict("too_long", long)
        if found:
            segment = dataclasses.replace(segment, text=hidden.text)
    return segment, found, None
