"""The file `metrics.jsonl` of a training, a JSON object per step. In: the file, growing or done. Out: its lines; their sum.

Our trainer writes it, or a `train.command`; a line is read once its end is there, or the training is over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from humpback.errors import StageError
from humpback.training.held_out import HeldOutLoss
from humpback.training.spec import TrainResult

__all__ = ["Follower", "read_metrics", "sum_steps"]


class Follower:
    """Gives each line of a metrics file once, as soon as it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0

    def new_lines(self) -> list[dict[str, Any]]:
        """Return what was written since the last call."""
        return [_parse(raw, self.path) for raw in self._new() if raw.strip()]

    def _new(self) -> list[bytes]:
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            whole = file.read().rpartition(b"\n")[0]
        self.offset += len(whole) + 1 if whole else 0
        return whole.splitlines()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a training that is over; none where there is no file. A last line that a kill cut is left out."""
    if not path.is_file():
        return []
    whole, _, last = path.read_bytes().rpartition(b"\n")
    lines = [*whole.splitlines(), *([last] if last.rstrip().endswith(b"}") else [])]
    return [_parse(raw, path) for raw in lines if raw.strip()]


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise StageError(f"{path} has a line that is no JSON object: {error}; a trainer writes one per step") from error
    if not isinstance(line, dict):
        raise StageError(f"{path} has a line that is no JSON object: {line!r:.80}; a trainer writes one per step")
    return line


def sum_steps(
    lines: Sequence[Mapping[str, Any]],
    *,
    steps: int,
    examples: int,
    seconds: float | None = None,
    held_out: Sequence[HeldOutLoss] = (),
    kept_step: int | None = None,
    precision: str | None = None,
) -> TrainResult:
    """Return what a training did by its lines that have a loss; where there is none, `steps` is how many it was to take."""
    told = [line for line in lines if "loss" in line]
    losses = [float(line["loss"]) for line in told]
    tenth = max(1, len(losses) // 10)
    return TrainResult(
        steps=len(told) or steps,
        examples=examples,
        tokens=sum(int(line.get("tokens", 0)) for line in told),
        label_tokens=sum(int(line.get("label_tokens", 0)) for line in told),
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        first_tenth_loss=sum(losses[:tenth]) / tenth if losses else None,
        last_tenth_loss=sum(losses[-tenth:]) / tenth if losses else None,
        seconds=sum(line.get("seconds", 0.0) for line in told) if seconds is None else seconds,
        held_out=tuple(held_out),
        kept_step=kept_step,
        precision=precision,
    )
