"""Dedup: the first of each text stays, and a sample is drawn by content hash. Global over the corpus.

Memory is bounded by one 16-byte digest per distinct segment (about 100 MB per million in a Python set) and the sample's size.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from humpback.corpus.dedup import ExactDedup
from humpback.records import Rejected, Segment
from humpback.stages.rejecting import reject
from humpback.store.fingerprint import derive_seed

__all__ = ["dedup"]


def dedup(
    segments: Callable[[], Iterable[Segment]], *, sample: int | None, random_seed: int
) -> Iterator[Segment | Rejected]:
    """Yield each segment once, or why not; `segments` is called once per pass over the input (two with a sample)."""
    cutoff = None if sample is None else _cutoff(segments(), sample, random_seed)
    seen = ExactDedup()
    for segment in segments():
        if not seen.first(segment.text):
            yield reject(segment, "duplicate", "the same text came earlier in the corpus")
        elif cutoff is not None and derive_seed(random_seed, "sample", segment.id) > cutoff:
            yield Rejected(id=segment.id, reason="not_sampled", detail=f"corpus.sample={sample}")
        else:
            yield segment


def _cutoff(segments: Iterable[Segment], sample: int, random_seed: int) -> int | None:
    """Return the largest draw among the `sample` smallest, over distinct texts; None when all fit."""
    seen = ExactDedup()
    largest: list[int] = []  # negated: a heap whose top is the largest draw kept
    for segment in segments:
        if seen.first(segment.text):
            draw = -derive_seed(random_seed, "sample", segment.id)
            if len(largest) < sample:
                heapq.heappush(largest, draw)
            else:
                heapq.heappushpop(largest, draw)
    return -largest[0] if len(largest) == sample else None
