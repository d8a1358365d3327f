"""Control: as many as were curated, at random, the same ones whatever their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from humpback.records import Rejected, Scored
from humpback.stages.control import draw_control

Make = Callable[..., Scored]


def _draw(rows: Sequence[Scored], count: int, random_seed: int = 0) -> list[str]:
    found = list(draw_control(lambda: iter(rows), count, random_seed=random_seed))
    assert [row.id for row in found] == [row.id for row in rows]
    assert {row.reason for row in found if isinstance(row, Rejected)} <= {"not_drawn"}
    return [row.id for row in found if isinstance(row, Scored)]


@pytest.mark.parametrize(("count", "drawn"), [(0, 0), (1, 1), (7, 7), (20, 20), (99, 20)])
def test_exactly_as_many_are_drawn_as_there_are(make_scored: Make, count: int, drawn: int) -> None:
    assert len(_draw([make_scored(f"{n:02d}", rating=5.0) for n in range(20)], count)) == drawn


def test_draw_depends_on_ids_and_seed_and_not_on_order_or_scores(make_scored: Make) -> None:
    rows = [make_scored(f"{n:02d}", rating=float(n % 5)) for n in range(20)]
    drawn = _draw(rows, 7)
    assert sorted(_draw(rows[::-1], 7)) == drawn
    assert _draw([make_scored(row.id) for row in rows], 7) == drawn  # rows without a value may be drawn
    assert _draw(rows, 7, random_seed=1) != drawn
    assert set(drawn) < set(_draw(rows, 12))


def test_rejected_row_says_how_many_were_drawn(make_scored: Make) -> None:
    rows = [make_scored(f"{n:02d}") for n in range(4)]
    details = [row.detail for row in draw_control(lambda: iter(rows), 1, random_seed=0) if isinstance(row, Rejected)]
    assert details == ["1 of 4 candidates were drawn"] * 3
