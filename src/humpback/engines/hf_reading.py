"""Answers out of logits. In: the logits of a pass, where each row's are, what was asked. Out: log-probabilities, answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from humpback.engines.base import ChoiceLogprobs, FloatArray

__all__ = ["read_choices", "sum_logprobs"]


def read_choices(choice_ids: Sequence[int], logprobs: list[float], states: FloatArray | None) -> ChoiceLogprobs | None:
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
