"""Which rows go through a model together. In: the rows' lengths. Out: lists of indices, one per batch."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["kept_cost", "plan_batches"]

KEPT_PER_COMPUTED = 4
"""A token that needs no logits, only its keys and values, costs about this much less memory than one that does."""


def plan_batches(
    lengths: Sequence[int], token_budget: int, max_rows: int = 64, counts: Sequence[int] = ()
) -> list[list[int]]:
    """Group indices of like length, so that little is padding and their number * longest stays within the budget.

    `counts` are the rows that each index stands for, of which a batch has at most `max_rows`; by default one.
    The longest rows come first: a batch that does not fit in memory shows at once, not after an hour. A single row that
    is longer than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        batch = batches[-1] if batches else []
        own = counts[index] if counts else 1
        if batch and rows + own <= max_rows and (len(batch) + 1) * lengths[batch[0]] <= token_budget:
            batch.append(index)
            rows += own
        else:
            batches.append([index])
            rows = own
    return batches


def kept_cost(tokens: int) -> int:
    """Return what tokens without logits count for in a budget: only their keys and values are kept."""
    return -(-tokens // KEPT_PER_COMPUTED)
