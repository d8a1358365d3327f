"""One measured cell, read from its folder: what each metric is the mean of, and what it was trained on.

A pair without a likelihood and a prompt without a verdict have no value; they are counted by whoever compares cells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from humpback.errors import StorageError
from humpback.rooms.comparing import JUDGED
from humpback.store.rundir import RunDir
from humpback.studies.cell import LIKELIHOODS
from humpback.studies.grid import Cell

__all__ = ["METRICS", "Item", "Metric", "Outcome", "Row", "describe_judge"]

Row = dict[str, Any]
Metric = Literal["nll", "lift", "win_rate"]
METRICS: dict[Metric, str] = {"nll": "lower", "lift": "higher", "win_rate": "higher"}
"""nll: nats per token of held-out responses. lift: nats per token that the instruction saves of them. win_rate: percent. Which of each
is better."""


class Item(NamedTuple):
    """A pair's nats and tokens, or a prompt's win in percent and one."""

    total: float
    weight: int


class Outcome:
    """One measured cell."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell = cell
        kept = _read(folder, "measure", LIKELIHOODS)
        given, alone = kept["given"], kept["alone"]
        columns = (given["pair_ids"], given["nats"], alone["nats"], given["tokens"], given["errors"], alone["errors"])
        pairs = [
            (pair, nats, bare, n) for pair, nats, bare, n, *errors in zip(*columns, strict=True) if not any(errors)
        ]
        self.judged: list[Row] = _read(folder, cell.judging, JUDGED)["rows"] if cell.judging else []
        """A row per prompt."""
        self.tables: Mapping[Metric, dict[str, Item]] = {
            "nll": {pair: Item(nats, n) for pair, nats, _, n in pairs},
            "lift": {pair: Item(bare - nats, n) for pair, nats, bare, n in pairs},
            "win_rate": {r["prompt"]: Item(100 * r["share"], 1) for r in self.judged if r["share"] is not None},
        }
        """By pair or prompt; those without a value are left out."""
        self.held = frozenset(given["pair_ids"])
        """Pairs it was asked about, those that failed among them."""
        training = RunDir(folder).manifest("arm/finetune")
        facts = training.result["training"] if training else {}
        self.examples: int = facts.get("examples", 0)
        self.steps: int = facts.get("steps", 0)
        self.label_tokens: int = facts.get("label_tokens", 0)

    def mean(self, metric: Metric, items: Sequence[str]) -> float:
        """Return a metric over these pairs or prompts."""
        chosen = [self.tables[metric][item] for item in items]
        return sum(item.total for item in chosen) / sum(item.weight for item in chosen)


def describe_judge(outcomes: Sequence[Outcome]) -> Row:
    """Return how many prompts were asked, and what the judge's rulings are over all cells: of which kinds, and for which place."""
    rulings = [
        row["orders"][order]
        for outcome in outcomes
        for row in outcome.judged
        if row["orders"] is not None
        for order in ("model_first", "baseline_first")
    ]
    given = [ruling["first"] for ruling in rulings if ruling["first"] is not None]
    return {
        "asked": max((len(outcome.judged) for outcome in outcomes), default=0),
        "without_output": sum(row["orders"] is None for outcome in outcomes for row in outcome.judged),
        "rulings": dict(sorted(Counter(ruling["kind"] for ruling in rulings).items())),
        "first_place": 100 * sum(given) / len(given) if given else None,
    }


def _read(folder: Path, stage: str, name: str) -> Row:
    path = folder / "arm" / stage / name
    try:
        found: Row = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}); remove {folder} and run the study again") from error
    return found
