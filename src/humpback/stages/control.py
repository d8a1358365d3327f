"""Control: candidates that curation did not choose, as many as it did. What curation is worth is seen against them.

`draw_control` takes any at random, `draw_worst` the worst scored. What could not be trained on is passed over, so that whoever is
compared has learnt from the same number of pairs. Memory is one (rank, id) per candidate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from humpback.corpus.dedup import normalise
from humpback.errors import GateError
from humpback.evaluation.deciding import direct_score
from humpback.records import Rejected, Scored
from humpback.store.fingerprint import derive_seed

__all__ = ["Rows", "Unfit", "draw_control", "draw_worst"]

Rows = Callable[[], Iterable[Scored]]
"""Gives the scored candidates, as often as it is called."""
Unfit = Callable[[Scored], Rejected | None]
"""Says why a candidate cannot be trained on, or None."""


def draw_control(scored: Rows, count: int, *, random_seed: int, unfit: Unfit) -> Iterator[Scored | Rejected]:
    """Yield `count` candidates by the hash of their id, and the others as rejected."""
    ranked = _shuffle((row.id for row in scored()), random_seed)
    chosen, refused = _take_fit(scored, ranked, count, unfit)
    yield from _split(scored, chosen, refused, f"{len(chosen)} of {len(ranked)} candidates were drawn")


def draw_worst(
    scored: Rows,
    count: int,
    *,
    signal: str,
    curated: Collection[str],
    size: int | None = None,
    random_seed: int,
    unfit: Unfit,
) -> Iterator[Scored | Rejected]:
    """Yield the `count` worst candidates by the signal that curated, or `size` of those at random, and the others as rejected.

    No instruction is taken twice, as curation takes none twice. A candidate without a value is not among the worst.
    """
    ranked = _rank_worst(scored, signal, curated)
    worst, refused = _take_fit(scored, ranked, count, unfit)
    if len(worst) < count:
        raise GateError(
            f"only {len(worst)} candidates are left beside the {count} curated ones (with a value of {signal}, and fit to be trained "
            "on), too few for as many of the worst; curate fewer (curate.top), or give more documents"
        )
    drawn = worst if size is None else _shuffle(worst, random_seed)[:size]
    yield from _split(scored, drawn, refused, f"not among the {len(drawn)} drawn of the {count} worst by {signal}")


def _shuffle(ids: Iterable[str], random_seed: int) -> list[str]:
    return [row_id for _, row_id in sorted((derive_seed(random_seed, "control", row_id), row_id) for row_id in ids)]


def _rank_worst(scored: Rows, signal: str, curated: Collection[str]) -> list[str]:
    valued = (row for row in scored() if signal in row.scores and row.id not in curated)
    ranked = sorted((direct_score(signal, row.scores[signal]), row.id, _digest(row.instruction)) for row in valued)
    first: dict[bytes, str] = {}
    for _, row_id, digest in ranked:
        first.setdefault(digest, row_id)
    return list(first.values())


def _take_fit(scored: Rows, ranked: Sequence[str], count: int, unfit: Unfit) -> tuple[list[str], dict[str, Rejected]]:
    """Return the first `count` ids whose candidates are fit, and those passed over; only rows in question are looked at."""
    refused: dict[str, Rejected] = {}
    place = 0
    while place < min(count + len(refused), len(ranked)):
        asked = set(ranked[place : count + len(refused)])
        place = count + len(refused)
        refused.update((row.id, why) for row in scored() if row.id in asked and (why := unfit(row)) is not None)
    return [row_id for row_id in ranked[:place] if row_id not in refused], refused


def _split(
    scored: Rows, chosen: Collection[str], refused: dict[str, Rejected], why_not: str
) -> Iterator[Scored | Rejected]:
    taken = set(chosen)
    for row in scored():
        if row.id in taken:
            yield row
        else:
            yield refused.get(row.id) or Rejected(id=row.id, reason="not_drawn", detail=why_not)


def _digest(instruction: str) -> bytes:
    return hashlib.sha256(normalise(instruction).encode("utf-8", "surrogatepass")).digest()[:16]
