"""Batches of rows as tensors. In: rows of token ids and labels. Out: tensors padded on the right, and parts of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from humpback.prompts import IGNORE

__all__ = ["Batch", "collate", "part_of"]

Batch: TypeAlias = dict[str, torch.Tensor]
EXTRAS = ("weight", "row")
"""Columns of a batch beside what a model takes: the weight of each row's loss, and the row's number."""


def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Pad rows on their right; a padded place has no label and is not attended to."""
    lengths = [len(row["input_ids"]) for row in rows]
    width = max(lengths)

    def padded(lists: Iterable[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*each, *[fill] * (width - len(each))] for each in lists])

    batch = {
        "input_ids": padded((row["input_ids"] for row in rows), 0),
        "labels": padded((row["labels"] for row in rows), IGNORE),
        "attention_mask": padded(([1] * length for length in lengths), 0),
    }
    return batch | {name: torch.tensor([row[name] for row in rows]) for name in EXTRAS if name in rows[0]}


def part_of(inputs: Batch, rows: Sequence[int], lengths: Sequence[int] | Mapping[int, int]) -> Batch:
    """Return some rows of a batch, as wide as the longest of them."""
    width = max(lengths[row] for row in rows)  # rows are padded right
    part = {name: value[list(rows)] for name, value in inputs.items()}
    return {name: value[:, :width] if value.dim() > 1 else value for name, value in part.items()}
