"""Losses on held-out rows over a training: which step was best, and when to stop. Pure functions and a file, no torch.

`held-out.jsonl` has a line per evaluation: the step, nats per label token over all rows and per origin, and the label tokens of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HELD_OUT", "HeldOutLoss", "add_loss", "best_loss", "read_losses", "should_stop"]

HELD_OUT = "held-out.jsonl"
"""Beside metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """One evaluation."""

    step: int
    """Optimizer steps before it; 0 is the base model."""
    nll: float
    """Nats per label token, over the label tokens of all rows."""
    tokens: int
    """Label tokens."""
    by_origin: Mapping[str, float]
    """Nats per label token of each origin, as the rows name it."""
    tokens_by_origin: Mapping[str, int]
    seconds: float

    @classmethod
    def of(
        cls, step: int, *, sums: Mapping[str, float], tokens: Mapping[str, int], seconds: float = 0.0
    ) -> HeldOutLoss:
        """Make it from each origin's summed nats and label tokens."""
        return cls(
            step=step,
            nll=sum(sums.values()) / sum(tokens.values()),
            tokens=sum(tokens.values()),
            by_origin={origin: sums[origin] / tokens[origin] for origin in sums},
            tokens_by_origin=dict(tokens),
            seconds=seconds,
        )


def best_loss(losses: Sequence[HeldOutLoss], *, until: int | None = None) -> HeldOutLoss | None:
    """Return the lowest loss of a trained model, the earliest of equals; step 0 is the base model and no candidate."""
    return min(
        (loss for loss in losses if loss.step and (until is None or loss.step <= until)),
        key=lambda loss: (loss.nll, loss.step),
        default=None,
    )


def should_stop(losses: Sequence[HeldOutLoss], patience: int | None) -> bool:
    """Say whether the last `patience` evaluations were all no better than one before them."""
    best = best_loss(losses)
    return patience is not None and best is not None and sum(loss.step > best.step for loss in losses) >= patience


def read_losses(path: Path) -> list[HeldOutLoss]:
    """Return the evaluations so far, the earliest first."""
    if not path.is_file():
        return []
    return [HeldOutLoss(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def add_loss(path: Path, loss: HeldOutLoss) -> None:
    """Append an evaluation."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(vars(loss)) + "\n")
