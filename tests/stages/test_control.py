"""Control: as many as were curated, at random or the worst, the same ones whatever their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from humpback.errors import GateError
from humpback.records import Rejected, Scored
from humpback.stages.control import draw_control, draw_worst

Make = Callable[..., Scored]


def _fit(row: Scored) -> Rejected | None:
    return None


def _refuse(*ids: str) -> Callable[[Scored], Rejected | None]:
    return lambda row: Rejected(id=row.id, reason="target_cut", detail="too long") if row.id in ids else None


def _draw(
    rows: Sequence[Scored], count: int, random_seed: int = 0, unfit: Callable[[Scored], Rejected | None] = _fit
) -> list[str]:
    found = list(draw_control(lambda: iter(rows), count, random_seed=random_seed, unfit=unfit))
    assert [row.id for row in found] == [row.id for row in rows]
    assert {row.reason for row in found if isinstance(row, Rejected)} <= {"not_drawn", "target_cut"}
    return [row.id for row in found if isinstance(row, Scored)]


def _draw_worst(
    rows: Sequence[Scored],
    count: int,
    curated: Sequence[str] = (),
    size: int | None = None,
    unfit: Callable[[Scored], Rejected | None] = _fit,
) -> list[str]:
    found = list(
        draw_worst(lambda: iter(rows), count, signal="rating", curated=curated, size=size, random_seed=0, unfit=unfit)
    )
    assert [row.id for row in found] == [row.id for row in rows]
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


def test_what_cannot_be_trained_on_is_passed_over_and_others_take_its_place(make_scored: Make) -> None:
    rows = [make_scored(f"{n:02d}", rating=5.0) for n in range(20)]
    drawn = _draw(rows, 7)
    refused = drawn[:3]
    others = _draw(rows, 7, unfit=_refuse(*refused))
    assert len(others) == 7
    assert set(drawn) - set(refused) < set(others)
    assert len(_draw(rows, 99, unfit=_refuse(*refused))) == 17


def test_rejected_row_says_how_many_were_drawn(make_scored: Make) -> None:
    rows = [make_scored(f"{n:02d}") for n in range(4)]
    found = draw_control(lambda: iter(rows), 1, random_seed=0, unfit=_fit)
    assert [row.detail for row in found if isinstance(row, Rejected)] == ["1 of 4 candidates were drawn"] * 3


def test_worst_are_the_lowest_scored_that_have_a_value_and_were_not_curated(make_scored: Make) -> None:
    rows = [make_scored("none"), *(make_scored(f"{n}", rating=float(n)) for n in (4, 1, 3, 2, 5))]
    assert _draw_worst(rows, 2) == ["1", "2"]
    assert _draw_worst(rows, 2, curated=["1"]) == ["3", "2"]
    assert _draw_worst(rows, 2, unfit=_refuse("2")) == ["1", "3"]


def test_a_smaller_draw_of_the_worst_lies_in_the_worst(make_scored: Make) -> None:
    rows = [make_scored(f"{n:02d}", rating=float(n)) for n in range(20)]
    drawn = [_draw_worst(rows, 8, size=size) for size in (3, 5, 8)]
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2]) == {f"{n:02d}" for n in range(8)}
    assert drawn[0] != ["00", "01", "02"]  # as of the curated, any of them


def test_worst_hold_no_instruction_twice(make_scored: Make) -> None:
    rows = [
        make_scored(f"{n}", instruction="The same?" if n < 3 else f"Number {n}?", rating=float(n)) for n in range(6)
    ]
    assert _draw_worst(rows, 2) == ["0", "3"]


def test_too_few_beside_the_curated_are_refused(make_scored: Make) -> None:
    rows = [make_scored(f"{n}", rating=float(n)) for n in range(6)]
    with pytest.raises(GateError, match=r"only 2 candidates are left beside the 4 curated .* curate fewer"):
        _draw_worst(rows, 4, curated=["2", "3", "4", "5"])
