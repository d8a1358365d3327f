"""The rows of a call, batch by batch. In: which rows go together, and what computes them. Out: an answer for each, in order.

What does not fit in memory is tried again in halves, and what is not a number is tried again alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import torch

from humpback.engines.base import ChoiceLogprobs, Completion, Loglikelihood
from humpback.engines.drawing import NOT_FINITE
from humpback.engines.hf_limits import Allowance
from humpback.memory import lacks_memory

__all__ = ["A", "Plan", "answer_all"]

A = TypeVar("A", Completion, ChoiceLogprobs, Loglikelihood)
Plan: TypeAlias = Callable[[list[int]], list[list[int]]]
"""Which of these rows go through the model together."""
NO_MEMORY = "the row does not fit in the device's memory"


def answer_all(
    ready: Sequence[A | None],
    plan: Plan,
    compute: Callable[[list[int]], list[A]],
    refuse: Callable[[int, str], A],
    *,
    allowed: Allowance,
    tell: Callable[[int, A], None],
) -> list[A]:
    """Compute what is not ready and return all answers in the order asked; `tell` hears of each that was computed."""
    answers = dict(enumerate(ready))
    waiting: deque[list[int]] = deque(plan([i for i, answer in answers.items() if answer is None]))
    while waiting:
        rows = waiting.popleft()
        try:
            with torch.inference_mode():
                fresh = dict(zip(rows, compute(rows), strict=True))
            # rows of a pack see nothing of each other, but nothing times not-a-number is not a number
            alone = [row for row in rows if fresh[row].error == NOT_FINITE and len(rows) > 1]
            waiting.extend([row] for row in alone)
            answers.update(fresh)
            for row, answer in fresh.items():
                tell(row, answer)
            continue
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        # here and not above: there the traceback still holds the tensors
        if len(rows) == 1:
            allowed.release()
            answers[rows[0]] = refuse(rows[0], NO_MEMORY)
            continue
        allowed.shrink()
        waiting = deque(half for batch in (rows, *waiting) for half in _halves(batch))
    return [answer for answer in answers.values() if answer is not None]


def _halves(rows: list[int]) -> list[list[int]]:
    middle = (len(rows) + 1) // 2
    return [half for half in (rows[:middle], rows[middle:]) if half]
