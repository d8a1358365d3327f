"""How far raters agree on the same items: kappa, rank correlation and ICC, with intervals. In: scores, NaN where a rater gave none.

Every interval is a percentile bootstrap over groups of items (two answers to one instruction are one group), and is refused, with
the reason, where the groups are too few or where too many resamples leave the figure undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from humpback.evaluation.agreement import cohen_kappa
from humpback.evaluation.stats import MIN_PAIRS, tell_few

__all__ = ["Draw", "Figure", "Icc", "TwoRaters", "compare_raters", "correlate_raters", "intraclass", "to_levels"]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

MAX_UNDEFINED = 0.05
"""Share of resamples without a value (all drawn scores alike) from which on their spread is no interval."""
LEVELS = (1, 5)
"""Lowest and highest score of the rubric."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of agreement."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    """Items behind it."""
    reason: str | None = None
    """Why there is no value, or no interval."""


class Draw(NamedTuple):
    """How intervals are drawn."""

    resamples: int
    confidence: float
    seed: int


class Icc(NamedTuple):
    """Intraclass correlations of Shrout and Fleiss (1979), of one rater's score: how much of its spread is the items'."""

    agreement: float
    """ICC(2,1): raters are a sample of raters, and one that is always a point higher disagrees."""
    consistency: float
    """ICC(3,1): these raters and no others; a constant distance between them counts for nothing."""


class TwoRaters(NamedTuple):
    """How two raters agree."""

    kappa: Figure
    """Cohen's, of whole scores: chance agreement taken out."""
    weighted_kappa: Figure
    """The same with quadratic weights: a score one off counts far more than one four off."""
    spearman: Figure
    """Rank correlation of the scores as they are."""


def to_levels(scores: Floats) -> list[int]:
    """Return each score as the nearest of the rubric's five, halves up."""
    return [int(level) for level in np.clip(np.floor(scores + 0.5), *LEVELS)]


def compare_raters(first: Floats, second: Floats, groups: Sequence[int], draw: Draw) -> TwoRaters:
    """Return how two raters agree on the items that both gave a score."""
    one, other, own = _both(first, second, groups)
    if len(one) < 2:
        return TwoRaters(*[_too_few(len(one))] * 3)
    levels = [np.array(to_levels(scores)) for scores in (one, other)]

    def kappa(places: Places, *, ordinal: bool) -> float | None:
        return cohen_kappa(*(side[places].tolist() for side in levels), ordinal=ordinal)

    both = "both give one and the same whole score to every item, so chance alone would agree always"
    return TwoRaters(
        kappa=_bootstrap(lambda places: kappa(places, ordinal=False), own, draw, undefined=both),
        weighted_kappa=_bootstrap(lambda places: kappa(places, ordinal=True), own, draw, undefined=both),
        spearman=correlate_raters(first, second, groups, draw),
    )


def correlate_raters(first: Floats, second: Floats, groups: Sequence[int], draw: Draw) -> Figure:
    """Return the rank correlation of two raters' scores."""
    one, other, own = _both(first, second, groups)
    if len(one) < 2:
        return _too_few(len(one))
    alike = "one of the two gives every item the same score, so there is no rank"
    return _bootstrap(lambda places: _spearman(one[places], other[places]), own, draw, undefined=alike)


def intraclass(table_N_K: Floats, groups: Sequence[int], draw: Draw) -> tuple[Figure, Figure]:
    """Return ICC(2,1) and ICC(3,1) over the items, rows, that all raters, columns, gave a score."""
    whole = ~np.isnan(table_N_K).any(axis=1)
    rated, own = table_N_K[whole], np.asarray(groups)[whole]
    if len(rated) < 2 or rated.shape[1] < 2:
        return (_too_few(len(rated), "all"),) * 2
    alike = "all raters give every item the same score"

    def agreement(places: Places) -> float | None:
        found = _icc(rated[places])
        return found.agreement if found else None

    def consistency(places: Places) -> float | None:
        found = _icc(rated[places])
        return found.consistency if found else None

    one, other = (_bootstrap(each, own, draw, undefined=alike) for each in (agreement, consistency))
    return one, other


def _icc(table_N_K: Floats) -> Icc | None:
    """Return the correlations by a two-way analysis of variance; None where nothing varies, or one item only was drawn."""
    n, k = table_N_K.shape
    if n < 2:
        return None
    between = k * float(table_N_K.mean(axis=1).var(ddof=1))
    raters = n * float(table_N_K.mean(axis=0).var(ddof=1))
    total = float(((table_N_K - table_N_K.mean()) ** 2).sum())
    error = max(total - between * (n - 1) - raters * (k - 1), 0.0) / ((n - 1) * (k - 1))
    spread = between + (k - 1) * error
    absolute = spread + k * (raters - error) / n
    if spread <= 0 or absolute <= 0:
        return None
    return Icc(agreement=(between - error) / absolute, consistency=(between - error) / spread)


def _spearman(first: Floats, second: Floats) -> float | None:
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def _both(first: Floats, second: Floats, groups: Sequence[int]) -> tuple[Floats, Floats, Places]:
    known = ~(np.isnan(first) | np.isnan(second))
    return first[known], second[known], np.asarray(groups)[known]


def _too_few(n: int, raters: str = "both") -> Figure:
    return Figure(value=None, n=n, reason=f"{n} items have a score of {raters}; 2 are the least")


def _bootstrap(statistic: Callable[[Places], float | None], groups: Places, draw: Draw, *, undefined: str) -> Figure:
    """Return a figure over all items with its interval over groups; `undefined` says why it may have no value."""
    n = len(groups)
    value = statistic(np.arange(n))
    if value is None:
        return Figure(value=None, n=n, reason=undefined)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    if len(members) < MIN_PAIRS:
        few = tell_few(len(members), "item" if len(members) == n else "instruction")
        return Figure(value=value, n=n, reason=f"{few} for an interval; {MIN_PAIRS} are needed")
    dice = np.random.default_rng(draw.seed)
    drawn = [
        statistic(np.concatenate([members[i] for i in dice.integers(len(members), size=len(members))]))
        for _ in range(draw.resamples)
    ]
    known = [one for one in drawn if one is not None]
    if len(known) < (1 - MAX_UNDEFINED) * draw.resamples:
        missing = draw.resamples - len(known)
        return Figure(value=value, n=n, reason=f"{missing} of {draw.resamples} resamples leave it undefined")
    tail = (1 - draw.confidence) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    return Figure(value=value, low=float(low), high=float(high), n=n)
