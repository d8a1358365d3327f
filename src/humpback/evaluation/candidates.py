"""What the candidates' scores look like: beside the audit's, and beside those of the model before. In: scored rows. Out: JSON.

Three questions. Do the scores still tell candidates apart, or have they collapsed into one value? Are candidates like the audit's
pairs, on which every promise rests? And does the new model see them as the one before did?
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from humpback.evaluation.agreement import cohen_kappa
from humpback.evaluation.calibration import P_GOOD, pick_columns
from humpback.evaluation.learning import Floats, Labels, Projection, log_odds
from humpback.evaluation.precision import estimate_prevalence
from humpback.evaluation.rating import NOT_GIVEN
from humpback.evaluation.signals import SIGNALS
from humpback.evaluation.stats import auc
from humpback.records import Scored

__all__ = ["compare_models", "describe_scores"]

SAMPLE = 2000
"""Candidates looked at where all are too many, by the smallest ids: hashes, so no kind of candidate is favoured."""
BINS = 10
COLLAPSED_BITS = 0.5
"""Scores that say less than this, of the 3.3 bits of ten even bins, have collapsed."""
FOLDS = 5
LEVELS = 5
SHIFTED = 0.75
"""From this AUC on a classifier tells candidates from audit pairs well enough to doubt what the audit promises."""


def describe_scores(
    scored: Callable[[], Iterable[Scored]], names: Sequence[str], audit_rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return how many candidates have a value, how much their scores say, how like the audit they are, and P(good) on both."""
    count, with_value, unparsed = 0, dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    not_given = {name: dict.fromkeys(NOT_GIVEN, 0) for name in names}
    p_good: list[float] = []
    for row in scored():
        count += 1
        for name in names:
            with_value[name] += name in row.scores
            word = row.missing.get(name, "").partition(":")[0]
            if word in not_given[name]:
                not_given[name][word] += 1
                unparsed[name] += 1
        if P_GOOD in row.scores:
            p_good.append(row.scores[P_GOOD])
    sample = [row.scores for row in heapq.nsmallest(SAMPLE, scored(), key=lambda row: row.id)]
    audited = [row["scores"] for row in audit_rows]
    shown = [name for name in [*names, P_GOOD] if any(name in row for row in sample)]
    return {
        "candidates": count,
        "with_value": with_value,
        "unparsed": unparsed,
        "not_given": not_given,
        "prevalence": estimate_prevalence(p_good),
        "entropy": {name: _tell_entropy(name, sample, audited) for name in shown},
        "shift": _measure_shift(sample, audit_rows) if p_good else None,
    }


def _tell_entropy(
    name: str, sample: Sequence[Mapping[str, float]], audited: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Return the entropy of the candidates' scores over ten bins that hold the audit's scores evenly, or their own range."""
    values = np.array([row[name] for row in sample if name in row])
    known = np.array([row[name] for row in audited if name in row])
    if len(known) >= BINS and len(np.unique(known)) > 1:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
    else:
        edges = np.linspace(values.min(), values.max(), BINS + 1)[1:-1]
    shares = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / len(values)
    bits = float(sum(share * -math.log2(share) for share in shares if share))  # of one bin 0, not -0
    return {"bits": bits, "collapsed": bits < COLLAPSED_BITS, "n": len(values)}


def _measure_shift(sample: Sequence[Mapping[str, float]], audit_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how well a classifier on the scores tells candidates from true audit pairs, and from all of the audit."""
    true = [row["scores"] for row in audit_rows if row["kind"] == "true"]
    everything = [row["scores"] for row in audit_rows]
    means = {
        "candidates": _mean(sample),
        "true": _mean(true),
        "corrupted": _mean([row["scores"] for row in audit_rows if row["kind"] != "true"]),
    }
    against = _tell_apart(everything, sample)
    return {
        "auc": against,
        "auc_true": _tell_apart(true, sample),
        "p_good": means,
        "meaning": _tell_meaning(against),
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> float | None:
    values = [row[P_GOOD] for row in rows if P_GOOD in row]
    return sum(values) / len(values) if values else None


def _tell_apart(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> float | None:
    rows = [*first, *second]
    columns = [
        name for name in pick_columns(rows) if any(name in row for row in first) and any(name in row for row in second)
    ]
    if not columns or min(len(first), len(second)) < 2 * FOLDS:
        return None
    table: Floats = np.array([[row.get(name, np.nan) for name in columns] for row in rows])
    table = np.where(np.isnan(table), np.nanmean(table, axis=0), table)
    classes = np.array([0] * len(first) + [1] * len(second))
    folds = np.arange(len(rows)) % FOLDS
    margins = log_odds(Projection(table).cross(classes, folds, strength=0.1))
    return float(auc(margins[classes == 0], margins[classes == 1]))


def _tell_meaning(told_apart: float | None) -> str:
    if told_apart is None:
        return "too few rows to tell how like the audit the candidates are: a promised precision is untested on them"
    if told_apart < SHIFTED:
        return (
            f"a classifier tells candidates from audit pairs with AUC {told_apart:.2f}: they are much alike, "
            "and what the audit promises may be carried over to them"
        )
    return (
        f"a classifier tells candidates from audit pairs with AUC {told_apart:.2f}: the audit is made of seed-like text and the "
        "candidates are another kind of text, so a promised precision holds for pairs like the audit's and is a guess here; "
        "human labels of candidates would close the gap"
    )


def compare_models(before: Iterable[Scored], after: Iterable[Scored], names: Sequence[str]) -> dict[str, Any]:
    """Return per signal how far two models agree on the same candidates: weighted kappa and rank correlation."""
    old = {row.id: row.scores for row in heapq.nsmallest(SAMPLE, before, key=lambda row: row.id)}
    new = {row.id: row.scores for row in heapq.nsmallest(SAMPLE, after, key=lambda row: row.id)}
    result = {}
    for name in [*names, P_GOOD]:
        both = [i for i in old if name in old[i] and name in new.get(i, {})]
        if len(both) > 2:
            first, second = (np.array([scores[i][name] for i in both]) for scores in (old, new))
            result[name] = {
                "n": len(both),
                "kappa": cohen_kappa(_levels(name, first).tolist(), _levels(name, second).tolist(), ordinal=True),
                "spearman": _spearman(first, second),
            }
    return result


def _levels(name: str, values: Floats) -> Labels:
    """Return 0 to 4: a rating's nearest whole score, of anything else the fifth it falls in among its own model's scores."""
    if name in SIGNALS and SIGNALS[name].has_scale:
        return np.clip(np.floor(values + 0.5).astype(np.int64) - 1, 0, LEVELS - 1)
    return np.searchsorted(np.quantile(values, np.linspace(0, 1, LEVELS + 1)[1:-1]), values)


def _spearman(first: Floats, second: Floats) -> float | None:
    from scipy.stats import spearmanr

    if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return None
    return float(spearmanr(first, second).statistic)
