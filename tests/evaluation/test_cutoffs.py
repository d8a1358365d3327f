"""Precision and recall at the cut-off: right on hand-made rows, and nothing is told of what has no value."""

from __future__ import annotations

from typing import Any

import pytest

from humpback.evaluation.cutoffs import Curated, choose_cuts, compare_precision, measure_cuts


def _rows(pairs: int = 20, signal: str = "p_good", sign: float = 1.0) -> list[dict[str, Any]]:
    """True pairs: three quarters score 0.9; cut ends: a quarter does; voices: none; all others score 0.1."""
    rows = []
    for number in range(pairs):
        passing = {"true": number % 4 != 0, "cut_end": number % 4 == 0, "voice": False}
        for kind, high in passing.items():
            rows.append({"pair_id": str(number), "kind": kind, "scores": {signal: sign * (0.9 if high else 0.1)}})
    return rows


def _measure(rows: list[dict[str, Any]], cuts: dict[str, float]) -> list[dict[str, Any]]:
    return measure_cuts(rows, cuts, resamples=300, confidence=0.95, seed=1)


def test_recall_and_precision_are_those_of_the_rows() -> None:
    (found,) = _measure(_rows(), {"p_good": 0.5})
    assert (found["signal"], found["cut"]) == ("p_good", 0.5)
    assert found["recall"]["value"] == 0.75
    assert found["recall"]["low"] < 0.75 < found["recall"]["high"]
    precision = {kind: row["value"] for kind, row in found["precision"].items()}
    assert precision == pytest.approx({"cut_end": 0.75, "voice": 1.0, "all": 0.75 / 0.875})
    assert found["precision"]["voice"]["low"] == 1.0
    assert found["precision"]["cut_end"]["low"] < 0.75 < found["precision"]["cut_end"]["high"]


def test_a_signal_whose_low_values_are_good_is_cut_from_above_and_told_as_it_is() -> None:
    (found,) = _measure(_rows(signal="ifd", sign=-1.0), {"ifd": 0.5})
    assert (found["cut"], found["recall"]["value"]) == (-0.5, 0.75)


def test_where_nothing_passes_recall_is_zero_and_there_is_no_precision() -> None:
    (found,) = _measure(_rows(), {"p_good": 2.0})
    assert found["recall"]["value"] == 0
    assert found["precision"] == {}


def test_few_pairs_give_no_interval_and_a_signal_without_values_no_entry() -> None:
    (found,) = _measure(_rows(pairs=4), {"p_good": 0.5, "probe": 0.0})
    assert (found["recall"]["value"], found["recall"]["low"]) == (0.75, None)


def test_a_missing_value_is_neither_passed_nor_stopped() -> None:
    rows = _rows()
    for row in rows[: 3 * 4]:
        row["scores"] = {}
    (found,) = _measure(rows, {"p_good": 0.5})
    assert (found["recall"]["value"], found["precision"]["voice"]["n"]) == (0.75, 16)


def test_cuts_are_the_decided_one_the_threshold_of_ratings_and_an_equal_share_of_the_rest() -> None:
    candidates = [{"p_good": i / 10, "rating": 3.0, "ifd": i / 10} for i in range(11)]
    cuts = choose_cuts(candidates, ["rating", "ifd", "p_good", "probe"], 0.4, decided=("p_good", 0.7), threshold=4.5)
    assert cuts == pytest.approx({"rating": 4.5, "ifd": -0.4, "p_good": 0.7})


def test_change_of_precision_is_paired_by_pair_and_by_the_corruptions_of_both() -> None:
    draw = {"resamples": 300, "confidence": 0.95, "seed": 1}
    first = Curated(_rows(), "p_good", 0.5)
    same = compare_precision(first, Curated(_rows(), "p_good", 0.4), **draw)
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    loose = compare_precision(first, Curated(_rows(), "p_good", 0.0), **draw)  # everything passes: precision is a half
    assert loose is not None
    assert loose.value == pytest.approx(0.5 - 0.75 / 0.875)
    assert loose.high is not None
    assert loose.high < 0
    other = [row for row in _rows() if row["kind"] != "cut_end"]
    alone = compare_precision(first, Curated(other, "p_good", 0.0), **draw)
    assert alone is not None
    assert alone.value == pytest.approx(0.5 - 1.0)  # of voices alone, which the first cut keeps out whole


def test_change_of_precision_has_no_value_where_a_side_has_none() -> None:
    draw = {"resamples": 300, "confidence": 0.95, "seed": 1}
    first = Curated(_rows(), "p_good", 0.5)
    assert compare_precision(first, Curated(_rows(), "probe", 0.5), **draw) is None
    assert compare_precision(first, Curated(_rows(), "p_good", 2.0), **draw) is None
    few = compare_precision(Curated(_rows(4), "p_good", 0.5), Curated(_rows(4), "p_good", 0.0), **draw)
    assert few is not None
    assert few.low is None
