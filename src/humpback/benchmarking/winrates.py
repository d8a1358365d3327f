"""What the judge's rulings say of two models, with intervals; and what they say of the judge. In: rulings. Out: figures.

Every figure has the number of prompts behind it, and where that is too small for an interval there is the reason instead of one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from humpback.benchmarking.comparisons import Comparison
from humpback.benchmarking.judging import Rulings
from humpback.benchmarking.lengthcontrol import control_pair
from humpback.evaluation.stats import tell_few

__all__ = [
    "CONFIDENCE",
    "MIN_BOOTSTRAP",
    "RESAMPLES",
    "Estimate",
    "JudgeFigures",
    "by_category",
    "by_length",
    "control_length",
    "examine_judge",
    "favour",
    "rate",
    "sign_test",
]

MIN_BOOTSTRAP = 8
MIN_NORMAL = 30
MIN_CONTROLLED = 30
"""Fewest prompts for a bootstrap interval, for a normal one, and for a rate at equal lengths."""
RESAMPLES = 2000
CONFIDENCE = 0.95
CONTROLLED_RESAMPLES = 400
NEARLY_EQUAL = 0.1
"""Outputs whose lengths differ by less than this share of the longer one count as equally long."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A rate in percent."""

    value: float | None
    """None where there is nothing to compute it from; `reason` says why."""
    n: int
    """Prompts behind it."""
    low: float | None = None
    high: float | None = None
    """Percentile bootstrap over prompts, 95 % where no other level is asked for."""
    normal_low: float | None = None
    normal_high: float | None = None
    """Value and normal quantile times standard error, at the same level."""
    reason: str | None = None
    """Why a value or an interval is not given."""


@dataclass(frozen=True, kw_only=True)
class JudgeFigures:
    """How far the judge can be believed."""

    first_place: Estimate
    """How often the answer that stands first wins; without bias 50."""
    agreement: Estimate
    """Prompts on which both orders favour the same answer, or both none."""
    flips_to_first: int
    flips_to_second: int
    """Prompts on which the judge favours whichever stands first, and second."""
    self_consistency: Estimate
    """Rulings that come out alike when the judge is asked again: the mean over prompts, whose two orders are no two prompts."""
    rulings: Mapping[str, int]
    """How many of each kind: parsed, and why others gave no verdict."""


