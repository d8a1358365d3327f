"""Does more data still help, kind by kind? In: the fits of a scaling study. Out: one sign of failure each, as a run's report has them.

What is judged is a doubling of N, alpha * log(2): a slope whose interval holds zero is a stall only where it rules out a gain worth
having.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from humpback.evaluation.scaling import LogBase
from humpback.evaluation.signs import MIN_GAIN, MIN_WIN_GAIN, Sign, judge_gain
from humpback.evaluation.stats import Interval
from humpback.studies.outcome import METRICS, Metric

__all__ = ["find_signs"]

Row = dict[str, Any]


def find_signs(fits: Sequence[Row], *, metric: Metric, log_base: LogBase) -> list[Row]:
    """Return one sign per kind of data; a kind without a fit is not checked, and says why."""
    step = math.log(2) if log_base == "e" else math.log(2, log_base)
    return [asdict(_judge(fit, metric, step)) for fit in fits]


def _judge(fit: Row, metric: Metric, step: float) -> Sign:
    least, unit, digits = (MIN_WIN_GAIN, "points", 2) if metric == "win_rate" else (MIN_GAIN, "nats per token", 4)
    what = f"{metric} stalls or falls with more data of kind {fit['kind']}"
    limit = (
        "per doubling of N the whole interval is on the worse side of 0 (falls), or holds 0 and rules out a gain of "
        f"{least:g} {unit} (stalls)"
    )
    if fit["alpha"] is None or fit["doubt"]:
        return Sign(
            name="data_brings_nothing",
            what=what,
            state="not checked",
            told=fit["why"] or fit["doubt"],
            limit=limit,
            advice="name more sizes under sizes, or see why cells failed"
            if fit["why"]
            else "take a judge that can tell these answers apart, or more prompts",
        )
    alpha = fit["alpha"]
    bounds = [None if alpha[key] is None else alpha[key] * step for key in ("value", "low", "high")]
    if METRICS[metric] == "higher":  # turned, so that below zero is better
        bounds = [None if bound is None else -bound for bound in (bounds[0], bounds[2], bounds[1])]
    value, low, high = bounds
    gain = judge_gain(Interval(value=value or 0.0, low=low, high=high, n=alpha["n"]), least=least)
    told = f"{gain.word}: {alpha['value'] * step:+.{digits}f} {unit} for each doubling"
    if low is not None:
        told += f" ({alpha['low'] * step:+.{digits}f} to {alpha['high'] * step:+.{digits}f})"
    cures = {
        "not found": "",
        "found": "do not add more of it as it is: curate it harder, or mix it with the seed (data: seed+curated)",
    }
    return Sign(
        name="data_brings_nothing",
        what=what,
        state=gain.state,
        told=told,
        limit=limit,
        advice=cures.get(gain.state, "measure on more pairs (measure), more seeds, or sizes further apart"),
    )
