"""How training went: the number format, and the loss of a model's steps and of held-out rows, as a few points for a picture.

In: a finetune stage's `metrics.jsonl` and `held-out.jsonl`. Out: curves for the report's JSON and its page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from humpback.training.held_out import HELD_OUT
from humpback.training.metrics import read_metrics
from humpback.training.spec import METRICS

__all__ = ["read_loss_points", "tell_formats"]

POINTS = 60
"""Points of a curve, each the mean of the steps it stands for: a longer training draws no longer picture."""


def read_loss_points(folder: Path) -> dict[str, list[list[float]]]:
    """Return [step, nats per label token] by curve: `training`, then the held-out rows, all and by origin."""
    curves = {
        "training": _thin([[line["step"], line["loss"]] for line in read_metrics(folder / METRICS) if "loss" in line])
    }
    for line in read_metrics(folder / HELD_OUT):
        curves.setdefault("held out", []).append([line["step"], line["nll"]])
        by_origin = line.get("by_origin") or {}
        if len(by_origin) > 1:
            for origin, value in sorted(by_origin.items()):
                curves.setdefault(f"held out, {origin}", []).append([line["step"], value])
    return {name: points for name, points in curves.items() if points}


def tell_formats(training: Sequence[Mapping[str, Any]]) -> str:
    """Return what the trainings computed in; which of them in what, where that is not one format for all.

    The format is the first word of what a training tells, and the reason the rest: two reasons for one format are no two formats.
    """
    reasons: dict[str, str] = {}
    stages: dict[str, list[str]] = {}
    for row in training:
        told = row.get("precision") or "a format that is not known"
        precision = told.partition(" (")[0]
        reasons.setdefault(precision, told)
        stages.setdefault(precision, []).append(row["stage"])
    if len(stages) == 1:
        return f"Computed in {next(iter(reasons.values()))}."
    told = "; ".join(f"{', '.join(names)} in {reasons[precision]}" for precision, names in stages.items())
    return f"Computed in several number formats, so models differ by rounding too: {told}."


def _thin(points: Sequence[Sequence[float]]) -> list[list[float]]:
    size = -(-len(points) // POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if points else []
    return [[group[-1][0], sum(loss for _, loss in group) / len(group)] for group in groups]
