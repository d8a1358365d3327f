"""How long a training will take, found by trying: some steps of the very rows, in a folder that is thrown away. No torch here.

In: a spec. Out: its tokens and the expected seconds. A step's time goes with its tokens, so the time of all steps is expected from
their tokens. Held-out losses and checkpoints come on top.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from humpback.training.launch import train
from humpback.training.plan import PROBE_STEPS, count_data
from humpback.training.spec import METRICS, TrainSpec, TrainStep, check_inputs

__all__ = ["Expectation", "expect_seconds", "probe"]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What all steps of a training will take."""

    tokens: int
    """Padding excluded, repeated rows counted each time."""
    seconds: float
    """Of the steps."""
    tokens_per_s: float


def probe(spec: TrainSpec, *, steps: int = PROBE_STEPS) -> Expectation:
    """Train some steps for nothing, and return the time that all of them will take."""
    check_inputs(spec)
    counts = count_data(spec.data)
    tokens = round(counts.tokens / counts.draws * spec.batch_size * spec.steps)
    folder = spec.work.with_name(spec.work.name + "-probe")
    places = {"output": folder / "model", "work": folder, "metrics": folder / METRICS}
    alone = {"held_out": (), "held_out_share": 0.0, "patience": None, "keep": "last"}
    tried = {"steps": min(steps, spec.steps), "warmup_steps": 0, "save_every": spec.steps + 1}
    taken: list[TrainStep] = []
    shutil.rmtree(folder, ignore_errors=True)
    try:
        train(spec.model_copy(update={**places, **alone, **tried}), on_step=taken.append)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = expect_seconds(taken, tokens)
    return Expectation(tokens=tokens, seconds=seconds, tokens_per_s=tokens / seconds)


def expect_seconds(steps: Sequence[TrainStep], tokens: int) -> float:
    """Return the time that so many tokens will take at the speed of these steps, the first left out where there are more."""
    counted = steps[1:] or steps
    # the median: one step beside a busy neighbour says little of the rest
    return tokens * statistics.median(step.seconds / step.tokens for step in counted)
