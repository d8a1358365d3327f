"""What a correction of P(good) by human labels is worth, by labels that it was not fitted on.

In: labelled candidates, scores of candidates, one correction per fold that saw no label of it. Out: Brier score and AUC before and
after, and how precise the best 10, 25 ... percent of the candidates are: a promise that rests on people and on no audit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from humpback.evaluation.agreement import weighted_auc, weighted_share
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.correction import Correction, LabelledScores, choose_fold
from humpback.evaluation.learning import Floats
from humpback.evaluation.stats import Interval

__all__ = ["MIN_EACH", "MIN_LABELS", "CorrectionAudit", "LabelPoint", "measure_correction", "too_few_labels"]

MIN_LABELS = 40
"""Fewer labels correct nothing: each fifth is judged by a correction fitted on the others."""
MIN_EACH = 10
"""Of good and of bad ones, likewise."""
KEPT_SHARES = (0.1, 0.25, 0.4, 0.55, 0.7)
"""Shares of the candidates that are tried; fixed before a label is seen, and each one more costs all."""


@dataclass(frozen=True, kw_only=True)
class LabelPoint:
    """One share of the candidates, best first by corrected P(good)."""

    share: float
    threshold: float
    """Lowest corrected P(good) in it, by the correction that was fitted on all labels."""
    labels: int
    """Labelled candidates in it, each placed by a correction that did not see its label."""
    precision: float | None
    """Share of good ones, weighted; None without labels in it."""
    precision_low: float
    """Lower bound; those of all shares hold at once (Bonferroni)."""


@dataclass(frozen=True, kw_only=True)
class CorrectionAudit:
    """Figures of one correction."""

    good: Interval
    """Weighted share of good candidates."""
    auc_before: Interval | None
    auc_after: Interval | None
    """Both on the same labels; after: each by a correction that did not see it."""
    brier_before: float
    brier_after: float
    """Weighted mean squared distance of P(good) from what people said, 0 is best."""
    points: tuple[LabelPoint, ...]


def too_few_labels(rows: Sequence[LabelledScores]) -> str | None:
    """Return why these labels correct nothing, or None."""
    good = sum(row.good for row in rows)
    if len(rows) >= MIN_LABELS and min(good, len(rows) - good) >= MIN_EACH:
        return None
    found = f"{len(rows)} labelled candidates with P(good) ({good} good, {len(rows) - good} bad)"
    return f"{found} are too few: {MIN_LABELS} with {MIN_EACH} of each are the least; label more (humpback label)"


def measure_correction(
    rows: Sequence[LabelledScores],
    candidates: Sequence[Mapping[str, float]],
    by_fold: Mapping[int, Correction],
    whole: Correction,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> CorrectionAudit:
    """Judge every label by the correction of its fold. `candidates` are all, or a sample drawn without regard to scores."""
    good, weights = [row.good for row in rows], [row.weight for row in rows]
    folds = [choose_fold(row.pair_id) for row in rows]
    before = [row.scores[P_GOOD] for row in rows]
    after = [_apply(by_fold[fold], [row.scores])[0] for row, fold in zip(rows, folds, strict=True)]

    def auc(values: Sequence[float]) -> Interval | None:
        return weighted_auc(values, good, weights, resamples=resamples, confidence=confidence, seed=seed)

    def brier(values: Sequence[float]) -> float:
        return float(np.average((np.array(values) - np.array(good)) ** 2, weights=weights))

    placed = {fold: _apply(correction, candidates) for fold, correction in by_fold.items()}
    own = _apply(whole, candidates)
    points = []
    for share in KEPT_SHARES:
        cuts = {fold: float(np.quantile(values, 1 - share)) for fold, values in placed.items()}
        inside = [value >= cuts[fold] for value, fold in zip(after, folds, strict=True)]
        points.append(_measure_share(share, float(np.quantile(own, 1 - share)), inside, rows, confidence))
    return CorrectionAudit(
        good=weighted_share(good, weights, confidence=confidence),
        auc_before=auc(before),
        auc_after=auc(after),
        brier_before=brier(before),
        brier_after=brier(after),
        points=tuple(points),
    )


def _apply(correction: Correction, rows: Sequence[Mapping[str, float]]) -> Floats:
    return np.array([value for value in correction.apply(rows) if value is not None])


def _measure_share(
    share: float, threshold: float, inside: Sequence[bool], rows: Sequence[LabelledScores], confidence: float
) -> LabelPoint:
    kept = [row for row, yes in zip(rows, inside, strict=True) if yes]
    each = 1 - (1 - confidence) / len(KEPT_SHARES)
    found = weighted_share([r.good for r in kept], [r.weight for r in kept], confidence=each) if kept else None
    return LabelPoint(
        share=share,
        threshold=threshold,
        labels=len(kept),
        precision=found.value if found else None,
        precision_low=found.low if found and found.low is not None else 0.0,
    )