def rate(
    shares: Sequence[float],
    *,
    seed: int,
    groups: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return the mean share in percent, with both intervals where there are prompts enough.

    `groups` numbers the instruction of each share; those of one are drawn together. None: every share has a prompt of its own.
    """
    n = len(shares)
    if not n:
        return Estimate(value=None, n=0, reason="no prompt has a verdict in both orders")
    sums, counts = _add_up(shares, range(n) if groups is None else groups)
    units, what = len(sums), "prompt" if len(sums) == n else "instruction"
    mean = float(100 * sums.sum() / n)
    if units < MIN_BOOTSTRAP:
        reason = f"{tell_few(units, what)} for an interval; {MIN_BOOTSTRAP} are needed"
        return Estimate(value=mean, n=n, reason=reason)
    if np.ptp(sums / counts) == 0:
        reason = f"all {what}s came out alike; resampling them says nothing of the spread"
        return Estimate(value=mean, n=n, reason=reason)
    low, high = _bootstrap(sums, counts, seed, resamples, confidence)
    normal: tuple[float | None, float | None] = (None, None)
    reason = f"{tell_few(units, what)} for a normal interval; {MIN_NORMAL} are needed"
    if units >= MIN_NORMAL:
        half = _normal_half(sums, counts, confidence)
        normal, reason = (mean - half, mean + half), ""
        if normal[0] < 0 or normal[1] > 100:
            normal, reason = (None, None), "so near to 0 or 100 that a normal interval would pass it"
    return Estimate(
        value=mean, n=n, low=low, high=high, normal_low=normal[0], normal_high=normal[1], reason=reason or None
    )


def _add_up(shares: Sequence[float], groups: Sequence[int]) -> tuple[Floats, Floats]:
    """Return the sum of each group's shares, and how many there are."""
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(place, weights=np.asarray(shares, dtype=np.float64))
    return sums.astype(np.float64), np.bincount(place).astype(np.float64)


def _bootstrap(sums: Floats, counts: Floats, seed: int, resamples: int, confidence: float) -> tuple[float, float]:
    from scipy.stats import bootstrap

    def mean(sums: Floats, counts: Floats, axis: int = -1) -> Floats:
        return np.asarray(100 * sums.sum(axis=axis) / counts.sum(axis=axis))

    bounds = bootstrap(
        (sums, counts),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=256,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(bounds.low), float(bounds.high)


def _normal_half(sums: Floats, counts: Floats, confidence: float) -> float:
    """Return half the normal interval, in percent: by the standard error of a mean whose groups, not rows, are independent."""
    from scipy.stats import norm

    residuals = sums - counts * sums.sum() / counts.sum()
    units = len(sums)
    error = math.sqrt(units / (units - 1) * float((residuals**2).sum())) / float(counts.sum())
    return float(norm.ppf((1 + confidence) / 2) * error * 100)


def sign_test(shares: Sequence[float]) -> float | None:
    """Return the two-sided p value of wins against losses, ties left out; None without either."""
    from scipy.stats import binomtest

    wins, losses = sum(share > 0.5 for share in shares), sum(share < 0.5 for share in shares)
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else None


def by_category(comparisons: Sequence[Comparison], *, seed: int) -> dict[str, Estimate]:
    """Return the rate of each category of prompts; empty where prompts have none."""
    groups: dict[str, list[float]] = {}
    for c in comparisons:
        own = groups.setdefault(c.category, [])
        if c.share is not None:
            own.append(c.share)
    if set(groups) == {""}:
        return {}
    return {name or "none": rate(shares, seed=seed) for name, shares in sorted(groups.items())}


def by_length(comparisons: Sequence[Comparison], *, seed: int) -> dict[str, Estimate]:
    """Return the rate where the model's output is the longer one, the shorter one, and nearly as long."""
    groups: dict[str, list[float]] = {"longer": [], "as_long": [], "shorter": []}
    for c in comparisons:
        if c.share is not None:
            over = c.model_chars - c.baseline_chars
            near = abs(over) <= NEARLY_EQUAL * max(c.model_chars, c.baseline_chars)
            groups["as_long" if near else "longer" if over > 0 else "shorter"].append(c.share)
    return {name: rate(shares, seed=seed) for name, shares in groups.items()}


def control_length(comparisons: Sequence[Comparison], *, seed: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return the rate at equal lengths with its bootstrap interval, or why there is none."""
    judged = [c for c in comparisons if c.share is not None]
    n, over = len(judged), [c.model_chars - c.baseline_chars for c in judged]
    if n < MIN_CONTROLLED:
        few = tell_few(n, "prompt")
        return Estimate(value=None, n=n, reason=f"{few} to tell length from quality; {MIN_CONTROLLED} are needed")
    if len({c.share for c in judged}) == 1:
        return Estimate(value=None, n=n, reason="all prompts came out alike, whatever their lengths")
    if min(over) > 0 or max(over) < 0:
        side = "longer" if min(over) > 0 else "shorter"
        return Estimate(
            value=None,
            n=n,
            reason=f"the model's output is {side} on every prompt: length and model cannot be told apart",
        )
    value = control_pair(judged)
    rng = np.random.default_rng(seed)
    draws = [control_pair([judged[i] for i in rng.integers(n, size=n)]) for _ in range(CONTROLLED_RESAMPLES)]
    low, high = np.quantile(draws, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Estimate(value=value, n=n, low=float(low), high=float(high))


def examine_judge(
    rulings: Sequence[Rulings],
    again: Mapping[int, Rulings] | None,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> JudgeFigures:
    """Return the judge's bias and consistency. `again` holds second rulings by the prompt's place; None if they are probabilities."""
    both = [(r.model_first.first, r.baseline_first.first) for r in rulings]
    whole = [(one, two) for one, two in both if one is not None and two is not None]
    if again is None:
        # two draws by these probabilities favour the same answer
        orders = [[p * p + (1 - p) ** 2 for p in pair if p is not None] for pair in both]
    else:
        orders = [_find_alike(rulings[place], other) for place, other in again.items()]
    alike = [sum(prompt) / len(prompt) for prompt in orders if prompt]
    kinds = Counter(r.kind for pair in rulings for r in (pair.model_first, pair.baseline_first))
    estimate = partial(rate, seed=seed, resamples=resamples, confidence=confidence)
    return JudgeFigures(
        first_place=estimate([(one + two) / 2 for one, two in whole]),
        agreement=estimate([float(favour(one) == favour(1 - two)) for one, two in whole]),
        flips_to_first=sum(one > 0.5 and two > 0.5 for one, two in whole),
        flips_to_second=sum(one < 0.5 and two < 0.5 for one, two in whole),
        self_consistency=estimate(alike)
        if alike
        else Estimate(value=None, n=0, reason="no ruling was asked for again (--recheck)"),
        rulings=dict(sorted(kinds.items())),
    )


def _find_alike(first: Rulings, again: Rulings) -> list[float]:
    """Return 1 or 0 for each order of a prompt that was ruled on twice."""
    pairs = (
        (first.model_first.first, again.model_first.first),
        (first.baseline_first.first, again.baseline_first.first),
    )
    return [float(favour(one) == favour(two)) for one, two in pairs if one is not None and two is not None]


def favour(share: float) -> int:
    """Return 1 for the first answer, -1 for the second, 0 for none; probabilities within a hair of a half favour none."""
    return 0 if math.isclose(share, 0.5, abs_tol=1e-9) else 1 if share > 0.5 else -1
