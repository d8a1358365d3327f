"""Kappa, weighted shares and weighted AUC against values worked out by hand or by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from humpback.evaluation.agreement import cohen_kappa, weighted_auc, weighted_share
from humpback.evaluation.stats import auc

DRAW = {"resamples": 200, "confidence": 0.95, "seed": 1}


def test_kappa_of_a_worked_example() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.70, expected 0.50
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)


def test_kappa_is_one_for_the_same_and_about_zero_for_chance() -> None:
    dice = np.random.default_rng(0)
    labels = dice.integers(1, 6, size=2000).tolist()
    assert cohen_kappa(labels, labels, ordinal=True) == 1
    assert abs(cohen_kappa(labels, dice.permutation(labels).tolist(), ordinal=True) or 0) < 0.06


def test_quadratic_kappa_forgives_the_near_more_than_the_far() -> None:
    first, near, far = [1, 2, 3, 4, 5] * 4, [1, 2, 3, 4, 4] * 4, [1, 2, 3, 4, 1] * 4
    close, apart = (cohen_kappa(first, second, ordinal=True) for second in (near, far))
    assert close is not None
    assert apart is not None
    assert close > 0.9 > apart


def test_kappa_is_undefined_when_both_say_one_thing_always() -> None:
    assert cohen_kappa([True] * 9, [True] * 9) is None


def test_share_with_equal_weights_has_the_exact_binomial_interval() -> None:
    found = weighted_share([True] * 18 + [False] * 2, [3.0] * 20, confidence=0.95)
    exact = binomtest(18, 20).proportion_ci(0.95, method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((0.9, exact.low, exact.high))


def test_share_weighs_and_unequal_weights_widen_the_interval() -> None:
    even = weighted_share([True, False] * 10, [1.0] * 20, confidence=0.95)
    uneven = weighted_share([True, False] * 10, [9.0, 1.0] * 10, confidence=0.95)
    assert uneven.value == pytest.approx(0.9)
    assert uneven.low is not None
    assert even.low is not None
    sure = weighted_share([True] * 5, [1.0] * 5, confidence=0.95)
    assert (sure.value, sure.high) == (1, 1)
    assert sure.low == pytest.approx(binomtest(5, 5).proportion_ci(0.95, method="exact").low)
    assert (uneven.high or 0) - uneven.low > 0.3


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_interval_of_a_stratified_share_holds_the_truth_as_often_as_it_says(truth: float) -> None:
    # two strata, one nine times the other, ten labels of each
    dice, held = np.random.default_rng(3), 0
    for _ in range(300):
        hits = (dice.random(20) < truth).tolist()
        found = weighted_share(hits, [9.0] * 10 + [1.0] * 10, confidence=0.95)
        held += (found.low or 0) <= truth <= (found.high or 1)
    assert held >= 0.94 * 300


def test_auc_with_equal_weights_is_the_plain_one() -> None:
    dice = np.random.default_rng(2)
    good, bad = np.round(dice.normal(1, 1, 40), 1), np.round(dice.normal(0, 1, 30), 1)
    found = weighted_auc([*good, *bad], [True] * 40 + [False] * 30, [2.0] * 70, **DRAW)
    assert found is not None
    assert found.value == pytest.approx(float(auc(good, bad)))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_auc_counts_a_pair_for_as_many_as_it_speaks_for() -> None:
    # the good pair beats the bad one of weight 3 and loses to the one of weight 1
    found = weighted_auc([2.0, 1.0, 3.0], [True, False, False], [1.0, 3.0, 1.0], **DRAW)
    assert found is not None
    assert (found.value, found.low) == (0.75, None)


def test_auc_without_a_bad_pair_is_no_value() -> None:
    assert weighted_auc([1.0, 2.0], [True, True], [1.0, 1.0], **DRAW) is None
