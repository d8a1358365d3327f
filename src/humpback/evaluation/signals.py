"""Signals: numbers that say how good a pair is, each read from a model. One function per signal, one table of them.

A signal without a value for a row says why; no reason is ever turned into a low value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from humpback.engines.base import Capability
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.forward import ForwardReading, Likelihoods, find_missing, read_forward
from humpback.evaluation.probe import States
from humpback.evaluation.raters import ENGINE_ERROR, InstructionResponse, Missing, Raters, Values
from humpback.evaluation.rating import rating, sampled_rating
from humpback.evaluation.textsignals import TextPair, find_faults

__all__ = [
    "ENGINE_ERROR",
    "SIGNALS",
    "InstructionResponse",
    "Missing",
    "Raters",
    "SignalKind",
    "SignalScores",
    "Values",
    "compute_signals",
    "count_calls",
    "find_error",
    "measure_pairs",
]


@dataclass(kw_only=True)
class SignalScores:
    """All scores of one row."""

    scores: dict[str, float]
    missing: dict[str, Missing]


class Measuring(NamedTuple):
    """What a signal is computed from."""

    pairs: Sequence[InstructionResponse]
    raters: Raters
    readings: Sequence[ForwardReading]
    """What M_(t-1) told of each pair, for the signals that are read from it; empty where none is."""


@dataclass(frozen=True, kw_only=True)
class SignalKind:
    """One signal: how to compute it, who must be able to do what, and what it costs."""

    compute: Callable[[Measuring], list[Values | Missing]]
    needs: Capability | None
    """None for a signal that asks no model."""
    cost: str
    """Tokens computed per pair, in words."""
    calls: int
    """Engine requests per pair; of a sampled signal, per reply."""
    iterates: bool
    """Whether it changes with M_(t-1); one that does not gives the same curation in every iteration."""
    has_scale: bool = False
    """Whether its values are scores of 1 to 5, which `curate.threshold` can cut."""
    sampled: bool = False
    """Whether it is drawn `score.samples` times per pair."""
    better: Literal["higher", "lower"] = "higher"
    """Which end of it good pairs have."""
    compares: bool = False
    """Whether it compares the likelihoods of a response, which are read together with the probe's states (`forward.py`)."""
    fitted: bool = False
    """Whether it is learnt from the audit, so that it has no value where that was too small."""

    def direct(self, value: float) -> float:
        """Return the value turned so that higher is better."""
        return value if self.better == "higher" else -value


def count_calls(names: Sequence[str], *, samples: int) -> int:
    """Return the engine requests per pair; replies that have to be asked again come on top."""
    comparing = [name for name in names if SIGNALS[name].compares]
    return sum(
        SIGNALS[name].calls * (samples if SIGNALS[name].sampled else 1)
        for name in names
        if name not in comparing[1:]  # they are read from the first one's answers
    )


def compute_signals(pairs: Sequence[InstructionResponse], names: Sequence[str], raters: Raters) -> list[SignalScores]:
    """Return the scores of each pair, in order; P(good) among them where the raters have a judge.

    An engine's error in a signal that P(good) is made of leaves it out: the pair is not known, however good its other scores.
    """
    fitted = raters.judge.probe if raters.judge and "probe" in names else None
    return measure_pairs(pairs, names, raters, layers=fitted.layers if fitted else ())[0]


def measure_pairs(
    pairs: Sequence[InstructionResponse], names: Sequence[str], raters: Raters, *, layers: Sequence[int]
) -> tuple[list[SignalScores], list[States | Missing | None]]:
    """Return the scores of each pair, and the hidden states of `layers`, read in the same passes; None where none is named."""
    if raters.judge and raters.judge.probe and "probe" in names:
        assert tuple(layers) == raters.judge.probe.layers, "a fitted probe reads the layers it was fitted on"
    likelihoods = any(SIGNALS[name].compares for name in names)
    readings = read_forward(pairs, raters, likelihoods=likelihoods, layers=layers) if likelihoods or layers else []
    measuring = Measuring(pairs, raters, readings)
    rows = [SignalScores(scores={}, missing={}) for _ in pairs]
    for name in names:
        for row, value in zip(rows, SIGNALS[name].compute(measuring), strict=True):
            if isinstance(value, Missing):
                row.missing[name] = value
                row.scores.update(value.counts)
            else:
                row.scores.update(value)
    if raters.judge:
        calibration = raters.judge.calibration
        for row, p_good in zip(rows, calibration.p_good([row.scores for row in rows]), strict=True):
            if error := find_error(row.missing, calibration.columns):
                row.missing[P_GOOD] = error
            elif p_good is None:
                row.missing[P_GOOD] = Missing("no_signal: none of the signals has a value")
            else:
                row.scores[P_GOOD] = p_good
    return rows, [reading.states for reading in readings] or [None] * len(pairs)


def find_error(missing: Mapping[str, Missing], columns: Sequence[str]) -> Missing | None:
    """Return the engine's error on a signal that P(good) is made of: what would stand for its value says nothing of the pair."""
    return next((reason for name, reason in missing.items() if reason.failed and name in columns), None)


