"""Signals: numbers that say how good a pair is, each read from a model. One function per signal, one table of them.

A signal without a value for a row says why; no reason is ever turned into a low value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from humpback.engines.base import Capability, Engine, Loglikelihood
from humpback.prompts import Prompts

__all__ = [
    "ENGINE_ERROR",
    "SIGNALS",
    "InstructionResponse",
    "Missing",
    "Raters",
    "SignalKind",
    "SignalScores",
    "compute_signals",
]


ENGINE_ERROR = "engine_error"
"""First word of the reason when an engine failed on a row, as against a model that gave no usable answer."""


class InstructionResponse(NamedTuple):
    """What a signal looks at."""

    instruction: str
    response: str


@dataclass(frozen=True, kw_only=True)
class Raters:
    """The models a signal may ask."""

    model: Engine
    """M_(t-1): rates, and gives forward likelihoods."""
    backward: Engine
    """M_yx: gives backward likelihoods."""
    prompts: Prompts
    min_label_mass: float


@dataclass(frozen=True)
class Missing:
    """Why a row has no value. `failed` is an engine's error, otherwise the model's answer was no answer."""

    reason: str
    failed: bool = False


Values = Mapping[str, float]


@dataclass(kw_only=True)
class SignalScores:
    """All scores of one row."""

    scores: dict[str, float]
    missing: dict[str, Missing]


@dataclass(frozen=True, kw_only=True)
class SignalKind:
    """One signal: how to compute it, who must be able to do what, and what it costs."""

    compute: Callable[[Sequence[InstructionResponse], Raters], list[Values | Missing]]
    needs: Capability
    cost: str
    """Tokens computed per pair, in words."""
    calls: int
    """Engine requests per pair."""
    iterates: bool
    """Whether it changes with M_(t-1); one that does not gives the same curation in every iteration."""


def compute_signals(pairs: Sequence[InstructionResponse], names: Sequence[str], raters: Raters) -> list[SignalScores]:
    """Return the scores of each pair, in order."""
    rows = [SignalScores(scores={}, missing={}) for _ in pairs]
    for name in names:
        for row, value in zip(rows, SIGNALS[name].compute(pairs, raters), strict=True):
            if isinstance(value, Missing):
                row.missing[name] = value
            else:
                row.scores.update(value)
    return rows


def rating(pairs: Sequence[InstructionResponse], raters: Raters) -> list[Values | Missing]:
    """Expected score, 1 to 5, from the model's probabilities of the five scores; `rating_label_mass` is their sum."""
    prompts = [raters.prompts.rate(pair.instruction, pair.response) for pair in pairs]
    asked = [prompt for prompt in prompts if prompt is not None]
    answers = iter(raters.model.choice_logprobs(asked, raters.prompts.rating_choices))
    values: list[Values | Missing] = []
    for prompt in prompts:
        if prompt is None:
            values.append(Missing(f"too_long: the rubric and the pair exceed {raters.prompts.max_tokens} tokens"))
            continue
        answer = next(answers)
        if answer.error:
            values.append(Missing(f"{ENGINE_ERROR}: {answer.error}", failed=True))
        elif answer.mass < raters.min_label_mass:
            values.append(Missing(f"unparsed: label mass {answer.mass:.3f} is below {raters.min_label_mass:g}"))
        else:
            shares = [math.exp(logprob) for logprob in answer.logprobs]
            expected = sum(score * share for score, share in enumerate(shares, start=1)) / sum(shares)
            values.append({"rating": expected, "rating_label_mass": answer.mass})
    return values


def backward_lift(pairs: Sequence[InstructionResponse], raters: Raters) -> list[Values | Missing]:
    """(log p(x given y) - log p(x)) per token of x under M_yx; p(x) is asked after an empty document."""
    prompts, targets = raters.prompts, [raters.prompts.target(pair.instruction) for pair in pairs]
    given = raters.backward.loglikelihood([prompts.backward(pair.response) for pair in pairs], targets)
    alone = raters.backward.loglikelihood([prompts.backward("")] * len(pairs), targets)
    return [_lift("backward_lift", *both) for both in zip(given, alone, strict=True)]


def forward_lift(pairs: Sequence[InstructionResponse], raters: Raters) -> list[Values | Missing]:
    """(log p(y given x) - log p(y)) per token of y under M_(t-1); p(y) is asked after an empty instruction, same tags."""
    prompts, targets = raters.prompts, [raters.prompts.target(pair.response) for pair in pairs]
    tags = prompts.both_tags
    given = raters.model.loglikelihood([prompts.answer(pair.instruction, tags) for pair in pairs], targets)
    alone = raters.model.loglikelihood([prompts.answer("", tags)] * len(pairs), targets)
    return [_lift("forward_lift", *both) for both in zip(given, alone, strict=True)]


def _lift(name: str, given: Loglikelihood, alone: Loglikelihood) -> Values | Missing:
    error = given.error or alone.error
    if error:
        return Missing(f"{ENGINE_ERROR}: {error}", failed=True)
    if given.tokens == 0:
        return Missing("empty: no tokens")
    return {name: (given.logprob - alone.logprob) / given.tokens}


SIGNALS: Mapping[str, SignalKind] = {
    "rating": SignalKind(
        compute=rating,
        needs="choice_logprobs",
        cost="instruction + response (the rubric once per batch)",
        calls=1,
        iterates=True,
    ),
    "backward_lift": SignalKind(
        compute=backward_lift,
        needs="loglikelihood",
        cost="response + 2 x instruction, under the backward model",
        calls=2,
        iterates=False,
    ),
    "forward_lift": SignalKind(
        compute=forward_lift, needs="loglikelihood", cost="instruction + 2 x response", calls=2, iterates=True
    ),
}
