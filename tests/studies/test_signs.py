"""Whether more data of a kind still helps is judged by a doubling, in the direction in which the metric is better."""

from __future__ import annotations

import math
from typing import Any

import pytest

from humpback.evaluation.scaling import LogBase
from humpback.studies.outcome import Metric
from humpback.studies.signs import find_signs


def _fit(low: float | None, high: float | None) -> dict[str, Any]:
    value = 0.0 if low is None or high is None else (low + high) / 2
    return {
        "kind": "curated",
        "alpha": {"value": value, "low": low, "high": high, "n": 200},
        "why": None,
        "doubt": None,
    }


@pytest.mark.parametrize(
    ("metric", "low", "high", "state", "word"),
    [
        ("nll", -0.05, -0.01, "not found", "helps: -0.0208"),
        ("nll", 0.01, 0.05, "found", "falls"),
        ("nll", -0.004, 0.004, "found", "stalls"),
        ("nll", -0.03, 0.01, "cannot tell", "gains worth having"),
        ("lift", 0.01, 0.05, "not found", "helps: +0.0208"),
        ("lift", -0.05, -0.01, "found", "falls"),
        ("lift", -0.01, 0.03, "cannot tell", "gains worth having"),
        ("win_rate", 6.0, 12.0, "not found", "helps: +6.24 points"),
        ("win_rate", -1.0, 2.0, "found", "stalls: +0.35 points"),
        ("win_rate", None, None, "not checked", "all came out alike"),
    ],
)
def test_slope_is_judged_in_the_metrics_own_direction(
    metric: Metric, low: float | None, high: float | None, state: str, word: str
) -> None:
    (sign,) = find_signs([_fit(low, high)], metric=metric, log_base="e")
    assert (sign["state"], word in sign["told"]) == (state, True), sign
    assert (sign["advice"] == "") == (state == "not found")
    assert "curated" in sign["what"]


@pytest.mark.parametrize("base", ["e", 2, 10])
def test_base_of_the_logarithm_changes_no_judgement(base: LogBase) -> None:
    per_doubling = 0.006
    alpha = per_doubling / math.log(2) * (1 if base == "e" else math.log(base))
    (sign,) = find_signs([_fit(-alpha, alpha / 10)], metric="nll", log_base=base)
    assert sign["state"] == "cannot tell"  # a gain of 0.006 is possible, and 0.005 is worth having


def test_kind_without_a_fit_is_not_checked_and_says_why() -> None:
    (sign,) = find_signs(
        [{"kind": "seed", "alpha": None, "why": "1 size was measured", "doubt": None}], metric="nll", log_base="e"
    )
    assert (sign["state"], sign["told"]) == ("not checked", "1 size was measured")
    assert sign["advice"]


def test_win_rates_of_a_judge_that_is_not_believed_are_not_checked() -> None:
    fit = {**_fit(-5.0, -4.0), "doubt": "the judge is not believed on size=60: a coin"}
    (sign,) = find_signs([fit], metric="win_rate", log_base="e")
    assert (sign["state"], sign["told"]) == ("not checked", fit["doubt"])
    assert "judge" in sign["advice"]
