"""How long to train, with which learning rate, and in which order the rows come: pure functions, no torch.

The default is the paper's step table (arXiv 2308.06259; docs/method.md). The order of the rows is a function of the
seed alone, so a resumed run sees the rows it would have seen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = [
    "Schedule",
    "learning_rate_at",
    "paper_schedule",
    "row_order",
    "schedule_for",
    "share_rows",
    "token_batches",
]

PAPER_STEPS = (
    (100, 8, 30),
    (800, 8, 300),
    (1_600, 8, 600),
    (3_200, 32, 500),
    (6_400, 32, 600),
    (12_800, 32, 600),
    (25_600, 32, 1_200),
    (51_200, 32, 1_600),
)
"""(examples, batch size, steps) as the paper reports them."""

LARGE = 3_000
"""Number of examples from which the paper's batch is 32 instead of 8."""


@dataclass(frozen=True)
class Schedule:
    """How many examples one optimizer step takes, and how many steps there are."""

    batch_size: int
    """Examples per optimizer step."""
    steps: int
    """Optimizer steps."""


def paper_schedule(examples: int) -> Schedule:
    """Return the paper's schedule; between the rows of its table, epochs are interpolated linearly in log(examples)."""
    _check(examples)
    batch_size = 8 if examples < LARGE else 32
    return Schedule(batch_size, _steps(_paper_epochs(examples), examples, batch_size))


def schedule_for(
    examples: int, *, steps: int | None = None, epochs: float | None = None, batch_size: int | None = None
) -> Schedule:
    """Return the paper's schedule with what is given put in its place; a batch size alone keeps the epochs."""
    _check(examples)
    if steps is not None and epochs is not None:
        raise ValueError(f"steps={steps} and epochs={epochs} are both given; give one of them")
    for name, value in (("steps", steps), ("epochs", epochs), ("batch_size", batch_size)):
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value} is not positive")
    batch = batch_size or paper_schedule(examples).batch_size
    if steps is None:
        steps = _steps(_paper_epochs(examples) if epochs is None else epochs, examples, batch)
    return Schedule(batch, steps)


def learning_rate_at(step: int, *, steps: int, first: float, last: float, warmup_steps: int = 0) -> float:
    """Return the learning rate of step `step` (1 to `steps`): linear, `last` at the last step."""
    if step <= warmup_steps:
        return first * step / (warmup_steps + 1)
    span = steps - warmup_steps - 1
    share = min(1.0, (step - warmup_steps - 1) / span) if span > 0 else 0.0
    return first + (last - first) * share


def row_order(examples: int, schedule: Schedule, seed: int) -> list[int]:
    """Return the row of every place in every batch: each epoch in its own shuffled order, batches run across epochs."""
    wanted = schedule.batch_size * schedule.steps
    order: list[int] = []
    for epoch in range(math.ceil(wanted / examples)):
        rows = list(range(examples))
        random.Random(f"{seed}:{epoch}").shuffle(rows)
        order += rows
    return order[:wanted]


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split rows, longest first, into groups of at most `budget` tokens when padded; a longer row stands alone."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def share_rows(lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Split a batch's rows over processes by tokens: the longest first, each to whoever has the fewest. Nobody stays without."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = min(range(processes), key=lambda process: (tokens[process], process))
        shares[least].append(row)
        tokens[least] += lengths[row]
    return shares


def _check(examples: int) -> None:
    if examples < 1:
        raise ValueError(f"examples={examples}: there is nothing to train on")


def _steps(epochs: float, examples: int, batch_size: int) -> int:
    return max(1, round(epochs * examples / batch_size))


def _paper_epochs(examples: int) -> float:
    rows = [(n, batch * steps / n) for n, batch, steps in PAPER_STEPS]
    if examples <= rows[0][0]:
        return rows[0][1]
    for (low, low_epochs), (high, high_epochs) in pairwise(rows):
        if examples <= high:
            share = math.log(examples / low) / math.log(high / low)
            return low_epochs + (high_epochs - low_epochs) * share
    return rows[-1][1]
