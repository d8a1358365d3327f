"""Statistics: the AUC is the one of the definition, and an interval is given only where there is one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.evaluation.stats import MIN_PAIRS, auc, bootstrap_auc, bootstrap_ratio, bootstrap_ratio_difference

DRAW: dict[str, Any] = {"resamples": 400, "confidence": 0.95, "seed": 1}
VALUES = st.lists(st.integers(-3, 3) | st.floats(-2, 2), min_size=1, max_size=12)


def _noise(seed: int, size: int = 60) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(size=size)]


@given(VALUES, VALUES)
def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_as_half(
    true: list[float], corrupted: list[float]
) -> None:
    wins = sum(1.0 if t > c else 0.5 if t == c else 0.0 for t, c in itertools.product(true, corrupted))
    found = auc(np.array(true, dtype=float), np.array(corrupted, dtype=float))
    assert found == pytest.approx(wins / (len(true) * len(corrupted)))


def test_auc_works_along_an_axis() -> None:
    true, corrupted = np.array([_noise(1, 9), _noise(2, 9)]), np.array([_noise(3, 7), _noise(4, 7)])
    rows = [auc(t, c) for t, c in zip(true, corrupted, strict=True)]
    assert auc(true, corrupted, axis=-1) == pytest.approx(rows)
    assert auc(true.T, corrupted.T, axis=0) == pytest.approx(rows)


def test_mean_over_kinds_is_the_mean_of_their_aucs() -> None:
    true, first, second = _noise(1), _noise(2), [value - 1 for value in _noise(3)]
    parts = [bootstrap_auc(true, [kind], **DRAW).value for kind in (first, second)]
    whole = bootstrap_auc(true, [first, second], **DRAW)
    assert whole.value == pytest.approx(sum(parts) / 2)
    assert whole.n == 60


def test_interval_holds_its_value_and_widens_with_confidence() -> None:
    arguments = (_noise(1), [[value - 0.5 for value in _noise(2)]])
    narrow, wide = (bootstrap_auc(*arguments, **{**DRAW, "confidence": level}) for level in (0.8, 0.99))
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low is not None
    assert wide.high is not None
    assert 0.0 <= wide.low < narrow.low < narrow.value < narrow.high < wide.high <= 1.0


def test_interval_is_as_wide_as_theory_says() -> None:
    # the mean of n draws from a normal distribution has a standard error of 1/sqrt(n)
    interval = bootstrap_ratio(_noise(5, 400), [1] * 400, **{**DRAW, "resamples": 2000})
    assert interval.low is not None
    assert interval.high is not None
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 / 20, rel=0.15)


def test_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    arguments = (_noise(1), [_noise(2)])
    assert bootstrap_auc(*arguments, **DRAW) == bootstrap_auc(*arguments, **DRAW)
    assert bootstrap_auc(*arguments, **DRAW) != bootstrap_auc(*arguments, **{**DRAW, "seed": 2})


@pytest.mark.parametrize(("n", "given"), [(1, False), (MIN_PAIRS - 1, False), (MIN_PAIRS, True)])
def test_too_few_pairs_give_a_value_and_no_interval(n: int, given: bool) -> None:
    for interval in (
        bootstrap_auc(_noise(1, n), [_noise(2, n)], **DRAW),
        bootstrap_ratio(_noise(1, n), [1] * n, **DRAW),
        bootstrap_ratio_difference(_noise(1, n), _noise(2, n), [1] * n, **DRAW),
    ):
        assert interval.n == n
        assert (interval.low is not None, interval.high is not None) == (given, given)


def test_perfect_separation_is_certain() -> None:
    interval = bootstrap_auc([float(n) for n in range(10)], [[-1.0] * 10], **DRAW)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_signal_without_information_is_a_coin() -> None:
    interval = bootstrap_auc([3.0] * 20, [[3.0] * 20], **DRAW)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_pair_and_its_corruptions_are_resampled_together() -> None:
    # every true pair beats its own corruption by little and differs from the others by much
    true = [10.0 * n for n in range(30)]
    corrupted = [value - 0.001 for value in true]
    together = bootstrap_auc(true, [corrupted], **DRAW)
    apart = bootstrap_auc(true, [corrupted[::-1]], **DRAW)
    assert together.low is not None
    assert together.high is not None
    assert apart.low is not None
    assert apart.high is not None
    assert together.high - together.low < (apart.high - apart.low) / 3


def test_ratio_weights_rows_by_their_counts() -> None:
    interval = bootstrap_ratio([10.0, 90.0] * 5, [1, 99] * 5, **DRAW)
    assert interval.value == pytest.approx(1.0)


def test_difference_is_paired_and_negative_when_the_first_is_lower() -> None:
    worse = [value + 20 for value in _noise(1)]
    better = [value - 0.01 for value in worse]
    interval = bootstrap_ratio_difference(better, worse, [2] * 60, **DRAW)
    assert interval.value == pytest.approx(-0.005)
    assert interval.low == pytest.approx(-0.005)
    assert interval.high == pytest.approx(-0.005)
    same = bootstrap_ratio_difference(worse, worse, [2] * 60, **DRAW)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
