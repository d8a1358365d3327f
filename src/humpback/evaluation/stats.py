"""Statistics of the audit and the evaluation. Every interval is a percentile bootstrap that resamples pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Interval",
    "auc",
    "bootstrap_auc",
    "bootstrap_kinds",
    "bootstrap_ratio",
    "bootstrap_ratio_difference",
    "compare_all",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its bootstrap percentile interval; the bounds are None where n is too small to give one."""

    value: float
    low: float | None
    high: float | None
    n: int


MIN_PAIRS = 8
"""Below this many pairs no interval is given: resampling so few says nothing."""


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
    n = len(next(iter(matched.values())))
    counts_R_N = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    points, draws, sizes = {}, {}, {}
    for kind, matrix in matched.items():
        valid = ~np.isnan(matrix)
        filled = np.where(valid, matrix, 0.0)
        points[kind] = float(filled.sum() / valid.sum())
        total_R = np.einsum("rn,rn->r", counts_R_N @ valid, counts_R_N)
        won_R = np.einsum("rn,rn->r", counts_R_N @ filled, counts_R_N)
        draws[kind] = np.divide(won_R, total_R, out=np.full(resamples, np.nan), where=total_R > 0)
        sizes[kind] = int(valid.any(0).sum())
    points["all"], sizes["all"] = sum(points.values()) / len(points), min(sizes.values())
    draws["all"] = np.stack(list(draws.values())).mean(0)
    tail = (1 - confidence) / 2
    result = {}
    for kind, value in points.items():
        if sizes[kind] < MIN_PAIRS:
            result[kind] = Interval(value=value, low=None, high=None, n=sizes[kind])
        else:
            low, high = np.nanquantile(draws[kind], (tail, 1 - tail))
            result[kind] = Interval(value=value, low=float(low), high=float(high), n=sizes[kind])
    return result


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
