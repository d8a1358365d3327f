"""The promise of a precision: it is kept as often as it says, and refused with a number where it cannot be made."""

from __future__ import annotations

import numpy as np
import pytest

from humpback.evaluation.precision import (
    KEPT_SHARES,
    estimate_prevalence,
    measure_operating_points,
    promise_precision,
)

KINDS = 12


def _scores(pairs: int, seed: int, gap: float, alike: float) -> tuple[list[float], list[list[float]]]:
    """True pairs above corrupted ones by `gap`; corruptions of one pair share `alike` of their spread."""
    draw = np.random.default_rng(seed)
    true = draw.normal(gap, 1.0, pairs)
    own = draw.normal(0.0, 1.0, (pairs, 1))
    corrupted = alike * own + np.sqrt(1 - alike**2) * draw.normal(0.0, 1.0, (pairs, KINDS))
    return true.tolist(), corrupted.tolist()


@pytest.mark.parametrize("alike", [0.0, 0.7])
@pytest.mark.parametrize("prevalence", [0.5, 0.2])
def test_promise_is_broken_in_at_most_one_of_twenty_splits(alike: float, prevalence: float) -> None:
    gap, wanted = 2.5, 0.8
    true, corrupted = _scores(40_000, 99, gap, alike)  # stands for all candidates there will ever be
    everyone, spoilt = np.array(true), np.array(corrupted).ravel()
    promised = broken = 0
    for seed in range(100):
        points = measure_operating_points(*_scores(100, seed, gap, alike), confidence=0.95)
        promise = promise_precision(points, wanted, prevalence)
        assert promise is not None
        if promise.kept_promise:
            promised += 1
            good = prevalence * (everyone >= promise.point.threshold).mean()
            bad = (1 - prevalence) * (spoilt >= promise.point.threshold).mean()
            broken += good / (good + bad) < wanted
    assert promised > 25  # a promise that is never made is never broken
    assert broken <= 0.05 * 100


def test_lowest_cut_off_that_keeps_the_promise_is_taken() -> None:
    points = measure_operating_points(*_scores(400, 0, 4.0, 0.0), confidence=0.95)
    strict, lenient = (promise_precision(points, wanted, 0.5) for wanted in (0.95, 0.6))
    assert strict is not None
    assert lenient is not None
    assert strict.kept_promise
    assert lenient.kept_promise
    assert lenient.point.threshold <= strict.point.threshold
    assert lenient.point.kept >= strict.point.kept


def test_precision_that_cannot_be_promised_comes_with_the_best_that_can() -> None:
    points = measure_operating_points(*_scores(60, 1, 0.3, 0.0), confidence=0.95)
    promise = promise_precision(points, 0.9, 0.5)
    assert promise is not None
    assert not promise.kept_promise
    assert promise.precision_low == max(point.precision_low(0.5) for point in points) < 0.9


def test_fewer_good_candidates_make_every_promise_harder() -> None:
    points = measure_operating_points(*_scores(200, 2, 2.0, 0.0), confidence=0.95)
    for point in points:
        assert point.precision_low(0.1) < point.precision_low(0.5) < point.precision_low(0.9)


def test_bounds_hold_the_estimates_and_narrow_with_more_pairs() -> None:
    few, many = (measure_operating_points(*_scores(n, 3, 2.0, 0.3), confidence=0.95) for n in (30, 3000))
    for point in (*few, *many):
        assert point.kept_low < point.kept
        assert point.passed < point.passed_high
    assert np.mean([p.passed_high - p.passed for p in many]) < np.mean([p.passed_high - p.passed for p in few]) / 3
    assert len(few) == len(KEPT_SHARES)


def test_nothing_passed_by_few_pairs_is_no_proof_that_nothing_passes() -> None:
    points = measure_operating_points([1.0] * 20, [[0.0] * KINDS] * 20, confidence=0.95)
    assert points[0].passed == 0.0
    assert 0.1 < points[0].passed_high < 0.25  # 20 pairs rule out about one in six, not one in a hundred


def test_corruptions_that_resemble_each_other_count_as_fewer() -> None:
    apart, together = (measure_operating_points(*_scores(200, 4, 1.5, a), confidence=0.95) for a in (0.0, 0.95))
    widths = [np.mean([p.passed_high - p.passed for p in points]) for points in (apart, together)]
    assert widths[1] > 1.3 * widths[0]


def test_no_scores_give_no_promise() -> None:
    assert measure_operating_points([], [], confidence=0.95) == []
    assert promise_precision([], 0.9, 0.5) is None
    assert estimate_prevalence([]) is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_prevalence_is_found_where_p_good_is_calibrated(share: float) -> None:
    draw = np.random.default_rng(0)
    n = 20_000
    values = np.where(np.arange(n) < share * n, draw.normal(2.0, 1.0, n), draw.normal(0.0, 1.0, n))
    p_good = 1 / (1 + np.exp(-(2.0 * values - 2.0)))  # the likelihood ratio of the two, at even odds
    assert estimate_prevalence(p_good.tolist()) == pytest.approx(share, abs=0.02)
