"""Control: as many candidates as the last iteration curated, drawn at random. What curation is worth is seen against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from humpback.records import Rejected, Scored
from humpback.store.fingerprint import derive_seed

__all__ = ["draw_control"]


def draw_control(
    scored: Callable[[], Iterable[Scored]], count: int, *, random_seed: int
) -> Iterator[Scored | Rejected]:
    """Yield `count` candidates by the hash of their id; `scored` is called twice."""
    draws = sorted((derive_seed(random_seed, "control", row.id), row.id) for row in scored())
    chosen = {row_id for _, row_id in draws[:count]}
    for row in scored():
        if row.id in chosen:
            yield row
        else:
            yield Rejected(id=row.id, reason="not_drawn", detail=f"{count} of {len(draws)} candidates were drawn")