def backward_lift(pairs: Sequence[InstructionResponse], raters: Raters) -> list[Values | Missing]:
    """(log p(x given y) - log p(x)) per token of x under M_yx; p(x) is asked after an empty document."""
    prompts, targets = raters.prompts, [raters.prompts.target(pair.instruction) for pair in pairs]
    given = raters.backward.loglikelihood([prompts.backward(pair.response) for pair in pairs], targets)
    alone = raters.backward.loglikelihood([prompts.backward("")] * len(pairs), targets)
    return [
        find_missing(*both) or {"backward_lift": (both[0].logprob - both[1].logprob) / both[0].tokens}
        for both in zip(given, alone, strict=True)
    ]


def forward_lift(readings: Sequence[ForwardReading]) -> list[Values | Missing]:
    """(log p(y given x) - log p(y)) per token of y under M_(t-1); p(y) is asked after an empty instruction, same tags.

    `response_logprob` is log p(y given x) per token.
    """
    return [
        both
        if isinstance(both, Missing)
        else {
            "forward_lift": (both.given.logprob - both.alone.logprob) / both.given.tokens,
            "response_logprob": both.given.logprob / both.given.tokens,
        }
        for both in _compare(readings)
    ]


def ifd(readings: Sequence[ForwardReading]) -> list[Values | Missing]:
    """Instruction-following difficulty: log p(y given x) / log p(y), how much of the response's surprise the instruction leaves.

    Near 0 the instruction says it all, from 1 on it does not help (arXiv 2308.12032). Its two questions are `forward_lift`'s.
    """
    return [
        both
        if isinstance(both, Missing)
        else {"ifd": both.given.logprob / both.alone.logprob}
        if both.alone.logprob
        else Missing("certain: the response is no surprise on its own")
        for both in _compare(readings)
    ]


def probe(measuring: Measuring) -> list[Values | Missing]:
    """What the audit's probe reads in M_(t-1)'s hidden states: log-odds that the pair is as it should be, over all and by kind."""
    judge = measuring.raters.judge
    if judge is None or judge.probe is None:
        return [Missing("not_fitted: the audit of this model fitted no probe")] * len(measuring.pairs)
    states = [reading.states for reading in measuring.readings if reading.states is not None]
    read = iter(judge.probe.read([state for state in states if not isinstance(state, Missing)]))
    return [
        state if isinstance(state, Missing) else {**next(read), "end_logprob": state.end_logprob} for state in states
    ]


def _compare(readings: Sequence[ForwardReading]) -> list[Likelihoods | Missing]:
    return [reading.likelihoods for reading in readings if reading.likelihoods is not None]


def text(pairs: Sequence[InstructionResponse], raters: Raters) -> list[Values | Missing]:
    """1 for a text without a fault, times (1 - f) for each fault f that `textsignals.py` finds; `text_NAME` is each f, 0 to 1.

    A fault of which nothing can be said has no column and counts as none.
    """
    values: list[Values | Missing] = []
    for pair in pairs:
        found = {
            name: reading.value for name, reading in find_faults(TextPair(*pair)).items() if reading.value is not None
        }
        clean = math.prod(1 - value for value in found.values())
        values.append({"text": clean, **{f"text_{name}": value for name, value in found.items()}})
    return values


SIGNALS: Mapping[str, SignalKind] = {
    "rating": SignalKind(
        compute=lambda m: rating(m.pairs, m.raters),
        needs="choice_logprobs",
        cost="instruction + response (the rubric once per batch)",
        calls=1,
        iterates=True,
        has_scale=True,
    ),
    "sampled_rating": SignalKind(
        compute=lambda m: sampled_rating(m.pairs, m.raters),
        needs="generate",
        cost="score.samples x (rubric + instruction + response, and a reply of up to score.reasoning_tokens drawn one by one); "
        "once more the prompt and the reply where a reply has no verdict",
        calls=1,
        iterates=True,
        has_scale=True,
        sampled=True,
    ),
    "backward_lift": SignalKind(
        compute=lambda m: backward_lift(m.pairs, m.raters),
        needs="loglikelihood",
        cost="response + 2 x instruction, under the backward model",
        calls=2,
        iterates=False,
    ),
    "forward_lift": SignalKind(
        compute=lambda m: forward_lift(m.readings),
        needs="loglikelihood",
        cost="instruction + 2 x response",
        calls=2,
        iterates=True,
        compares=True,
    ),
    "ifd": SignalKind(
        compute=lambda m: ifd(m.readings),
        needs="loglikelihood",
        cost="nothing beside forward_lift, whose answers it takes; alone, instruction + 2 x response",
        calls=2,
        iterates=True,
        better="lower",
        compares=True,
    ),
    "probe": SignalKind(
        compute=probe,
        needs="hidden_states",
        cost="a short question beside forward_lift, in whose pass it is read; alone, instruction + response + that question; "
        "where an engine cannot share what prompts have in common, 2 x (instruction + response)",
        calls=2,
        iterates=True,
        fitted=True,
    ),
    "text": SignalKind(compute=lambda m: text(m.pairs, m.raters), needs=None, cost="none", calls=0, iterates=False),
}
