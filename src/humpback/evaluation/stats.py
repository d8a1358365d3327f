"""Statistics of the audit and the evaluation. Every interval is a percentile bootstrap that resamples pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Interval",
    "auc",
    "bootstrap_auc",
    "bootstrap_kinds",
    "bootstrap_kinds_difference",
    "bootstrap_ratio",
    "bootstrap_ratio_difference",
    "compare_all",
    "correct_by_holm",
    "tell_few",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its bootstrap percentile interval; the bounds are None where n is too small to give one."""

    value: float
    low: float | None
    high: float | None
    n: int

    def negated(self) -> Interval:
        """Return the interval of the quantity with its sign turned.

        >>> Interval(value=1.0, low=-2.0, high=3.0, n=9).negated()
        Interval(value=-1.0, low=-3.0, high=2.0, n=9)
        """
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Interval(value=-self.value, low=low, high=high, n=self.n)


MIN_PAIRS = 8
"""Below this many pairs no interval is given: resampling so few says nothing."""


def tell_few(n: int, what: str) -> str:
    """Say that there are too few of something.

    >>> tell_few(1, "prompt"), tell_few(7, "prompt")
    ('1 prompt is too few', '7 prompts are too few')
    """
    return f"{n} {what} is too few" if n == 1 else f"{n} {what}s are too few"


def correct_by_holm(values: Sequence[float | None]) -> list[float | None]:
    """Return each p value times the number of those not below it, never less than a smaller one's; None stays, and counts for none.

    >>> correct_by_holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def auc(true: Floats, corrupted: Floats, axis: int = -1) -> Any:
    """Return P(true > corrupted) + half P(equal), over `axis`: the area under the ROC curve (Mann-Whitney U / n m)."""
    from scipy.stats import rankdata

    n, m = true.shape[axis], corrupted.shape[axis]
    ranks = rankdata(np.concatenate([true, corrupted], axis=axis), axis=axis)
    own = np.take(ranks, np.arange(n), axis=axis).sum(axis=axis)
    return (own - n * (n + 1) / 2) / (n * m)


def bootstrap_auc(
    true: Sequence[float], corrupted: Sequence[Sequence[float]], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean AUC of true pairs against each kind of their corruptions.

    `corrupted` holds one list per kind, in the order of `true`; a pair and its corruptions are resampled together.
    """
    arrays = tuple(np.asarray(values, dtype=np.float64) for values in (true, *corrupted))
    return _bootstrap(arrays, _mean_auc, resamples=resamples, confidence=confidence, seed=seed)


def _mean_auc(true: Floats, *corrupted: Floats, axis: int = -1) -> Any:
    return sum(auc(true, kind, axis=axis) for kind in corrupted) / len(corrupted)


def compare_all(true: Floats, others: Floats) -> Floats:
    """Return who wins, true[i] against others[j]: 1, 0, half for equals, NaN where either has no value, [n, n]."""
    wins: Floats = (true[:, None] > others[None, :]) + 0.5 * (true[:, None] == others[None, :])
    wins[np.isnan(true)[:, None] | np.isnan(others)[None, :]] = np.nan
    return wins


def bootstrap_kinds(wins: Mapping[str, Floats], *, resamples: int, confidence: float, seed: int) -> dict[str, Interval]:
    """Return the AUC of each kind and, as `all`, their mean, from who wins against whom (`compare_all`), where NaN is no match.

    A pair is drawn with its corruptions of all kinds. Kinds without any match are left out.
    """
    matched = {kind: matrix for kind, matrix in wins.items() if not np.isnan(matrix).all()}
    if not matched:
        return {}
    drawn = _draw_kinds(matched, resamples=resamples, seed=seed)
    return {kind: _interval(one.value, one.draws, one.n, confidence) for kind, one in drawn.items()}


def bootstrap_kinds_difference(
    first: Mapping[str, Floats], second: Mapping[str, Floats], *, resamples: int, confidence: float, seed: int
) -> Interval | None:
    """Return the mean AUC of `first` minus that of `second`, over the kinds both have matches of, pairs drawn for both at once.

    The pairs of both are in one order. None without a kind in common.
    """
    kinds = [
        kind for kind in first if kind in second and not (np.isnan(first[kind]).all() or np.isnan(second[kind]).all())
    ]
    if not kinds:
        return None
    one, other = (
        _draw_kinds({kind: wins[kind] for kind in kinds}, resamples=resamples, seed=seed)["all"]
        for wins in (first, second)
    )
    return _interval(one.value - other.value, one.draws - other.draws, min(one.n, other.n), confidence)


class _Drawn(NamedTuple):
    value: float
    draws: Floats
    n: int


def _draw_kinds(matched: Mapping[str, Floats], *, resamples: int, seed: int) -> dict[str, _Drawn]:
    n = len(next(iter(matched.values())))
    counts_R_N = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    found: dict[str, _Drawn] = {}
    for kind, matrix in matched.items():
        valid = ~np.isnan(matrix)
        filled = np.where(valid, matrix, 0.0)
        total_R = np.einsum("rn,rn->r", counts_R_N @ valid, counts_R_N)
        won_R = np.einsum("rn,rn->r", counts_R_N @ filled, counts_R_N)
        draws = np.divide(won_R, total_R, out=np.full(resamples, np.nan), where=total_R > 0)
        found[kind] = _Drawn(float(filled.sum() / valid.sum()), draws, int(valid.any(0).sum()))
    kinds = list(found.values())
    mean = sum(one.value for one in kinds) / len(kinds)
    found["all"] = _Drawn(mean, np.stack([one.draws for one in kinds]).mean(0), min(one.n for one in kinds))
    return found


def _interval(value: float, draws: Floats, n: int, confidence: float) -> Interval:
    if n < MIN_PAIRS:
        return Interval(value=value, low=None, high=None, n=n)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, (tail, 1 - tail))
    return Interval(value=value, low=float(low), high=float(high), n=n)


def bootstrap_ratio(
    totals: Sequence[float], counts: Sequence[int], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return sum(totals) / sum(counts), for example nats per token, resampled over rows."""
    arrays = (np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64))
    return _bootstrap(arrays, _ratio, resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_ratio_difference(
    first: Sequence[float],
    second: Sequence[float],
    counts: Sequence[int],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Return (sum(first) - sum(second)) / sum(counts), paired by row: negative when `first` is lower."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    arrays = (difference, np.asarray(counts, dtype=np.float64))
    return _bootstrap(arrays, _ratio, resamples=resamples, confidence=confidence, seed=seed)


def _ratio(totals: Floats, counts: Floats, axis: int = -1) -> Any:
    return totals.sum(axis=axis) / counts.sum(axis=axis)


def _bootstrap(
    arrays: tuple[Floats, ...], statistic: Callable[..., Any], *, resamples: int, confidence: float, seed: int
) -> Interval:
    from scipy.stats import bootstrap

    n = len(arrays[0])
    value = float(statistic(*arrays))
    if n < MIN_PAIRS:
        return Interval(value=value, low=None, high=None, n=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of a distribution of one value: a perfect AUC is one
        bounds = bootstrap(
            arrays,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            batch=256,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Interval(value=value, low=float(bounds.low), high=float(bounds.high), n=n)
