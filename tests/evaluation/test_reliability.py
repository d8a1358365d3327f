"""Agreement between raters, against published and hand-made values; intervals only where there is something to draw from."""

from __future__ import annotations

import numpy as np
import pytest

from humpback.evaluation.agreement import cohen_kappa
from humpback.evaluation.reliability import Draw, compare_raters, correlate_raters, intraclass, to_levels

DRAW = Draw(resamples=200, confidence=0.95, seed=1)
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=np.float64
)
"""Shrout and Fleiss (1979), table 2: six targets, four judges; their table 4 gives ICC(2,1) = .29 and ICC(3,1) = .71."""


def test_icc_is_that_of_the_published_example() -> None:
    agreement, consistency = intraclass(SHROUT_FLEISS, range(6), DRAW)
    assert (round(agreement.value or 0, 2), round(consistency.value or 0, 2)) == (0.29, 0.71)
    assert agreement.value == pytest.approx(0.2898, abs=5e-5)
    assert consistency.value == pytest.approx(0.7148, abs=5e-5)


def test_icc_of_six_items_has_no_interval_and_says_why() -> None:
    agreement, _ = intraclass(SHROUT_FLEISS, range(6), DRAW)
    assert (agreement.low, agreement.n) == (None, 6)
    assert agreement.reason == "6 items are too few for an interval; 8 are needed"


def test_a_constant_distance_between_raters_costs_agreement_and_not_consistency() -> None:
    scores = np.arange(1.0, 13.0)
    agreement, consistency = intraclass(np.stack([scores, scores + 3], axis=1), range(12), DRAW)
    assert consistency.value == pytest.approx(1)
    assert agreement.value is not None
    assert agreement.value < 0.8


def test_icc_leaves_out_items_that_a_rater_did_not_rate() -> None:
    table = np.vstack([SHROUT_FLEISS, [[np.nan, 1, 1, 1], [5, 5, np.nan, 5]]])
    agreement, _ = intraclass(table, range(8), DRAW)
    assert (agreement.n, round(agreement.value or 0, 2)) == (6, 0.29)


@pytest.mark.parametrize("table", [np.full((10, 2), 3.0), np.full((1, 2), 3.0), np.full((10, 1), 3.0)])
def test_icc_without_spread_or_without_two_of_each_is_refused_with_a_reason(table: np.ndarray) -> None:
    for figure in intraclass(table, range(len(table)), DRAW):
        assert figure.value is None
        assert figure.reason


def test_two_raters_are_compared_by_whole_scores_of_items_that_both_rated() -> None:
    first = np.array([1.2, 2.0, 3.4, 4.5, 5.0, 3.0, 2.2, 1.0, 4.0, np.nan])
    second = np.array([1.0, 2.4, 3.0, 5.0, 5.0, 1.0, 2.0, 1.4, 4.4, 5.0])
    found = compare_raters(first, second, range(10), DRAW)
    whole = [1, 2, 3, 5, 5, 3, 2, 1, 4], [1, 2, 3, 5, 5, 1, 2, 1, 4]
    assert to_levels(first[:9]) == whole[0]
    assert found.kappa.value == cohen_kappa(*whole)
    assert found.weighted_kappa.value == cohen_kappa(*whole, ordinal=True)
    assert found.weighted_kappa.n == 9
    for figure in found:
        assert figure.low is not None
        assert figure.low <= (figure.value or 0) <= (figure.high or 0)


def test_raters_that_say_one_thing_only_have_no_kappa_and_no_rank() -> None:
    same = np.full(20, 3.0)
    found = compare_raters(same, same, range(20), DRAW)
    assert [figure.value for figure in found] == [None] * 3
    assert "chance alone" in (found.kappa.reason or "")
    assert "no rank" in (found.spearman.reason or "")


def test_interval_is_refused_where_most_resamples_leave_the_figure_undefined() -> None:
    nearly = np.array([3.0] * 19 + [5.0])
    figure = correlate_raters(nearly, np.arange(20.0), range(20), DRAW)
    assert figure.value is not None
    assert figure.low is None
    assert "resamples leave it undefined" in (figure.reason or "")


def test_items_of_one_group_are_drawn_together_and_counted_once() -> None:
    dice = np.random.default_rng(0)
    first = np.repeat(dice.normal(3, 1, 10), 4)  # four copies of each item say no more than one
    second = np.repeat(np.repeat(dice.normal(3, 1, 10), 4), 1)
    apart = correlate_raters(first, second, range(40), DRAW)
    together = correlate_raters(first, second, np.repeat(np.arange(10), 4).tolist(), DRAW)
    assert apart.value == together.value
    assert apart.low is not None
    assert together.low is not None
    assert (together.high or 0) - together.low > 1.3 * ((apart.high or 0) - apart.low)
    few = correlate_raters(first, second, np.repeat(np.arange(5), 8).tolist(), DRAW)
    assert few.reason == "5 instructions are too few for an interval; 8 are needed"
