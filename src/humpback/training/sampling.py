"""Which rows an epoch holds when some count for more than others. In: draws per epoch of each row. Out: the order of training.

A row with 2.3 draws stands in every epoch twice and in three of ten a third time; which ones is a function of the seed alone. With
1 for every row this is `schedule.row_order`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from humpback.errors import InputError
from humpback.training.schedule import Schedule, row_order

__all__ = ["draw_order", "rounded_rows", "trained_rows"]


def rounded_rows(draws: float) -> int:
    """Return how many rows an epoch draws on average, the sum of all draws: what a schedule calls examples."""
    if round(draws) < 1:
        raise InputError(
            f"the sampling weights add up to {draws:g}, less than one row in an epoch; "
            "raise mix.seed_weight or mix.curated_weight"
        )
    return round(draws)


def trained_rows(draws: float, held_out_share: float) -> int:
    """Return how many rows an epoch draws on average when a share of them is held out; at least one."""
    return max(1, round(rounded_rows(draws) * (1 - held_out_share)))


def draw_order(sampling: Sequence[float], schedule: Schedule, seed: int) -> list[int]:
    """Return the row of every place in every batch; batches run across epochs."""
    if all(draws == 1 for draws in sampling):
        return row_order(len(sampling), schedule, seed)
    rounded_rows(sum(sampling))
    wanted, epoch = schedule.batch_size * schedule.steps, 0
    order: list[int] = []
    while len(order) < wanted:
        dice = random.Random(f"{seed}:{epoch}")
        rows = [row for row, draws in enumerate(sampling) for _ in range(int(draws) + (dice.random() < draws % 1))]
        dice.shuffle(rows)
        order += rows
        epoch += 1
    return order[:wanted]
