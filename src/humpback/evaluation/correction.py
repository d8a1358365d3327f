"""Correction of P(good) by human labels of candidates: what an audit of seed-like text cannot know of web text.

In: scores of labelled candidates, what people said of them, and how many candidates each label speaks for. Out: a correction of the
log-odds of P(good), fitted by weighted logistic regression with a penalty on every change but the constant.

Three forms, from stiff to free: a `constant` (how many candidates are good), a `slope` besides (how much P(good) is worth on them),
`signals` besides (what single signals know on them). Cross-validation takes the stiffest that is within one standard error of the
best, so few labels change little. What a correction is worth is told by labels that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from humpback.evaluation.calibration import P_GOOD, pick_columns
from humpback.evaluation.learning import Floats
from humpback.records import content_id

__all__ = ["FOLDS", "Correction", "LabelledScores", "choose_fold", "cross_correct", "fit_correction"]

Form = Literal["constant", "slope", "signals"]
PENALTY: Mapping[Form, float] = {"constant": 0.0, "slope": 1.0, "signals": 10.0}
"""Of the squared weights, against one unit of log-loss per label; of standardised features."""
TIE = 1e-3
"""Penalty of the constant: where all labels say one thing, it stays finite."""
FOLDS = 5
EDGE = 1e-4
"""P(good) is taken to be this far from 0 and 1 at least."""
FARTHEST = 4.0
"""Standard deviations: nothing is known of values beyond those that were labelled."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LabelledScores:
    """A labelled candidate as far as a correction looks at it."""

    pair_id: str
    scores: Mapping[str, float]
    """P(good) among them."""
    good: bool
    weight: float
    """Candidates it speaks for."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A fitted correction: corrected log-odds = log-odds + constant + weights times standardised features."""

    form: Form
    constant: float
    columns: tuple[str, ...]
    """Features after the log-odds themselves, which come first where there are weights."""
    center: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]

    def apply(self, rows: Sequence[Mapping[str, float]]) -> list[float | None]:
        """Return the corrected P(good) of each row of scores, None for one that has none."""
        known = [row for row in rows if P_GOOD in row]
        if not known:
            return [None] * len(rows)
        margins = _log_odds(known) + self.constant
        if self.weights:
            z = _features(_table(known, self.columns), np.array(self.center), np.array(self.scale))
            margins = margins + z @ np.array(self.weights)
        values = iter((1 / (1 + np.exp(-margins))).tolist())
        return [float(next(values)) if P_GOOD in row else None for row in rows]

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Correction:
        """Return what `dataclasses.asdict` wrote, also after a way through JSON."""
        lists = {name: tuple(plain[name]) for name in ("columns", "center", "scale", "weights")}
        return cls(form=plain["form"], constant=plain["constant"], **lists)


def fit_correction(rows: Sequence[LabelledScores]) -> Correction:
    """Fit the form that cross-validation within these rows chooses."""
    losses = {form: _cross_losses(rows, form) for form in get_args(Form)}
    weights = np.array([row.weight for row in rows])
    best = min(losses.values(), key=lambda loss: float(np.average(loss, weights=weights)))
    for form, loss in losses.items():
        worse = loss - best
        mean = float(np.average(worse, weights=weights))
        error = np.sqrt((weights**2 * (worse - mean) ** 2).sum()) / weights.sum()
        if mean <= error:
            return _fit(rows, form)
    raise AssertionError("the best form is within its own error")


def cross_correct(rows: Sequence[LabelledScores]) -> dict[int, Correction]:
    """Return for each fold a correction, its form included, that saw no label of the fold."""
    folds = [choose_fold(row.pair_id) for row in rows]
    return {
        fold: fit_correction([row for row, own in zip(rows, folds, strict=True) if own != fold])
        for fold in sorted(set(folds))
    }


def choose_fold(pair_id: str, salt: str = "outer") -> int:
    """Return the fold of a pair: it depends on the pair alone, so no label moves another."""
    return int(content_id("correction", salt, pair_id), 16) % FOLDS


def _cross_losses(rows: Sequence[LabelledScores], form: Form) -> Floats:
    """Return each row's log-loss under a correction fitted on the other inner folds."""
    folds = np.array([choose_fold(row.pair_id, "inner") for row in rows])
    losses = np.zeros(len(rows))
    for fold in np.unique(folds):
        fitted = _fit([row for row, own in zip(rows, folds, strict=True) if own != fold] or rows, form)
        for place in np.flatnonzero(folds == fold).tolist():
            row = rows[place]
            (value,) = fitted.apply([row.scores])
            assert value is not None
            losses[place] = -np.log(max(value if row.good else 1 - value, EDGE))
    return losses


def _fit(rows: Sequence[LabelledScores], form: Form) -> Correction:
    scores = [row.scores for row in rows]
    columns = () if form == "constant" else (P_GOOD, *(pick_columns(scores) if form == "signals" else ()))
    table = _table(scores, columns)
    center, scale = _standardise(table)
    features = np.concatenate([np.ones((len(rows), 1)), _features(table, center, scale)], axis=1)
    penalty = np.array([TIE, *[PENALTY[form]] * len(columns)])
    good = np.array([row.good for row in rows])
    found = _solve(features, _log_odds(scores), good, _effective([row.weight for row in rows]), penalty)
    return Correction(
        form=form,
        constant=float(found[0]),
        columns=columns,
        center=tuple(center.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(found[1:].tolist()),
    )


def _solve(features: Floats, offset: Floats, good: Flags, weights: Floats, penalty: Floats) -> Floats:
    """Minimise the weighted log-loss with fixed log-odds `offset`."""
    from scipy.optimize import minimize

    sign = np.where(good, 1.0, -1.0)

    def loss(theta: Floats) -> tuple[float, Floats]:
        margin = sign * (offset + features @ theta)
        value = (weights * np.logaddexp(0, -margin)).sum() + 0.5 * (penalty * theta**2).sum()
        slope = -weights * sign / (1 + np.exp(np.clip(margin, -500, 500)))
        return float(value), features.T @ slope + penalty * theta

    return np.asarray(minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B").x)


def _effective(weights: Sequence[float]) -> Floats:
    """Return the weights scaled to sum to Kish's effective number of labels: unequal ones say less."""
    w = np.asarray(weights, dtype=np.float64)
    return np.asarray(w * w.sum() / (w**2).sum())


def _log_odds(rows: Sequence[Mapping[str, float]]) -> Floats:
    p = np.clip(np.array([row[P_GOOD] for row in rows]), EDGE, 1 - EDGE)
    return np.asarray(np.log(p / (1 - p)))


def _table(rows: Sequence[Mapping[str, float]], columns: Sequence[str]) -> Floats:
    table = np.full((len(rows), len(columns)), np.nan)
    for place, name in enumerate(columns):
        table[:, place] = _log_odds(rows) if name == P_GOOD else [row.get(name, np.nan) for row in rows]
    return table


def _features(table: Floats, center: Floats, scale: Floats) -> Floats:
    z = np.clip((table - center) / scale, -FARTHEST, FARTHEST)
    return np.asarray(np.where(np.isnan(z), 0.0, z))  # no value is the mean


def _standardise(table: Floats) -> tuple[Floats, Floats]:
    center = np.array([np.nanmean(c) if not np.isnan(c).all() else 0.0 for c in table.T])
    scale = np.array([np.nanstd(c) if not np.isnan(c).all() else 0.0 for c in table.T])
    return center, np.where(scale > 1e-9, scale, 1.0)
