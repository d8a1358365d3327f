"""What a sign of failure is, and when a gain has stalled. In: a paired difference with its interval. Out: a state, in words.

A run, a win rate and a study ask the same question: does more augmented data still help? An interval that holds zero is no answer
by itself. It is a stall only where it also rules out a gain worth having; else the pairs are too few to tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from humpback.evaluation.stats import MIN_PAIRS, Interval

__all__ = ["MIN_GAIN", "MIN_WIN_GAIN", "Gain", "Sign", "State", "judge_gain", "worst_state"]

State = Literal["found", "cannot tell", "not checked", "not found"]
"""`cannot tell`: there were figures, and they leave it open. `not checked`: there were none, which is never good news."""

MIN_GAIN = 0.005
"""Nats per token: the least gain of held-out likelihood worth having, half a percent of perplexity. In this project's own probe the
80 best pairs brought 0.017 over the seed alone (METHOD: SmolLM2-135M, 100 seed pairs), so a third of that."""
MIN_WIN_GAIN = 3.0
"""Points of win rate: the paper's own standard error of a win rate (66.47 +/- 3.04)."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One failure signature, looked for."""

    name: str
    """As in `report.json`."""
    what: str
    """The failure, in words."""
    state: State
    told: str
    """The figures that speak for it or against it, or why it was not checked."""
    limit: str
    """From where on it counts as found."""
    advice: str
    """What to do: against it where it is found, or to have it checked. Empty where it was not found."""


class Gain(NamedTuple):
    """Whether something still helps."""

    state: State
    word: str
    """`helps`, `falls`, `stalls`, or why that is open."""


def judge_gain(change: Interval, *, least: float) -> Gain:
    """Judge a change in which below zero is better; `least` is the smallest gain worth having.

    >>> judge_gain(Interval(value=0.0, low=-0.002, high=0.002, n=500), least=0.005)
    Gain(state='found', word='stalls')
    """
    if change.low is None or change.high is None:
        few = f"{change.n} are too few for an interval"
        return Gain("not checked", few if change.n < MIN_PAIRS else "all came out alike, so there is no interval")
    if change.high < 0:
        return Gain("not found", "helps")
    if change.low > 0:
        return Gain("found", "falls")
    if change.low > -least:
        return Gain("found", "stalls")
    return Gain("cannot tell", "the interval holds zero and gains worth having")


def worst_state(states: list[State]) -> State:
    """Return what several looks come to: found in one is found, and one that was not made leaves the whole open."""
    if "found" in states:
        return "found"
    if states and all(state == "not checked" for state in states):
        return "not checked"
    return "cannot tell" if {"cannot tell", "not checked"} & set(states) else "not found" if states else "not checked"
