"""Calibration: all that is known of a pair, combined into P(good) by a regularised logistic model. In: scores. Out: 0 to 1.

P(good) is the probability that a pair is a true one where half of all pairs are true and the other half is spoilt in all known
ways alike: the audit's mix. A pair without a value for some signal gets the signal's mean and, where the audit had such pairs
too, what is known of them: no value is never a low value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from humpback.evaluation.learning import Floats, Labels, LinearModel, balance, fit_logistic

__all__ = ["P_GOOD", "Calibration", "Reliability", "fit_calibration", "measure_reliability", "pick_columns"]

P_GOOD = "p_good"
STRENGTH = 0.1
"""Inverse penalty. Of six audits of 24 to 120 pairs it had the least log loss in four and came near it in two; 1.0 was worse in all.
A choice by cross-validation over the few folds that an audit has was worse too (`docs/log.md`)."""
BENDS = (0.1, 0.5)
"""Shares of the true pairs at which a signal may change its slope: beyond what a true pair usually has, more is not better."""
PARTS = "probe_"
"""Columns that are one function of the probe each; they stay straight."""
CLIP = (0.01, 0.99)
"""Values beyond these shares of the audit's are taken for the last ones inside: nothing is known out there."""
COUNTS = "sampled_rating_"
"""Columns that count replies and say nothing of the pair."""
BINS = 10
EDGE = 30.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted combination."""

    columns: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    """Taken where a row has no value."""
    marked: tuple[str, ...]
    """Columns that were missing on some row of the audit; each has a feature that says so."""
    bends: Mapping[str, tuple[float, ...]]
    """By column, where its slope may change."""
    model: LinearModel

    def p_good(self, rows: Sequence[Mapping[str, float]]) -> list[float | None]:
        """Return P(good) of each row of scores, None for one that has none of the columns."""
        if not rows:
            return []
        margins = self.model.margins(_features(rows, self))
        known = [any(name in row for name in self.columns) for row in rows]
        values = 1 / (1 + np.exp(-np.clip(margins, -EDGE, EDGE)))
        return [float(value) if has else None for value, has in zip(values, known, strict=True)]


def pick_columns(rows: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Return the columns that say something of a pair."""
    names = {name for row in rows for name in row}
    return tuple(sorted(name for name in names if name != P_GOOD and not name.startswith(COUNTS)))


def fit_calibration(rows: Sequence[Mapping[str, float]], classes: Labels) -> Calibration:
    """Fit on rows of scores, of which class 0 is true pairs and every other class one way to be spoilt."""
    columns = pick_columns(rows)
    table = _table(rows, columns)
    low, high = np.nanquantile(table, CLIP, axis=0)
    clipped = np.clip(table, low, high)
    blank = Calibration(
        columns=columns,
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        mean=tuple(np.nanmean(clipped, axis=0).tolist()),
        marked=tuple(name for name, values in zip(columns, table.T, strict=True) if np.isnan(values).any()),
        bends={
            name: tuple(np.nanquantile(values, BENDS).tolist())
            for name, values in zip(columns, clipped[classes == 0].T, strict=True)
            if not name.startswith(PARTS) and not np.isnan(values).all()
        },
        model=LinearModel.empty(),
    )
    return replace(blank, model=fit_logistic(_features(rows, blank), classes, strength=STRENGTH))


def _table(rows: Sequence[Mapping[str, float]], columns: Sequence[str]) -> Floats:
    return np.array([[row.get(name, np.nan) for name in columns] for row in rows], dtype=np.float64)


def _features(rows: Sequence[Mapping[str, float]], calibration: Calibration) -> Floats:
    table = _table(rows, calibration.columns)
    absent = np.isnan(table)
    values = np.where(absent, calibration.mean, np.clip(table, calibration.low, calibration.high))
    place = {name: index for index, name in enumerate(calibration.columns)}
    bent = [np.minimum(values[:, place[name]], bend) for name, bends in calibration.bends.items() for bend in bends]
    marks = [absent[:, place[name]].astype(np.float64) for name in calibration.marked]
    return np.concatenate([values, np.array([*bent, *marks]).reshape(-1, len(values)).T], axis=1)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Whether P(good) means what it says, on pairs it was not fitted on; true and spoilt pairs weigh half each."""

    bins: tuple[Mapping[str, float], ...]
    """For each tenth of P(good) that holds rows: its mean `p_good`, the share that was `good`, and its share of all rows, `weight`."""
    ece: float
    """Expected calibration error: mean distance of the two, 0 is best."""
    brier: float
    """Mean squared distance of P(good) from the truth, 0 is best; 0.25 is knowing nothing."""


def measure_reliability(p_good: Sequence[float], classes: Labels) -> Reliability:
    """Compare P(good) with the truth, bin by bin."""
    p, good, weights = np.asarray(p_good), (classes == 0).astype(np.float64), balance(classes)
    weights = weights / weights.sum()
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    bins: list[dict[str, Any]] = []
    for number in range(BINS):
        inside = place == number
        if weight := float(weights[inside].sum()):
            means = [float((weights[inside] * values[inside]).sum() / weight) for values in (p, good)]
            bins.append({"p_good": means[0], "good": means[1], "weight": weight})
    ece = sum(entry["weight"] * abs(entry["p_good"] - entry["good"]) for entry in bins)
    return Reliability(bins=tuple(bins), ece=float(ece), brier=float((weights * (p - good) ** 2).sum()))
