"""The account of a corpus: what became of every document, row and character, and what to change when nothing is kept.

In: the manifests of its two stages, or their counts and rejected rows. Out: the funnel, or advice in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from humpback.corpus.dropped import PAGE_CHARS, PART_CHARS, PARTS
from humpback.recipe import Filter
from humpback.records import Rejected
from humpback.stages.ingest import DOCUMENTS, MASKED, UNREAD
from humpback.store.rundir import Counts, Manifest
from humpback.store.shards import read_records, shard_files

__all__ = ["STEPS", "first_detail", "funnel_of", "tell_advice"]

STEPS = ("ingest", "dedup")
"""The stages of a corpus, in order."""

_ADVICE = {
    "language": "corpus.languages (--languages) or corpus.min_language_score",
    "licence": "corpus.licences (--licences), or state one with corpus.inputs.licence (--licence)",
    "pii": "corpus.pii (--pii)",
    "contaminated": "corpus.decontaminate (--decontaminate)",
    "too_short": "corpus.min_chars (--min-chars)",
    "too_long": "corpus.max_chars (--max-chars)",
    **dict.fromkeys(get_args(Filter), "corpus.filters (--filters, --no-filters)"),
}


def tell_advice(counts: Counts) -> str:
    """Return the keys to change by the reasons met, the commonest first."""
    reasons = sorted(counts.rejected, key=lambda reason: (-counts.rejected[reason], reason))
    keys = dict.fromkeys(_ADVICE[reason] for reason in reasons if reason in _ADVICE)
    return "; ".join(list(keys)[:3]) or "corpus.inputs"


def first_detail(folder: Path, reason: str = "") -> str:
    """Return what the first rejected row says, of that reason if one is given."""
    for row in read_records(shard_files(folder, "rejected"), Rejected):
        if reason in ("", row.reason):
            return f" The first: {row.detail}"
    return ""


def funnel_of(ingest: Manifest, dedup: Manifest) -> dict[str, Any]:
    """Return what became of every document and row, from the manifests of the two stages."""
    tally = Counter(ingest.result["tally"])
    steps = [
        {"name": name, "read": step.read, "kept": step.kept, "rejected": step.rejected, "failed": step.failed}
        for name, step in zip(STEPS, (ingest, dedup), strict=True)
    ]
    lost = [sum(step.rejected.values()) + sum(step.failed.values()) for step in (ingest, dedup)]
    total = Counts(read=ingest.read, kept=dedup.kept, rejected={"all": sum(lost)})
    if ingest.kept != dedup.read or not total.balanced():
        raise AssertionError(f"rows were lost between the stages: {steps}")
    return {
        "documents": tally[DOCUMENTS],
        "unread": tally[UNREAD],
        "rows": ingest.read,
        "steps": steps,
        "kept": dedup.kept,
        "masked": _named(tally, MASKED),
        "pages": _pages(tally),
    }


def _pages(tally: Mapping[str, int]) -> dict[str, Any]:
    """Return what of the pages' text is main content, and which rule dropped the rest; white space is not counted."""
    chars = _named(tally, PART_CHARS)
    return {
        "characters": tally.get(PAGE_CHARS, 0),
        "main_content": tally.get(PAGE_CHARS, 0) - sum(chars.values()),
        "dropped": {
            rule: {"parts": parts, "characters": chars.get(rule, 0)} for rule, parts in _named(tally, PARTS).items()
        },
    }


def _named(tally: Mapping[str, int], beginning: str) -> dict[str, int]:
    return {
        name.removeprefix(beginning): number for name, number in sorted(tally.items()) if name.startswith(beginning)
    }
