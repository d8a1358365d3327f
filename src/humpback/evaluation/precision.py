"""A promise about precision: which cut-off keeps at least so many good pairs of a hundred, how surely, on what assumption.

In: scores of audit rows that nothing was fitted on. Out: operating points (how many true and how many corrupted pairs pass a
cut-off, with bounds), and from them, for an assumed share of good candidates, the lowest cut-off whose precision has the wanted
lower bound.

The bound is honest in three ways. Rows of one pair resemble each other, so they count as fewer (an effective sample size,
Korn and Graubard). The few cut-offs tried are fixed before any score is seen, and each takes its part of what may go wrong, so
that all bounds hold at once and the best may be chosen (Bonferroni). And of each part the two errors, true pairs lost and
corrupted ones passed, take half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "OperatingPoint",
    "Promise",
    "estimate_prevalence",
    "measure_operating_points",
    "promise_precision",
]

Floats = npt.NDArray[np.float64]

KEPT_SHARES = (0.25, 0.4, 0.55, 0.7, 0.85)
"""Shares of the true pairs that the cut-offs tried keep. Stricter than a quarter, an audit holds too few; each one more costs all."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What passes one cut-off."""

    threshold: float
    kept: float
    """Share of the true pairs at or above it."""
    kept_low: float
    """Its lower bound."""
    passed: float
    """Share of the corrupted pairs at or above it."""
    passed_high: float
    """Its upper bound."""

    def precision(self, prevalence: float) -> float:
        """Return the share of good pairs among those kept, where `prevalence` of all are good."""
        return _precision(self.kept, self.passed, prevalence)

    def precision_low(self, prevalence: float) -> float:
        """Return its lower bound."""
        return _precision(self.kept_low, self.passed_high, prevalence)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A cut-off and what it promises."""

    point: OperatingPoint
    prevalence: float
    precision: float
    precision_low: float
    kept_promise: bool
    """Whether `precision_low` reaches what was wanted; if not, this is the best that was found."""


def _precision(kept: float, passed: float, prevalence: float) -> float:
    good, bad = prevalence * kept, (1 - prevalence) * passed
    return good / (good + bad) if good + bad else 0.0


def measure_operating_points(
    true: Sequence[float], corrupted: Sequence[Sequence[float]], *, confidence: float
) -> list[OperatingPoint]:
    """Return the cut-offs of `KEPT_SHARES`; `corrupted` holds for every true pair the scores of its corruptions."""
    ordered = np.sort(np.asarray(true, dtype=np.float64))[::-1]
    groups = [np.asarray(group, dtype=np.float64) for group in corrupted if len(group)]
    if not len(ordered) or not groups:
        return []
    tail = (1 - confidence) / (2 * len(KEPT_SHARES))
    points = []
    for share in KEPT_SHARES:
        threshold = float(ordered[min(max(round(share * len(ordered)) - 1, 0), len(ordered) - 1)])
        passes = ordered >= threshold
        passed, passed_high = _bound_above(groups, threshold, tail)
        points.append(
            OperatingPoint(
                threshold=threshold,
                kept=float(passes.mean()),
                kept_low=_clopper_pearson_low(float(passes.sum()), len(ordered), tail),
                passed=passed,
                passed_high=passed_high,
            )
        )
    return points


def _bound_above(groups: Sequence[Floats], threshold: float, tail: float) -> tuple[float, float]:
    """Return the share of rows that pass and its upper bound, rows of one group counting as fewer than they are."""
    from scipy.stats import beta

    shares = np.array([(group >= threshold).mean() for group in groups])
    rows = float(np.mean([len(group) for group in groups]))
    share, n = float(shares.mean()), len(groups)
    within = share * (1 - share) / rows
    # with nothing passed there is nothing to tell how alike the rows are: then a pair counts once
    effect = rows if within <= 0 or n < 2 else min(max(float(shares.var(ddof=1)) / within, 1.0), rows)
    effective = n * rows / effect
    hits = share * effective
    return share, float(beta.ppf(1 - tail, hits + 1, max(effective - hits, 1e-9)))


def _clopper_pearson_low(hits: float, n: int, tail: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0


def promise_precision(points: Sequence[OperatingPoint], wanted: float, prevalence: float) -> Promise | None:
    """Return the cut-off that keeps most of those that promise `wanted`, else the one that promises most; None without points."""
    if not points:
        return None
    good_enough = [point for point in points if point.precision_low(prevalence) >= wanted]
    best = max(good_enough, key=lambda point: point.kept, default=None)
    point = best or max(points, key=lambda p: p.precision_low(prevalence))
    return Promise(
        point=point,
        prevalence=prevalence,
        precision=point.precision(prevalence),
        precision_low=point.precision_low(prevalence),
        kept_promise=best is not None,
    )


def estimate_prevalence(p_good: Sequence[float], *, assumed: float = 0.5, rounds: int = 200) -> float | None:
    """Return the share of good pairs that explains the candidates' P(good) best, by expectation maximisation.

    P(good) was calibrated where `assumed` of the rows were good (Saerens, Latinne and Decaestecker, 2002). Right only as far
    as good candidates look like true pairs and bad ones like corruptions. None where there is no candidate.
    """
    p = np.clip(np.asarray(p_good, dtype=np.float64), 1e-6, 1 - 1e-6)
    if not len(p):
        return None
    odds = p / (1 - p) * (1 - assumed) / assumed
    share = assumed
    for _ in range(rounds):
        weight = odds * share / (1 - share)
        following = float((weight / (1 + weight)).mean())
        if abs(following - share) < 1e-6:
            break
        share = min(max(following, 1e-6), 1 - 1e-6)
    return share
