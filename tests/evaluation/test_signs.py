"""A gain is a stall only where one worth having is ruled out; a look that was not made is no good news."""

from __future__ import annotations

import pytest

from humpback.evaluation.signs import State, judge_gain, worst_state
from humpback.evaluation.stats import Interval


@pytest.mark.parametrize(
    ("low", "high", "state", "word"),
    [
        (-0.02, -0.001, "not found", "helps"),
        (0.001, 0.02, "found", "falls"),
        (-0.004, 0.004, "found", "stalls"),
        (-0.03, 0.004, "cannot tell", "the interval holds zero and gains worth having"),
        (None, None, "not checked", "7 are too few for an interval"),
    ],
)
def test_interval_that_holds_zero_is_a_stall_only_where_it_rules_out_a_gain(
    low: float | None, high: float | None, state: str, word: str
) -> None:
    assert judge_gain(Interval(value=0.0, low=low, high=high, n=7), least=0.005) == (state, word)


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (["not found", "found", "not checked"], "found"),
        (["not found", "not checked"], "cannot tell"),
        (["not checked", "not checked"], "not checked"),
        (["not found", "cannot tell"], "cannot tell"),
        (["not found", "not found"], "not found"),
        ([], "not checked"),
    ],
)
def test_look_that_was_not_made_leaves_the_whole_open(states: list[State], worst: str) -> None:
    assert worst_state(states) == worst
