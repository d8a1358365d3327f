"""Answers out of logits. In: questions, the logits and hidden states of a pass, where each row's are. Out: answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from humpback.engines.base import ChoiceLogprobs, ChoiceQuestion, FloatArray, Loglikelihood, Question
from humpback.engines.drawing import NOT_FINITE
from humpback.engines.hf_model import Reading
from humpback.engines.packs import Row

__all__ = ["feed", "list_layers", "read_answers", "refuse", "sum_logprobs"]


def feed(question: Question) -> tuple[Row, int]:
    """Return the tokens that answer a question, and the position of the first whose logits are needed."""
    row = question.prompt.token_ids
    if isinstance(question, ChoiceQuestion):
        return row, len(row) - bool(question.choices)
    # the last token predicts nothing that is asked, so it is not fed
    return (*row, *question.continuation.token_ids[:-1]), len(row) - 1


def list_layers(questions: Sequence[Question]) -> list[int]:
    """Return the layers that any of the questions asks for."""
    return sorted({layer for q in questions if isinstance(q, ChoiceQuestion) for layer in q.layers})


def refuse(question: Question, error: str) -> ChoiceLogprobs | Loglikelihood:
    """Return the answer that is none."""
    if isinstance(question, ChoiceQuestion):
        return ChoiceLogprobs(logprobs=(), mass=0.0, error=error)
    return Loglikelihood(logprob=0.0, tokens=0, error=error)


def read_answers(
    questions: Sequence[Question],
    reading: Reading,
    places: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    at_once: int,
) -> list[ChoiceLogprobs | Loglikelihood]:
    """Return each row's answer. `places` are its logits in the reading, `layers` those of the reading's hidden states.

    The reading's logits are used up.
    """
    answers: dict[int, ChoiceLogprobs | Loglikelihood] = {}
    choosing = {row: q for row, q in enumerate(questions) if isinstance(q, ChoiceQuestion)}
    # first: sums of likelihoods are made in place
    logprobs = _find_logprobs(choosing, reading.logits_N_V, places)
    states = reading.states_B_L_W.cpu().numpy() if layers else None
    for row, question in choosing.items():
        own = [layers.index(layer) for layer in question.layers]
        hidden = states[row, own] if own and states is not None else None
        ids = [choice.token_id for choice in question.choices]
        answers[row] = _read_choices(ids, logprobs.get(row, []), hidden) or refuse(question, NOT_FINITE)
    targets = {row: q.continuation.token_ids for row, q in enumerate(questions) if not isinstance(q, ChoiceQuestion)}
    if targets:
        sums = sum_logprobs(
            reading.logits_N_V, [places[row] for row in targets], list(targets.values()), at_once=at_once
        )
        for (row, target), value in zip(targets.items(), sums, strict=True):
            known = Loglikelihood(logprob=value, tokens=len(target))
            answers[row] = known if math.isfinite(value) else refuse(questions[row], NOT_FINITE)
    return [answers[row] for row in range(len(questions))]


def _find_logprobs(
    choosing: dict[int, ChoiceQuestion], logits_N_V: torch.Tensor, places: Sequence[Sequence[int]]
) -> dict[int, list[float]]:
    """Return the log-probability of each choice of those questions that have any."""
    rows = [row for row, question in choosing.items() if question.choices]
    if not rows:
        return {}
    every = list(dict.fromkeys(choice.token_id for row in rows for choice in choosing[row].choices))
    at = {place: number for number, place in enumerate(dict.fromkeys(places[row][0] for row in rows))}
    chosen = (
        logits_N_V if list(at) == list(range(len(logits_N_V))) else logits_N_V[list(at)]
    )  # a copy, where it must be
    table = chosen.float().log_softmax(-1)[:, every].tolist()
    known = {row: dict(zip(every, table[at[places[row][0]]], strict=True)) for row in rows}
    return {row: [known[row][choice.token_id] for choice in choosing[row].choices] for row in rows}


def _read_choices(choice_ids: Sequence[int], logprobs: list[float], states: FloatArray | None) -> ChoiceLogprobs | None:
    """Return a row's answer; None if any of it is not finite."""
    if not all(map(math.isfinite, logprobs)) or (states is not None and not math.isfinite(float(states.sum()))):
        return None
    distinct = dict(zip(choice_ids, logprobs, strict=False))  # a choice given twice weighs once
    return ChoiceLogprobs(
        logprobs=tuple(logprobs), mass=min(math.fsum(map(math.exp, distinct.values())), 1.0), hidden=states
    )


def sum_logprobs(
    logits_N_V: torch.Tensor, places: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, at_once: int
) -> list[float]:
    """Return the log-probability of each target, whose tokens follow the logits at the row's `places`.

    `at_once` positions at a time: no second copy of the logits is made. (torch's `logsumexp` is several times slower on a CPU.)
    """
    device = logits_N_V.device
    rows = torch.tensor([row for row, own in enumerate(places) for _ in own], device=device)
    at = torch.tensor([place for own in places for place in own], device=device)
    ids = torch.tensor([token for target in targets for token in target], device=device)
    of_targets = logits_N_V[at, ids].double()
    sums = []
    for part in torch.split(logits_N_V, at_once):
        part = part.float()
        top = part.amax(-1, keepdim=True)
        sums.append(part.sub_(top).exp_().sum(-1).log_() + top[:, 0])  # in place: nobody reads the logits after this
    logprobs = of_targets - torch.cat(sums)[at].double()
    totals = torch.zeros(len(places), dtype=torch.float64, device=device).index_add_(0, rows, logprobs)
    return [float(total) for total in totals.tolist()]
