"""Change of the audited AUC between two models: paired, so that what is hard for both is no difference."""

from __future__ import annotations

import random
from typing import Any

import pytest

from humpback.evaluation.auditchange import AuditChange, compare_audits


def _rows(seed: int, gap: float, pairs: int = 30, signal: str = "p_good") -> list[dict[str, Any]]:
    """Return an audit whose true pairs score `gap` above their corruptions; each pair has a level of its own."""
    dice, rows = random.Random(seed), []
    for number in range(pairs):
        level = random.Random(number).gauss(0, 1)
        for kind in ("true", "cut_end", "voice"):
            value = level + dice.gauss(0, 0.3) + (gap if kind == "true" else 0)
            rows.append({"pair_id": str(number), "kind": kind, "scores": {signal: value}})
    return rows


def _compare(before: list[dict[str, Any]], now: list[dict[str, Any]], signal: str = "p_good") -> AuditChange:
    return compare_audits(before, now, signal, resamples=500, confidence=0.95, seed=1)


def test_a_model_that_judges_worse_falls() -> None:
    change = _compare(_rows(1, 2.0), _rows(2, 0.2))
    assert change.fell
    assert change.difference is not None
    assert change.difference.value < -0.2
    assert not _compare(_rows(2, 0.2), _rows(1, 2.0)).fell


def test_the_same_judge_is_no_change_at_all() -> None:
    change = _compare(_rows(1, 1.0), _rows(1, 1.0))
    assert change.difference is not None
    assert (change.difference.value, change.difference.low, change.difference.high) == (0, 0, 0)
    assert not change.fell


def test_a_signal_whose_low_values_are_good_is_turned() -> None:
    change = _compare(_rows(1, -2.0, signal="ifd"), _rows(2, -0.2, signal="ifd"), "ifd")
    assert change.fell


def test_pairing_makes_the_interval_narrow_where_pairs_differ_more_than_models() -> None:
    change = _compare(_rows(1, 1.0, pairs=60), _rows(2, 1.0, pairs=60))
    assert change.difference is not None
    assert change.difference.low is not None
    assert change.difference.high is not None
    assert change.difference.low <= 0 <= change.difference.high
    assert change.difference.high - change.difference.low < 0.12


def test_only_kinds_that_both_audits_have_count_and_without_any_there_is_no_difference() -> None:
    before = [row for row in _rows(1, 2.0) if row["kind"] != "voice"]
    change = _compare(before, _rows(1, 2.0))
    assert change.difference is not None
    assert change.difference.value == pytest.approx(0)
    assert _compare(before, _rows(1, 2.0), "rating").difference is None


def test_too_few_pairs_give_no_interval_and_never_fall() -> None:
    change = _compare(_rows(1, 2.0, pairs=5), _rows(2, -2.0, pairs=5))
    assert change.difference is not None
    assert change.difference.low is None
    assert not change.fell
