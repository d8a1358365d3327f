"""The judge: what it reports comes from models that saw nothing of the pair, and what is stored is what was fitted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from humpback.errors import StorageError
from humpback.evaluation.calibration import P_GOOD, fit_calibration, measure_reliability
from humpback.evaluation.judge import CLASSES, Evidence, choose_settings, cross_judge, fit_judge, load_judge
from humpback.evaluation.learning import Projection, fit_logistic
from humpback.evaluation.probe import PREFIX, States
from humpback.evaluation.stats import auc

KINDS = ("true", "cut_end", "voice")
LAYERS = (1, 2, 3, 4)


def _rows(pairs: int, *, informative: bool, seed: int = 0, folds: int = 3) -> list[Evidence]:
    """Rows whose states and lift tell kinds apart, or tell the pair and its class by heart and nothing else."""
    draw = np.random.default_rng(seed)
    rows = []
    for pair in range(pairs):
        for label, kind in enumerate(KINDS):
            hidden = draw.normal(size=(2, 4, 6)).astype(np.float32)
            lift = float(draw.normal())
            if informative:
                hidden[0, 3, 0] += 6.0 * (label == 1)
                hidden[1, 3, 1] += 6.0 * (label == 2)
                lift += 1.0 * (label == 0)
            rows.append(
                Evidence(
                    pair_id=str(pair),
                    kind=kind,
                    fold=pair % folds,
                    scores={"lift": lift},
                    states=States(hidden, -1.0 * (informative and label == 1)),
                )
            )
    return rows


def _auc(rows: Sequence[Evidence], scores: Sequence[dict[str, float]], name: str, kind: str) -> float:
    by_kind = {
        wanted: np.array([s[name] for row, s in zip(rows, scores, strict=True) if row.kind == wanted])
        for wanted in ("true", kind)
    }
    return float(auc(by_kind["true"], by_kind[kind]))


def test_probe_and_p_good_tell_what_the_states_tell() -> None:
    rows = _rows(40, informative=True)
    scores = cross_judge(rows, choose_settings(rows))
    for kind in KINDS[1:]:
        assert _auc(rows, scores, "probe", kind) > 0.9
        assert _auc(rows, scores, P_GOOD, kind) > 0.9
    voice = [s for row, s in zip(rows, scores, strict=True) if row.kind == "voice"]
    parts = [np.mean([s[PREFIX + kind] for s in voice]) for kind in KINDS[1:]]
    assert parts[1] < parts[0]  # it says which way a pair is spoilt


def test_no_pair_is_judged_by_what_learnt_from_it() -> None:
    """States without any information that a leak would tell by heart: with more features than rows every leak is perfect."""
    rows = _rows(30, informative=False)
    scores = cross_judge(rows, choose_settings(rows))
    for kind in KINDS[1:]:
        assert 0.25 < _auc(rows, scores, "probe", kind) < 0.75
        assert 0.25 < _auc(rows, scores, P_GOOD, kind) < 0.75


def test_scores_of_a_fold_do_not_depend_on_what_is_in_it() -> None:
    rows = _rows(24, informative=True)
    settings = choose_settings(rows)
    held_out = [i for i, row in enumerate(rows) if row.fold == 0]
    fewer = [row for i, row in enumerate(rows) if row.fold != 0 or i in held_out[:3]]
    whole, part = cross_judge(rows, settings), cross_judge(fewer, settings)
    kept = [i for i, row in enumerate(fewer) if row.fold == 0]
    for i, j in zip(held_out[:3], kept, strict=True):
        assert whole[i] == pytest.approx(part[j])


def test_layers_of_a_fold_are_chosen_without_it() -> None:
    rows = _rows(24, informative=True)
    other = [row for row in _rows(24, informative=False, seed=9) if row.fold == 0]
    swapped = [row for row in rows if row.fold != 0] + other
    assert choose_settings(rows)[0] == choose_settings(swapped)[0]


def test_kind_left_out_is_learnt_from_nowhere() -> None:
    rows = _rows(24, informative=True)
    settings = choose_settings(rows)
    scores = cross_judge(rows, settings, without="voice")
    assert not any(PREFIX + "voice" in row for row in scores)
    silent = [row for row in rows if row.kind != "voice"]
    again = cross_judge(silent, settings)
    kept = [s for row, s in zip(rows, scores, strict=True) if row.kind != "voice"]
    assert [s[P_GOOD] for s in kept] == pytest.approx([s[P_GOOD] for s in again])


def test_stored_judge_is_the_fitted_one(tmp_path: Path) -> None:
    rows = _rows(24, informative=True)
    judge = fit_judge(rows, LAYERS)
    path = tmp_path / "judge.npz"
    path.write_bytes(judge.to_bytes())
    again = load_judge(path)
    assert judge.probe is not None
    assert again.probe is not None
    assert (again.probe.layers, again.probe.strength, again.probe.kinds) == (
        judge.probe.layers,
        judge.probe.strength,
        judge.probe.kinds,
    )
    places = [LAYERS.index(layer) for layer in judge.probe.layers]
    states = [States(row.states.hidden[:, places], 0.0) for row in rows if row.states]
    assert again.probe.read(states) == judge.probe.read(states)
    scores = [{**row.scores, "end_logprob": 0.0} for row in rows]
    assert again.calibration.p_good(scores) == judge.calibration.p_good(scores)
    assert set(judge.probe.layers) <= set(LAYERS)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"cut"])
def test_damaged_judge_is_refused_and_says_what_to_do(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "judge.npz"
    path.write_bytes(fit_judge(_rows(24, informative=True), LAYERS).to_bytes()[:200] if damage == b"cut" else damage)
    with pytest.raises(StorageError, match=r"is damaged .* run again with --rerun-from"):
        load_judge(path)


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "judge.npz"
    with path.open("wb") as file:
        np.savez(file, told=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StorageError, match="damaged"):
        load_judge(path)


def test_judge_without_states_has_no_probe(tmp_path: Path) -> None:
    rows = [Evidence(**{**vars(row), "states": None}) for row in _rows(24, informative=True)]
    assert set(choose_settings(rows).values()) == {None}
    judge = fit_judge(rows, LAYERS)
    assert judge.probe is None
    path = tmp_path / "judge.npz"
    path.write_bytes(judge.to_bytes())
    assert load_judge(path).probe is None


# -- calibration -----------------------------------------------------------------------------------------------------------


def _calibration_rows(count: int, seed: int, missing: float = 0.0) -> tuple[list[dict[str, float]], np.ndarray]:
    draw = np.random.default_rng(seed)
    classes = np.array([n % 2 for n in range(count)])
    rows = []
    for label in classes:
        row = {"a": float(draw.normal(1.0 - label)), "b": float(draw.normal(0.5 - label / 2))}
        if draw.random() < missing:
            del row["a"]
        rows.append(row)
    return rows, classes


def test_p_good_means_what_it_says_on_new_rows() -> None:
    calibration = fit_calibration(*_calibration_rows(2000, 1))
    rows, classes = _calibration_rows(4000, 2)
    p_good = [p for p in calibration.p_good(rows) if p is not None]
    reliability = measure_reliability(p_good, classes)
    assert reliability.ece < 0.04
    assert reliability.brier < 0.22
    assert sum(entry["weight"] for entry in reliability.bins) == pytest.approx(1.0)


def test_over_confident_p_good_shows_in_the_reliability() -> None:
    rows, classes = _calibration_rows(2000, 3)
    bold = [1.0 if row["a"] > 0.5 else 0.0 for row in rows]
    assert measure_reliability(bold, classes).ece > 0.2


def test_columns_that_say_nothing_do_not_make_p_good_over_confident() -> None:
    def read(count: int, seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
        rows, classes = _calibration_rows(count, seed)
        noise = np.random.default_rng(seed + 100).normal(size=(count, 20))
        return [
            row | {f"n{i}": float(v) for i, v in enumerate(more)} for row, more in zip(rows, noise, strict=True)
        ], classes

    rows, classes = read(2000, 9)
    p_good = [p for p in fit_calibration(*read(120, 8)).p_good(rows) if p is not None]
    assert measure_reliability(p_good, classes).ece < 0.15


def test_missing_value_is_neither_low_nor_high() -> None:
    calibration = fit_calibration(*_calibration_rows(2000, 4, missing=0.3))
    assert calibration.marked == ("a",)
    lacking, low, high = calibration.p_good([{"b": 0.0}, {"a": -3.0, "b": 0.0}, {"a": 4.0, "b": 0.0}])
    assert lacking is not None
    assert low is not None
    assert high is not None
    assert low < 0.35 < lacking < 0.65 < high


def test_column_that_was_never_missing_may_be_missing_later() -> None:
    calibration = fit_calibration(*_calibration_rows(500, 5))
    (value,) = calibration.p_good([{"b": 0.25}])
    assert value is not None
    assert 0.3 < value < 0.7


def test_row_without_any_signal_has_no_p_good() -> None:
    calibration = fit_calibration(*_calibration_rows(100, 6))
    assert calibration.p_good([{}, {"other": 1.0}]) == [None, None]


def test_values_beyond_the_audits_count_as_its_last_ones() -> None:
    calibration = fit_calibration(*_calibration_rows(500, 7))
    far, farther = calibration.p_good([{"a": 50.0, "b": 0.0}, {"a": 5000.0, "b": 0.0}])
    assert far == farther


# -- learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4, 80])
def test_model_told_in_features_is_the_one_fitted_on_components(width: int) -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(40, width)) * draw.uniform(0.1, 9, size=width) + 3
    classes = np.array([n % 3 for n in range(40)])
    features[:, 0] += classes * 5
    projection = Projection(features)
    model = projection.fit(classes, strength=0.1)
    assert model.classes == (0, 1, 2)
    direct = fit_logistic(features, classes, strength=0.1)
    assert np.corrcoef(model.margins(features), direct.margins(features))[0, 1] > 0.99


def test_two_classes_give_the_log_odds_of_the_first() -> None:
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]] * 10)
    classes = np.array([1, 1, 0, 0] * 10)
    margins = fit_logistic(features, classes, strength=1.0).margins(features[:4])
    assert list(margins > 0) == [False, False, True, True]
    assert margins[0] < margins[1] < margins[2] < margins[3]


def test_first_class_weighs_as_much_as_all_others() -> None:
    """One true row among twelve spoilt ones: with features that say nothing the log-odds must be even."""
    draw = random.Random(0)
    classes = np.array([n % len(CLASSES) for n in range(len(CLASSES) * 20)])
    features = np.array([[draw.gauss(0, 1)] for _ in classes])
    margins = fit_logistic(features, classes, strength=1e-6).margins(features)
    assert margins == pytest.approx(np.zeros(len(classes)), abs=0.02)
