"""Correct: what people said of candidates moves P(good) of the iteration that scored them. No model is asked or trained for it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.correction import Correction, LabelledScores, cross_correct, fit_correction
from humpback.evaluation.correctionaudit import CorrectionAudit, measure_correction, too_few_labels
from humpback.evaluation.labels import Labels
from humpback.evaluation.stats import Interval
from humpback.recipe import EvaluateSettings
from humpback.records import Scored
from humpback.store.fingerprint import derive_seed

__all__ = ["AUDITED", "apply_correction", "correct", "correct_scores"]

AUDITED = "p_good_audit"
"""Where a corrected row keeps the P(good) of the audit."""
SAMPLE = 20_000
"""Candidates whose corrected scores place the cut-offs, by the smallest ids: hashes, so no kind is favoured."""


def correct(
    labels: Labels, scored: Callable[[], Iterable[Scored]], settings: EvaluateSettings, *, random_seed: int
) -> dict[str, Any]:
    """Return the correction with what it is worth, or why there is none; `scored` is called twice."""
    by_id = {pair.pair_id: pair for pair in labels.pairs}
    rows = [
        LabelledScores(pair_id=row.id, scores=row.scores, good=by_id[row.id].good, weight=by_id[row.id].weight)
        for row in scored()
        if row.id in by_id and P_GOOD in row.scores
    ]
    counts = {
        "labels": len(rows),
        "good": sum(row.good for row in rows),
        "unscored": len(by_id) - len(rows),
        "gone": labels.gone,
        "split": labels.split,
    }
    if reason := too_few_labels(rows):
        return {
            **counts,
            "refused": reason,
            "correction": None,
            "worth": None,
            "told": f"P(good) stays as it was: {reason}",
        }
    rows.sort(key=lambda row: row.pair_id)
    sample = heapq.nsmallest(SAMPLE, (row for row in scored() if P_GOOD in row.scores), key=lambda row: row.id)
    whole = fit_correction(rows)
    worth = measure_correction(
        rows,
        [row.scores for row in sample],
        cross_correct(rows),
        whole,
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=derive_seed(random_seed, "correction-bootstrap"),
    )
    told = _tell(len(rows), whole, worth)
    return {**counts, "refused": None, "correction": asdict(whole), "worth": asdict(worth), "told": told}


def apply_correction(scored: Iterable[Scored], plain: Mapping[str, Any]) -> Iterator[Scored]:
    """Yield every row with corrected P(good); the audit's stays beside it."""
    correction = Correction.read(plain)
    for row in scored:
        (value,) = correction.apply([row.scores])
        changed = {} if value is None else {P_GOOD: value, AUDITED: row.scores[P_GOOD]}
        yield replace(row, scores={**row.scores, **changed})


def correct_scores(rows: Sequence[Mapping[str, Any]], plain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an audit's rows with P(good) corrected as candidates' is."""
    values = Correction.read(plain).apply([row["scores"] for row in rows])
    return [
        {**row, "scores": row["scores"] | ({} if value is None else {P_GOOD: value})}
        for row, value in zip(rows, values, strict=True)
    ]


def _tell(count: int, correction: Correction, worth: CorrectionAudit) -> str:
    what = {
        "constant": "a constant",
        "slope": "a constant and its slope",
        "signals": "a constant, its slope and single signals",
    }
    before, after = (_tell_auc(interval) for interval in (worth.auc_before, worth.auc_after))
    return (
        f"{count} human labels corrected P(good) by {what[correction.form]}; on labels it was not fitted on, its Brier score went "
        f"from {worth.brier_before:.3f} to {worth.brier_after:.3f} and its AUC from {before} to {after}; "
        f"{worth.good.value:.0%} of the candidates are good ({worth.good.low:.0%} to {worth.good.high:.0%})"
    )


def _tell_auc(interval: Interval | None) -> str:
    return "none" if interval is None else f"{interval.value:.2f}"
