"""Means over prompts and training seeds with their intervals, and how they grow with the data: metric = alpha * log(N) + C.

In: per setting, a total per prompt for every training seed, and the prompts' token counts. Every interval is a percentile bootstrap
that draws prompts and seeds anew, the same ones for all settings, so that differences are paired.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from humpback.evaluation.stats import MIN_PAIRS, Interval, correct_by_holm

__all__ = ["LogBase", "ScalingFit", "Spread", "compare_fits", "fit_line", "fit_scaling", "spread_settings"]

Floats = npt.NDArray[np.float64]
LogBase = Literal["e", 2, 10]
LEAST_SIZES = 2


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One setting: its mean, and the means of all resamples."""

    value: float
    draws: Floats
    """[resamples]"""
    prompts: int
    seeds: int

    def interval(self, confidence: float) -> Interval:
        """Return the mean with its interval; too few prompts have none."""
        return _interval(self.value, self.draws, self.prompts, confidence)


def spread_settings(
    totals: Mapping[str, Mapping[int, Sequence[float]]], counts: Sequence[int], *, resamples: int, seed: int
) -> dict[str, Spread]:
    """Return sum(totals) / sum(counts) of each setting, the mean over its training seeds, with resamples.

    `totals` maps setting and training seed to one total per prompt. A setting that lacks a seed (a cell failed) is resampled over
    those it has; the others' pairing is kept.
    """
    labels = sorted({label for rows in totals.values() for label in rows})
    rng = np.random.default_rng(seed)
    tokens_P, n = np.asarray(counts, dtype=np.float64), len(counts)
    times_RP = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    times_RS = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=resamples).astype(np.float64)
    found = {}
    for name, rows in totals.items():
        own = [place for place, label in enumerate(labels) if label in rows]
        totals_SP = np.asarray([rows[labels[place]] for place in own], dtype=np.float64)
        means_RS = (times_RP @ totals_SP.T) / (times_RP @ tokens_P)[:, None]
        weights_RS = times_RS[:, own]
        drawn_R = weights_RS.sum(1)
        draws = np.divide(
            (means_RS * weights_RS).sum(1), drawn_R, out=np.full(resamples, np.nan), where=drawn_R > 0
        )  # no seed of its own was drawn: no resample, rather than a made-up one
        value = float(totals_SP.sum(1).mean() / tokens_P.sum())
        found[name] = Spread(value=value, draws=draws, prompts=n, seeds=len(own))
    return found


@dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """metric = alpha * log(N) + C, by least squares over the settings' means."""

    alpha: Interval
    """Change of the metric when log(N) grows by one."""
    intercept: float
    log_base: LogBase
    r_squared: float | None
    """Share of the variance between sizes that the line explains; None with two sizes, through which any line goes."""
    sizes: tuple[float, ...]
    draws: Floats
    """alpha of every resample."""

    def interval(self, confidence: float) -> Interval:
        """Return alpha at another level than it was fitted for."""
        return _interval(self.alpha.value, self.draws, self.alpha.n, confidence)


def fit_line(sizes: Sequence[float], values: Sequence[float], *, log_base: LogBase) -> tuple[float, float, float]:
    """Return alpha, C and r squared of points, such as published ones."""
    from scipy.stats import linregress

    line = linregress(_log(sizes, log_base), np.asarray(values, dtype=np.float64))
    return float(line.slope), float(line.intercept), float(line.rvalue) ** 2


def fit_scaling(points: Sequence[tuple[float, Spread]], *, log_base: LogBase, confidence: float) -> ScalingFit | str:
    """Return the fit of one kind over (N, spread), or why there is none."""
    sizes = [size for size, _ in points]
    if len(set(sizes)) < LEAST_SIZES:
        return f"{len(set(sizes))} size was measured; a slope needs two or more"
    if min(sizes) <= 0:
        return "a size of 0 has no logarithm"
    alpha, intercept, r_squared = fit_line(sizes, [spread.value for _, spread in points], log_base=log_base)
    x = _log(sizes, log_base)
    centred = x - x.mean()
    draws_R = centred @ np.stack([spread.draws for _, spread in points]) / (centred @ centred)
    return ScalingFit(
        alpha=_interval(alpha, draws_R, min(spread.prompts for _, spread in points), confidence),
        intercept=intercept,
        log_base=log_base,
        r_squared=r_squared if len(set(sizes)) > LEAST_SIZES else None,
        sizes=tuple(sizes),
        draws=draws_R,
    )


@dataclass(frozen=True, kw_only=True)
class FitDifference:
    """The alpha of one kind minus that of another."""

    kind: str
    against: str
    difference: Interval
    p_value: float | None
    """Two-sided, by the same resamples: how often they fall on the other side of zero. None where there is no interval."""
    p_holm: float | None
    """The same, corrected for the number of comparisons (Holm)."""


def compare_fits(fits: Mapping[str, ScalingFit], *, confidence: float) -> list[FitDifference]:
    """Compare the slopes of all kinds, two by two."""
    found = []
    for one, other in itertools.combinations(fits, 2):
        draws = fits[one].draws - fits[other].draws
        value = fits[one].alpha.value - fits[other].alpha.value
        interval = _interval(value, draws, min(fits[one].alpha.n, fits[other].alpha.n), confidence)
        found.append((one, other, interval, None if interval.low is None else _p_value(draws)))
    corrected = correct_by_holm([p for *_, p in found])
    return [
        FitDifference(kind=one, against=other, difference=interval, p_value=p, p_holm=holm)
        for (one, other, interval, p), holm in zip(found, corrected, strict=True)
    ]


def _p_value(draws: Floats) -> float:
    kept = draws[~np.isnan(draws)]
    below, above = int((kept <= 0).sum()), int((kept >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(kept) + 1))


def _log(sizes: Sequence[float], base: LogBase) -> Floats:
    values: Floats = np.log(np.asarray(sizes, dtype=np.float64))
    return values if base == "e" else values / math.log(base)


def _interval(value: float, draws: Floats, prompts: int, confidence: float) -> Interval:
    kept = draws[~np.isnan(draws)]
    if prompts < MIN_PAIRS or not len(kept):
        return Interval(value=value, low=None, high=None, n=prompts)
    tail = (1 - confidence) / 2
    low, high = np.quantile(kept, (tail, 1 - tail))
    return Interval(value=value, low=float(low), high=float(high), n=prompts)
