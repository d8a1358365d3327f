"""What a training did against what it was given to do. In: rows and their order, then what each step counted. Out: an error, or none.

A trainer may drop, cut or mask a row without a word; then its loss looks fine and the model is another. So every step's tokens and
label tokens are compared with the rows that belong to it, and a loss that cannot be right names the rows it came from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from humpback.errors import StageError
from humpback.training.rows import label_counts, row_lengths

__all__ = ["Expected", "RowLoss", "check_step", "expect", "refuse_loss"]

BAD_ROWS = "bad-rows.jsonl"
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What each step of a training must count, step 1 first."""

    tokens: Sequence[int]
    """Padding excluded."""
    label_tokens: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """One row of a batch whose loss cannot be right."""

    id: str
    loss: float
    """Nats per label token of this row alone."""
    tokens: int
    label_tokens: int


def expect(table: pa.Table, order: Sequence[int], batch_size: int) -> Expected:
    """Return what the steps over these rows in this order must count."""
    places = np.asarray(order).reshape(-1, batch_size)
    return Expected(
        tokens=row_lengths(table)[places].sum(1).tolist(),
        label_tokens=label_counts(table)[places].sum(1).tolist(),
    )


def check_step(expected: Expected, step: int, *, tokens: int, label_tokens: int) -> None:
    """Raise unless a step trained on exactly the tokens and label tokens of its rows."""
    for name, seen, due in (
        ("tokens", tokens, expected.tokens[step - 1]),
        ("label tokens", label_tokens, expected.label_tokens[step - 1]),
    ):
        if seen != due:
            raise StageError(
                f"step {step} trained on {seen} {name}, and its rows have {due}: the trainer dropped, cut or doubled rows; "
                "nothing is saved. Check the versions of trl and transformers against those this package names"
            )


def refuse_loss(
    rows: Sequence[RowLoss], *, step: int, steps: int, loss: float, work: Path, write: bool = True
) -> StageError:
    """Return the error of a step whose loss is 0 or not a number, and write its rows beside the log, the worst first.

    Of several processes one is to `write`.
    """
    ordered = sorted(rows, key=lambda row: (math.isfinite(row.loss) and row.loss > 0, -row.tokens))
    path = work / BAD_ROWS
    if write:
        lines = [asdict(row) | {"loss": row.loss if math.isfinite(row.loss) else str(row.loss)} for row in ordered]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    bad = [row for row in ordered if not (math.isfinite(row.loss) and row.loss > 0)] or ordered
    told = ", ".join(f"{row.id} ({row.loss:.3g})" for row in bad[:SHOWN])
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return StageError(
        f"step {step} of {steps}: the loss is {loss:g}, from rows {told}{more}, all in {path}; nothing is saved of this step. "
        "Lower learning_rate; where single rows give it, look at them (humpback trace RUN ID) and leave them out"
    )
