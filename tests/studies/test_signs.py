"""Whether more data of a kind still helps is judged by a doubling, in the direction in which the metric is better."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from humpback.evaluation.scaling import LogBase, ScalingFit
from humpback.evaluation.stats import Interval
from humpback.studies.outcome import Metric
from humpback.studies.signs import find_signs


def _fit(low: float | None, high: float | None, kind: str = "curated") -> dict[str, Any]:
    value = 0.0 if low is None or high is None else (low + high) / 2
    return {"kind": kind, "alpha": {"value": value, "low": low, "high": high, "n": 200}, "why": None, "doubt": None}


def _find(fits: list[dict[str, Any]], metric: Metric, base: LogBase = "e", **missing: int) -> list[dict[str, Any]]:
    """Return the signs of slopes whose resamples lie evenly, such that 95 % of them are within the bounds of each fit.

    `missing` are resamples by kind that hold no seed of its own.
    """
    slopes = {}
    for fit in fits:
        if alpha := fit["alpha"]:
            low, high = alpha["low"] or 0.0, alpha["high"] or 0.0
            tail = (high - low) * 0.025 / 0.95
            draws = np.linspace(low - tail, high + tail, 20_001)
            interval = Interval(**alpha)
            draws = np.concatenate([draws, np.full(missing.get(fit["kind"], 0), np.nan)])
            slopes[fit["kind"]] = ScalingFit(
                alpha=interval, intercept=0.0, log_base=base, r_squared=None, sizes=(1, 2), draws=draws
            )
    return find_signs(fits, slopes, metric=metric, log_base=base, confidence=0.95)


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
    (sign,) = _find([_fit(low, high)], metric)
    assert (sign["state"], word in sign["told"]) == (state, True), sign
    assert (sign["advice"] == "") == (state == "not found")
    assert "curated" in sign["what"]


@pytest.mark.parametrize("base", ["e", 2, 10])
def test_base_of_the_logarithm_changes_no_judgement(base: LogBase) -> None:
    per_doubling = 0.006
    alpha = per_doubling / math.log(2) * (1 if base == "e" else math.log(base))
    (sign,) = _find([_fit(-alpha, alpha / 10)], "nll", base)
    assert sign["state"] == "cannot tell"  # a gain of 0.006 is possible, and 0.005 is worth having


def test_kind_without_a_fit_is_not_checked_and_says_why() -> None:
    (sign,) = _find([{"kind": "seed", "alpha": None, "why": "1 size was measured", "doubt": None}], "nll")
    assert (sign["state"], sign["told"]) == ("not checked", "1 size was measured")
    assert sign["advice"]


def test_win_rates_of_a_judge_that_is_not_believed_are_not_checked() -> None:
    fit = {**_fit(-5.0, -4.0), "doubt": "the judge is not believed on size=60: a coin"}
    (sign,) = _find([fit], "win_rate")
    assert (sign["state"], sign["told"]) == ("not checked", fit["doubt"])
    assert "judge" in sign["advice"]


def test_kinds_are_judged_together_as_surely_as_one_would_be() -> None:
    alone = _fit(0.0005, 0.05, "a")  # falls, if barely
    open_ = [_fit(-0.05, 0.03, kind) for kind in "bcde"]
    (sign,) = _find([alone], "nll")
    assert (sign["state"], "Holm" in sign["limit"]) == ("found", False)
    found = {sign["what"][-1]: sign for sign in _find([alone, *open_], "nll")}
    assert "falls" not in found["a"]["told"], "the surest of five is held to a fifth of the error"
    assert "corrected for 5 kinds (Holm)" in found["a"]["limit"]


def test_kind_that_is_surely_decided_leaves_its_share_of_the_error_to_the_next() -> None:
    barely, sure = _fit(0.0005, 0.05, "b"), _fit(0.5, 0.6, "a")
    open_ = _fit(-0.05, 0.03, "b")
    states = [
        [sign["told"].split(":")[0] for sign in _find([first, barely | {"kind": "c"}], "nll")]
        for first in (sure, open_)
    ]
    assert states[0] == ["falls", "falls"]
    assert states[1][1] == "stalls"


def test_kind_is_no_surer_for_resamples_that_lack_its_seeds() -> None:
    # b is decided at a third of the error, c at half, a is open; counted over all resamples a would come first and leave both a third
    fits = [_fit(-0.05, 0.001, "a"), _fit(-0.05, -0.001, "b"), _fit(-0.05, -0.00072, "c")]
    states = [
        [sign["told"].split(":")[0] for sign in _find(fits, "nll", **missing)] for missing in ({}, {"a": 200_000})
    ]
    assert states[0] == states[1]
