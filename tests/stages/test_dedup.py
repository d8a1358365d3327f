"""Dedup: the first of each text stays, and a sample does not depend on what came before or beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from humpback.records import Rejected, Segment
from humpback.stages.dedup import dedup

Make = Callable[..., Segment]


def _dedup(
    segments: Sequence[Segment], sample: int | None = None, random_seed: int = 0
) -> tuple[list[str], Counter[str]]:
    """Return the kept ids, and how often each reason was given."""
    found = list(dedup(lambda: iter(segments), sample=sample, random_seed=random_seed))
    assert [row.id for row in found] == [segment.id for segment in segments]
    kept = [row.id for row in found if isinstance(row, Segment)]
    return kept, Counter(row.reason for row in found if isinstance(row, Rejected))


def test_first_of_equal_texts_stays(make_segment: Make) -> None:
    segments = [make_segment("One text.", "a"), make_segment("Another."), make_segment("one  TEXT", "b")]
    assert _dedup(segments) == ([segments[0].id, segments[1].id], Counter(duplicate=1))


@pytest.mark.parametrize("sample", [1, 7, 29])
def test_sample_has_exactly_its_size(make_segment: Make, sample: int) -> None:
    segments = [make_segment(f"Text number {n}") for n in range(30)]
    kept, reasons = _dedup(segments, sample)
    assert len(kept) == sample
    assert reasons == Counter(not_sampled=30 - sample)


@pytest.mark.parametrize("sample", [30, 31, 1000])
def test_sample_that_is_not_smaller_keeps_all(make_segment: Make, sample: int) -> None:
    segments = [make_segment(f"Text number {n}") for n in range(30)]
    assert len(_dedup(segments, sample)[0]) == 30


def test_duplicates_take_no_place_in_the_sample(make_segment: Make) -> None:
    segments = [make_segment(f"Text number {n}", str(copy)) for n in range(10) for copy in range(3)]
    kept, reasons = _dedup(segments, 10)
    assert len(kept) == 10
    assert reasons == Counter(duplicate=20)
    assert _dedup(segments, 4)[1] == Counter(duplicate=20, not_sampled=6)


def test_sample_is_drawn_by_content_and_not_by_place(make_segment: Make) -> None:
    segments = [make_segment(f"Text number {n}") for n in range(30)]
    kept, _ = _dedup(segments, 8)
    assert sorted(_dedup(segments[::-1], 8)[0]) == sorted(kept)
    assert kept != [segment.id for segment in segments[:8]]
    larger, _ = _dedup(segments, 12)
    assert set(kept) < set(larger)
    assert _dedup(segments, 8, random_seed=1)[0] != kept


def test_no_segments_give_no_segments() -> None:
    assert _dedup([], 5) == ([], Counter())
