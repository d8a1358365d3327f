"""Curate: what is kept, in which order reasons count, and that no value is no low value."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from humpback.errors import GateError
from humpback.recipe import CurateSettings
from humpback.records import Rejected, Scored
from humpback.stages.curate import Decision, curate, decide

Make = Callable[..., Scored]


def _threshold(value: float) -> Decision:
    return Decision(signal="rating", policy="threshold", value=value, why="", warnings=())


def _top(value: float) -> Decision:
    return Decision(signal="lift", policy="top", value=value, why="", warnings=())


def _curate(rows: Sequence[Scored], decision: Decision) -> tuple[list[str], dict[str, str]]:
    """Return the kept ids, and the others with their reasons."""
    found = list(curate(lambda: iter(rows), decision))
    assert [row.id for row in found] == [row.id for row in rows]  # every row has one outcome, in order
    rejected = {row.id: row.reason for row in found if isinstance(row, Rejected)}
    assert all(not row.failed for row in found if isinstance(row, Rejected))
    return [row.id for row in found if isinstance(row, Scored)], rejected


# -- selection -----------------------------------------------------------------------------------------------------------


def test_threshold_keeps_what_reaches_it(make_scored: Make) -> None:
    rows = [make_scored("a", rating=4.5), make_scored("b", rating=4.4999), make_scored("c", rating=5.0)]
    assert _curate(rows, _threshold(4.5)) == (["a", "c"], {"b": "below_threshold"})


def test_row_without_a_value_is_counted_apart_and_with_its_reason(make_scored: Make) -> None:
    rows = [
        make_scored("a", rating=1.0),
        make_scored("b", missing="unparsed: label mass 0.1 is below 0.5"),
        make_scored("c"),
    ]
    assert _curate(rows, _threshold(4.5)) == (
        [],
        {
            "a": "below_threshold",
            "b": "no_rating_unparsed",
            "c": "no_rating_not_computed",
        },
    )
    details = {row.id: row.detail for row in curate(lambda: iter(rows), _threshold(4.5)) if isinstance(row, Rejected)}
    assert details == {
        "a": "rating=1.000 is below 4.5",
        "b": "unparsed: label mass 0.1 is below 0.5",
        "c": "not_computed: it is not among score.signals",
    }


def test_row_that_an_engine_failed_on_is_failed_and_not_rejected(make_scored: Make) -> None:
    (row,) = curate(lambda: iter([make_scored("a", missing="engine_error: out of memory")]), _threshold(4))
    assert isinstance(row, Rejected)
    assert (row.failed, row.reason) == (True, "no_rating_engine_error")


def test_value_of_another_signal_does_not_help(make_scored: Make) -> None:
    assert _curate([make_scored("a", lift=5.0)], _threshold(1)) == ([], {"a": "no_rating_not_computed"})


@pytest.mark.parametrize(
    ("value", "kept"), [(0.4, 4), (0.45, 5), (0.05, 1), (0.01, 1), (1.0, 10), (2.0, 2), (50.0, 10)]
)
def test_top_is_a_share_up_to_one_and_a_count_above(make_scored: Make, value: float, kept: int) -> None:
    rows = [make_scored(f"{n}", lift=float(n)) for n in range(10)]
    ids, rejected = _curate(rows, _top(value))
    assert ids == [str(n) for n in range(10 - kept, 10)]
    assert set(rejected.values()) <= {"below_top"}


def test_share_is_taken_of_the_rows_with_a_value(make_scored: Make) -> None:
    rows = [make_scored(f"{n}", lift=float(n)) for n in range(4)] + [make_scored(f"none-{n}") for n in range(6)]
    ids, rejected = _curate(rows, _top(0.5))
    assert ids == ["2", "3"]
    assert sum(reason == "no_lift_not_computed" for reason in rejected.values()) == 6


def test_ties_at_the_cut_go_by_id_whatever_the_order(make_scored: Make) -> None:
    rows = [make_scored(name, lift=1.0) for name in "dbca"]
    for order in (rows, rows[::-1]):
        ids, rejected = _curate(order, _top(2.0))
        assert sorted(ids) == ["a", "b"]
        assert rejected == {"c": "below_top", "d": "below_top"}


def test_lower_is_below_even_when_negative(make_scored: Make) -> None:
    rows = [make_scored("a", lift=-3.0), make_scored("b", lift=-0.5), make_scored("c", lift=-1.0)]
    assert _curate(rows, _top(1 / 3))[0] == ["b"]


def test_no_rows_give_no_rows(make_scored: Make) -> None:
    assert _curate([], _top(0.4)) == ([], {})
    assert _curate([make_scored("a")], _top(0.4)) == ([], {"a": "no_lift_not_computed"})


# -- duplicates ----------------------------------------------------------------------------------------------------------


def test_of_equal_instructions_the_best_scored_stays(make_scored: Make) -> None:
    rows = [
        make_scored("a", "How does bread rise?", rating=4.6),
        make_scored("b", "how does BREAD rise", rating=4.9),
        make_scored("c", "How does bread rise!", rating=2.0),
        make_scored("d", "How does bread sink?", rating=4.7),
    ]
    assert _curate(rows, _threshold(4.5)) == (["b", "d"], {"a": "duplicate_instruction", "c": "below_threshold"})


def test_duplicate_does_not_take_a_place_among_the_top(make_scored: Make) -> None:
    rows = [
        make_scored("a", "Same?", lift=4.0),
        make_scored("b", "Same?", lift=3.0),
        make_scored("c", lift=2.0),
        make_scored("d", lift=1.0),
    ]
    assert _curate(rows, _top(2.0)) == (["a", "c"], {"b": "duplicate_instruction", "d": "below_top"})


@pytest.mark.parametrize(
    ("one", "other"),
    [("面包怎么发酵？", "河流怎么流动？"), ("कि?", "का?"), ("???", "!!!"), ("What is 1+1?", "What is 11?")],
)
def test_instructions_that_differ_are_told_apart_in_every_script(make_scored: Make, one: str, other: str) -> None:
    rows = [make_scored("a", one, rating=5.0), make_scored("b", other, rating=5.0)]
    assert _curate(rows, _threshold(4.5))[0] == ["a", "b"]


def test_rejected_row_keeps_its_content_and_scores(make_scored: Make) -> None:
    (rejected,) = curate(lambda: iter([make_scored("a", response="Text.", rating=1.5)]), _threshold(4))
    assert isinstance(rejected, Rejected)
    row = json.loads(rejected.row)
    assert (row["response"], row["scores"], row["segment_id"]) == ("Text.", {"rating": 1.5}, "s")


# -- decision ------------------------------------------------------------------------------------------------------------


def _verdict(**auc: tuple[float, float | None] | None) -> dict[str, Any]:
    """Return a verdict with each signal's overall AUC and its lower bound, best first."""
    signals = [
        {"signal": name, "auc": {"all": {"value": pair[0], "low": pair[1], "high": None, "n": 20}} if pair else {}}
        for name, pair in auc.items()
    ]
    best = next((name for name, pair in auc.items() if pair), None)
    return {"best": best, "best_auc": auc[best][0] if best else None, "notes": ["said before"], "signals": signals}  # type: ignore[index]


