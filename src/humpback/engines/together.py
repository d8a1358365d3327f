"""Questions of both kinds in one call. In: an engine, groups of questions that begin alike. Out: their answers, in order.

An engine that can (`AsksTogether`) computes once what the questions of a group share; of any other each kind is asked for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from humpback.engines.base import (
    AsksTogether,
    ChoiceLogprobs,
    ChoiceQuestion,
    Engine,
    Loglikelihood,
    LoglikelihoodQuestion,
    Question,
)
from humpback.prompts import Choice

__all__ = ["ask_apart", "ask_together", "regroup"]


def ask_together(engine: Engine, groups: Sequence[Sequence[Question]]) -> list[list[ChoiceLogprobs | Loglikelihood]]:
    """Return the answers to each group's questions, in order."""
    return engine.ask(groups) if isinstance(engine, AsksTogether) else ask_apart(engine, groups)


def ask_apart(engine: Engine, groups: Sequence[Sequence[Question]]) -> list[list[ChoiceLogprobs | Loglikelihood]]:
    """Ask one call for all likelihoods, and one for each menu of choices and layers."""
    questions = list(chain.from_iterable(groups))
    answers: dict[int, ChoiceLogprobs | Loglikelihood] = {}
    likely: dict[int, LoglikelihoodQuestion] = {}
    menus: dict[tuple[tuple[Choice, ...], tuple[int, ...]], dict[int, ChoiceQuestion]] = {}
    for place, question in enumerate(questions):
        if isinstance(question, ChoiceQuestion):
            menus.setdefault((question.choices, question.layers), {})[place] = question
        else:
            likely[place] = question
    for (choices, layers), asked in menus.items():
        told = engine.choice_logprobs([question.prompt for question in asked.values()], choices, layers)
        answers.update(zip(asked, told, strict=True))
    if likely:
        values = likely.values()
        known = engine.loglikelihood([q.prompt for q in values], [q.continuation for q in values])
        answers.update(zip(likely, known, strict=True))
    return regroup((answers[place] for place in range(len(questions))), groups)


def regroup(
    answers: Iterator[ChoiceLogprobs | Loglikelihood], groups: Sequence[Sequence[Question]]
) -> list[list[ChoiceLogprobs | Loglikelihood]]:
    """Return answers in the groups of their questions."""
    return [[next(answers) for _ in group] for group in groups]
