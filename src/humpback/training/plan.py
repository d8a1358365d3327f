"""What a training will be, told before it starts. In: a spec and its rows. Out: steps, epochs, tokens; later, the time left.

The step table of the paper gives epochs by the number of rows; between its rows they are interpolated (`schedule.py`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from humpback.errors import InputError
from humpback.progress import Bar, Console, format_seconds
from humpback.prompts import IGNORE
from humpback.training.rows import check_shares
from humpback.training.spec import TrainSpec, TrainStep

__all__ = ["PROBE_STEPS", "RowCounts", "count_data", "follow_steps", "tell_plan"]

PROBE_STEPS = 10
"""Steps after which the time of the rest is told, and steps on trial."""


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """What the data files hold."""

    examples: int
    draws: float
    """Rows that an epoch draws on average: the sum of `sampling`."""
    tokens: float
    """Of one epoch, each row by its draws."""
    label_tokens: float
    longest: int
    """Tokens of the longest row."""


def count_data(paths: Sequence[Path]) -> RowCounts:
    """Count rows and tokens, a batch at a time: a mix can be larger than memory."""
    examples = longest = 0
    draws = tokens = labelled = 0.0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                check_shares(file.schema_arrow, path)
                weighted = "sampling" in file.schema_arrow.names
                columns = ["labels", "sampling"] if weighted else ["labels"]
                for batch in file.iter_batches(columns=columns):
                    labels = batch["labels"]
                    lengths = pc.fill_null(pc.list_value_length(labels), 0).to_numpy()
                    each = batch["sampling"].to_numpy() if weighted else np.ones(len(lengths))
                    parents = pc.list_parent_indices(labels).to_numpy()
                    learnt = labels.flatten().to_numpy(zero_copy_only=False) != IGNORE
                    learnt[np.unique(parents, return_index=True)[1]] = False  # a row's first token is never predicted
                    examples += len(lengths)
                    draws += float(each.sum())
                    longest = max(longest, int(max(lengths, default=0)))
                    tokens += float((lengths * each).sum())
                    labelled += float((each[parents] * learnt).sum())
        except (pa.ArrowException, KeyError, OSError) as error:
            raise InputError(f"training data {path} cannot be read as rows: {error}") from error
    return RowCounts(examples=examples, draws=draws, tokens=tokens, label_tokens=labelled, longest=longest)


def tell_plan(spec: TrainSpec, counts: RowCounts) -> list[str]:
    """Return in words what is about to be trained."""
    trained = 1 - spec.held_out_share
    epochs = spec.steps * spec.batch_size / (counts.draws * trained)
    held_out = f", {spec.held_out_share:.0%} of them held out" if spec.held_out_share else ""
    drawn = "" if counts.draws == counts.examples else f", {counts.draws:,.0f} drawn per epoch"
    rate = f"{spec.learning_rate:g} to {spec.final_learning_rate:g}"
    return [
        f"{counts.examples:,} rows{held_out}{drawn}, {counts.tokens * trained:,.0f} tokens per epoch, "
        f"{counts.label_tokens * trained:,.0f} of them learnt; "
        f"the longest row has {counts.longest:,}",
        f"{spec.method}, {spec.steps:,} steps of {spec.batch_size} rows = {epochs:.2f} epochs, "
        f"about {epochs * counts.tokens * trained:,.0f} tokens; learning rate {rate}",
    ]


def follow_steps(bar: Bar, console: Console) -> Callable[[TrainStep], None]:
    """Return what shows each step on a bar and, after `PROBE_STEPS` steps of this sitting, tells how long the rest will take."""
    seconds: list[float] = []

    def on_step(step: TrainStep) -> None:
        if step.step > bar.done + 1:  # a resumed training begins behind its checkpoint
            bar.skip(step.step - 1 - bar.done)
        if not seconds:
            bar.start_clock(ago=step.seconds)
        bar.advance(1, step.tokens, f"loss {step.loss:.3f}")
        seconds.append(step.seconds)
        if len(seconds) == PROBE_STEPS < step.steps and step.step < step.steps:
            # the median: the first step also warms up
            left = statistics.median(seconds) * (step.steps - step.step)
            console.say(
                f"  {PROBE_STEPS} steps trained; the other {step.steps - step.step:,} take about {format_seconds(left)}"
            )

    return on_step
