"""Correction of P(good) by labels: it closes a shift, learns nothing it is judged by, and what it promises is true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest

from humpback.evaluation.correction import Correction, LabelledScores, choose_fold, cross_correct, fit_correction
from humpback.evaluation.correctionaudit import (
    MIN_EACH,
    MIN_LABELS,
    CorrectionAudit,
    measure_correction,
    too_few_labels,
)
from humpback.records import content_id


def world(count: int, seed: int, *, noise: int = 0, share: float = 0.25, told: float = 1.5) -> list[LabelledScores]:
    """Return candidates of which `share` are good; P(good) takes half of them for good, and tells them by `told`."""
    dice = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        good = bool(dice.random() < share)
        margin = told * (1 if good else -1) + dice.normal() + 1.0
        scores = {"p_good": float(1 / (1 + np.exp(-margin)))}
        scores |= {f"noise_{i}": float(dice.normal()) for i in range(noise)}
        rows.append(LabelledScores(pair_id=content_id(str(seed), str(number)), scores=scores, good=good, weight=1.0))
    return rows


def judge(labelled: Sequence[LabelledScores], everyone: Sequence[LabelledScores]) -> tuple[Correction, CorrectionAudit]:
    whole = fit_correction(labelled)
    scores = [row.scores for row in everyone]
    folds = cross_correct(labelled)
    return whole, measure_correction(labelled, scores, folds, whole, confidence=0.95, resamples=200, seed=1)


def test_a_correction_closes_the_shift_between_audit_and_candidates() -> None:
    everyone = world(3000, 1)
    whole, audit = judge(everyone[:120], everyone)
    assert audit.brier_after < 0.8 * audit.brier_before
    fresh = everyone[120:]
    corrected = [value for value in whole.apply([row.scores for row in fresh]) if value is not None]
    assert np.mean([row.scores["p_good"] for row in fresh]) > 0.45
    assert np.mean(corrected) == pytest.approx(np.mean([row.good for row in fresh]), abs=0.06)
    assert audit.good.low is not None
    assert audit.good.high is not None
    assert audit.good.low < 0.25 < audit.good.high


def test_a_signal_that_knows_what_p_good_does_not_is_learnt_from_enough_labels() -> None:
    rows = [
        replace(row, scores={**row.scores, "rating": row.good + 0.3 * i % 1})
        for i, row in enumerate(world(300, 2, told=0.1))
    ]
    whole, audit = judge(rows, rows)
    assert whole.form == "signals"
    assert audit.auc_before is not None
    assert audit.auc_after is not None
    assert audit.auc_after.value > audit.auc_before.value + 0.2


def test_labels_without_meaning_are_not_made_to_look_meaningful() -> None:
    dice = np.random.default_rng(3)
    rows = [replace(row, good=bool(dice.random() < 0.5)) for row in world(80, 3, noise=20)]
    _, audit = judge(rows, rows)
    assert audit.auc_after is not None
    assert audit.auc_after.low is not None
    assert audit.auc_after.low < 0.5, "twenty columns of noise fit eighty labels, but not those held out"
    assert all(point.precision_low < 0.6 for point in audit.points)


def test_no_label_bears_on_the_correction_that_judges_it() -> None:
    rows = world(80, 4, noise=3)
    for fold, correction in cross_correct(rows).items():
        turned = [replace(row, good=not row.good) if choose_fold(row.pair_id) == fold else row for row in rows]
        assert cross_correct(turned)[fold] == correction


def test_few_labels_change_no_more_than_the_constant() -> None:
    assert {fit_correction(world(40, seed, noise=8)).form for seed in range(5)} <= {"constant", "slope"}


def test_a_label_that_speaks_for_more_candidates_counts_more() -> None:
    rows = world(200, 5)
    heavy = [replace(row, weight=4.0 if row.good else 1.0) for row in rows]
    plain, weighted = (fit_correction(some).apply([{"p_good": 0.5}])[0] for some in (rows, heavy))
    assert plain is not None
    assert weighted is not None
    assert weighted > 2 * plain


def test_a_row_without_p_good_stays_without() -> None:
    rows = world(60, 6)
    assert fit_correction(rows).apply([{"rating": 5.0}, {"p_good": 0.5}])[0] is None


def test_a_correction_survives_json() -> None:
    whole = fit_correction(world(60, 7, noise=2))
    assert Correction.read(json.loads(json.dumps(asdict(whole)))) == whole


@pytest.mark.parametrize(("good", "bad"), [(MIN_EACH - 1, MIN_LABELS), (MIN_LABELS, MIN_EACH - 1), (15, 20), (0, 0)])
def test_too_few_labels_are_refused_with_how_many_are_needed(good: int, bad: int) -> None:
    rows = [replace(row, good=i < good) for i, row in enumerate(world(good + bad, 8))]
    reason = too_few_labels(rows)
    assert reason is not None
    assert f"{good} good, {bad} bad" in reason
    assert f"{MIN_LABELS} with {MIN_EACH} of each" in reason


def test_enough_labels_are_not_refused() -> None:
    rows = [replace(row, good=i < MIN_EACH) for i, row in enumerate(world(MIN_LABELS, 9))]
    assert too_few_labels(rows) is None


def test_promises_of_precision_are_kept_on_the_candidates_that_nobody_labelled() -> None:
    """Of 20 draws of labels, at most one may promise more than is true: bounds hold at once with 97.5 %."""
    everyone, broken, made = world(4000, 10), 0, 0
    for draw in range(20):
        chosen = set(np.random.default_rng(draw).choice(len(everyone), 100, replace=False).tolist())
        labelled = [everyone[i] for i in sorted(chosen)]
        whole, audit = judge(labelled, everyone)
        rest = [row for i, row in enumerate(everyone) if i not in chosen]
        values = whole.apply([row.scores for row in rest])
        for point in audit.points:
            kept = [
                row.good
                for row, value in zip(rest, values, strict=True)
                if value is not None and value >= point.threshold
            ]
            made += point.precision_low > 0
            broken += float(np.mean(kept)) < point.precision_low
    assert made > 50
    assert broken <= 1
