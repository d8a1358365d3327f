"""Statistics of the audit and the evaluation, with scipy's bootstrap for every interval."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "auc", "bootstrap_auc", "bootstrap_ratio", "bootstrap_ratio_difference"]

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
