"""What M_(t-1) tells of a pair where it answers: how likely the response is, with and without its instruction, and its hidden states.

In: pairs. Out: a reading of each. Everything goes out in one call: the likelihood given the instruction and the probe's two
prompts begin alike, so an engine that can computes the pair once for all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from humpback.engines.base import ChoiceLogprobs, ChoiceQuestion, Loglikelihood, LoglikelihoodQuestion, Question
from humpback.engines.together import ask_together
from humpback.evaluation.probe import States
from humpback.evaluation.raters import ENGINE_ERROR, InstructionResponse, Missing, Raters
from humpback.prompts import Prompt

__all__ = ["ForwardReading", "Likelihoods", "find_missing", "read_forward"]


class Likelihoods(NamedTuple):
    """Of one text, with and without what it is to follow from."""

    given: Loglikelihood
    alone: Loglikelihood


@dataclass(frozen=True, kw_only=True)
class ForwardReading:
    """What was read of one pair; None for what was not asked."""

    likelihoods: Likelihoods | Missing | None
    """Of the response under both tags, given the instruction and given an empty one."""
    states: States | Missing | None
    """What a probe reads."""


def read_forward(
    pairs: Sequence[InstructionResponse], raters: Raters, *, likelihoods: bool, layers: Sequence[int] = ()
) -> list[ForwardReading]:
    """Return what M_(t-1) tells of each pair: `likelihoods`, and the hidden states of `layers` where any are named."""
    groups: list[list[Question]] = []
    empty = raters.prompts.answer("", raters.prompts.both_tags)
    for pair in pairs:
        given, alone = _ask_likelihoods(pair, empty, raters) if likelihoods else ([], [])
        groups += [[*given, *(_ask_states(pair, raters, layers) if layers else [])], alone]
    answers = iter(ask_together(raters.model, groups))
    readings = []
    for _ in pairs:
        told, alone_told = iter(next(answers)), iter(next(answers))
        both = Likelihoods(_likelihood(told), _likelihood(alone_told)) if likelihoods else None
        readings.append(
            ForwardReading(
                likelihoods=both and (find_missing(*both) or both),
                states=_read_states([a for a in told if isinstance(a, ChoiceLogprobs)], raters) if layers else None,
            )
        )
    return readings


def find_missing(given: Loglikelihood, alone: Loglikelihood) -> Missing | None:
    """Return why two likelihoods of one text cannot be compared."""
    error = given.error or alone.error
    if error:
        return Missing(f"{ENGINE_ERROR}: {error}", failed=True)
    return Missing("empty: no tokens") if given.tokens == 0 else None


def _ask_likelihoods(pair: InstructionResponse, empty: Prompt, raters: Raters) -> tuple[list[Question], list[Question]]:
    """Return the question of the response given the instruction, and of the response after the prompt `empty` of none."""
    asked = raters.prompts.answer(pair.instruction, raters.prompts.both_tags)
    target = raters.prompts.target(pair.response)
    given, alone = (LoglikelihoodQuestion(prompt=prompt, continuation=target) for prompt in (asked, empty))
    return [given], [alone]


def _likelihood(told: Iterator[ChoiceLogprobs | Loglikelihood]) -> Loglikelihood:
    answer = next(told)
    assert isinstance(answer, Loglikelihood)
    return answer


def _ask_states(pair: InstructionResponse, raters: Raters, layers: Sequence[int]) -> list[Question]:
    """Return the probe's two questions; none of a pair that is too long for them."""
    both = raters.prompts.probe(pair.instruction, pair.response)
    menu = (raters.prompts.end_of_turn,)
    return [ChoiceQuestion(prompt=prompt, choices=menu, layers=tuple(layers)) for prompt in both or ()]


def _read_states(told: Sequence[ChoiceLogprobs], raters: Raters) -> States | Missing:
    if not told:
        return Missing(f"too_long: the pair and the question exceed {raters.prompts.max_tokens} tokens")
    end, question = told
    error = end.error or question.error
    if error or end.hidden is None or question.hidden is None:
        return Missing(f"{ENGINE_ERROR}: {error or 'no hidden states'}", failed=True)
    return States(np.stack([end.hidden, question.hidden]), end.logprobs[0])
