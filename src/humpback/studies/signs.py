"""Does more data still help, kind by kind? In: the fits of a scaling study. Out: one sign of failure each, as a run's report has them.

What is judged is a doubling of N, alpha * log(2): a slope whose interval holds zero is a stall only where it rules out a gain worth
having. Each kind is a chance to be misled, so intervals are widened by Holm: together they are as sure as one would be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from humpback.evaluation.scaling import LogBase, ScalingFit
from humpback.evaluation.signs import MIN_GAIN, MIN_WIN_GAIN, Sign, judge_gain
from humpback.evaluation.stats import Interval
from humpback.studies.outcome import METRICS, Metric

__all__ = ["find_signs"]

Row = dict[str, Any]


def find_signs(
    fits: Sequence[Row], slopes: Mapping[str, ScalingFit], *, metric: Metric, log_base: LogBase, confidence: float
) -> list[Row]:
    """Return one sign per kind of data; a kind without a fit is not checked, and says why. `slopes` are the fits by kind."""
    step = math.log(2) if log_base == "e" else math.log(2, log_base)
    if METRICS[metric] == "higher":
        step = -step  # turned, so that below zero is better
    told = [fit for fit in fits if fit["alpha"] is not None]
    sure = {fit["kind"]: slopes[fit["kind"]] for fit in told if fit["alpha"]["low"] is not None and not fit["doubt"]}
    levels = _widen(sure, metric, step, confidence)
    gains = {kind: _turn(slopes[kind], step, level) for kind, level in levels.items()}
    return [asdict(_judge(fit, metric, step, gains.get(fit["kind"]), len(levels))) for fit in fits]


def _least(metric: Metric) -> float:
    return MIN_WIN_GAIN if metric == "win_rate" else MIN_GAIN


def _turn(slope: ScalingFit, step: float, confidence: float) -> Interval:
    """Return the change that a doubling brings, below zero where it is for the better."""
    alpha = slope.interval(confidence)
    bounds = [None if bound is None else bound * step for bound in (alpha.low, alpha.high)]
    low, high = bounds if step > 0 else reversed(bounds)
    return Interval(value=alpha.value * step, low=low, high=high, n=alpha.n)


def _widen(slopes: Mapping[str, ScalingFit], metric: Metric, step: float, confidence: float) -> dict[str, float]:
    """Return the level of each kind's interval: the surest of m kinds at one m-th of the error, the next at one of m - 1, and so on
    until one is left open."""
    least = _least(metric)

    def error(kind: str) -> float:
        doubled = slopes[kind].draws[~np.isnan(slopes[kind].draws)] * step  # as intervals are taken
        return min(float((doubled >= 0).mean()), float((doubled <= -least).mean()))

    levels: dict[str, float] = {}
    level, decided = confidence, True
    for rank, kind in enumerate(sorted(slopes, key=error)):
        if decided:
            level = 1 - (1 - confidence) / (len(slopes) - rank)
        levels[kind] = level
        decided = decided and judge_gain(_turn(slopes[kind], step, level), least=least).state != "cannot tell"
    return levels


def _judge(fit: Row, metric: Metric, step: float, widened: Interval | None, kinds: int) -> Sign:
    least, (unit, digits) = _least(metric), ("points", 2) if metric == "win_rate" else ("nats per token", 4)
    what = f"{metric} stalls or falls with more data of kind {fit['kind']}"
    limit = (
        "per doubling of N the whole interval is on the worse side of 0 (falls), or holds 0 and rules out a gain of "
        f"{least:g} {unit} (stalls)" + (f"; intervals are corrected for {kinds} kinds (Holm)" if kinds > 1 else "")
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
    value = fit["alpha"]["value"] * abs(step)
    change = widened or Interval(value=value, low=None, high=None, n=fit["alpha"]["n"])
    gain = judge_gain(change, least=least)
    told = f"{gain.word}: {value:+.{digits}f} {unit} for each doubling"
    shown = change if step > 0 else change.negated()
    if shown.low is not None:
        told += f" ({shown.low:+.{digits}f} to {shown.high:+.{digits}f})"
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