def test_auto_takes_the_best_audited_signal() -> None:
    rated = decide(CurateSettings(threshold=4.0), _verdict(rating=(0.9, 0.8), forward_lift=(0.8, 0.7)))
    assert (rated.signal, rated.policy, rated.value, rated.warnings) == ("rating", "threshold", 4.0, ())
    assert "0.90" in rated.why
    lifted = decide(CurateSettings(top=0.3), _verdict(forward_lift=(0.9, 0.8), rating=(0.8, 0.7)))
    assert (lifted.signal, lifted.policy, lifted.value, lifted.warnings) == ("forward_lift", "top", 0.3, ())


def test_signal_of_the_recipe_is_taken_whatever_the_audit_says() -> None:
    decision = decide(CurateSettings(signal="rating"), _verdict(forward_lift=(0.9, 0.8), rating=(0.6, 0.55)))
    assert (decision.signal, decision.why) == ("rating", "set in the recipe")


@pytest.mark.parametrize(("value", "low"), [(0.6, 0.45), (0.5, 0.5), (0.4, None)])
def test_signal_no_better_than_a_coin_is_warned_of(value: float, low: float | None) -> None:
    (warning,) = decide(CurateSettings(), _verdict(rating=(value, low))).warnings
    assert warning.startswith(f"rating is no better than a coin on held-out pairs (AUC {value:.2f})")


def test_chosen_signal_without_an_audit_is_warned_of() -> None:
    (warning,) = decide(CurateSettings(signal="rating"), _verdict(forward_lift=(0.9, 0.8), rating=None)).warnings
    assert warning == "rating has no value on the held-out pairs: it is not audited"


def test_auto_without_any_audited_signal_is_refused() -> None:
    with pytest.raises(GateError, match=r"no signal has a value on the held-out pairs.*: said before"):
        decide(CurateSettings(), _verdict(rating=None))
