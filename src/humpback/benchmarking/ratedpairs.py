"""Pairs to be rated by several models, with what people say of them. In: a file, or a run's labels. Out: items in groups.

Three forms: `{instruction, response}`, also with `label` (1 to 5) or `good`, as `humpback label --export` writes them; preferences
`{input, output_1, output_2, label}` as of `humpback held-out`, two items each; and a run's `labels.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from humpback.benchmarking.alpacaeval import draw, read_json_rows
from humpback.benchmarking.heldout import group_instructions, read_preferences
from humpback.errors import InputError
from humpback.evaluation.labellog import FILE_NAME, is_good
from humpback.evaluation.labels import read_labels
from humpback.store.rundir import check_run

__all__ = ["Item", "Items", "read_items"]

Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A pair to be rated."""

    instruction: str
    response: str
    group: int
    """Items of one instruction are one group, and drawn together: apart from case, space and the last stop."""
    label: float | None = None
    """Human score, 1 to 5: the mean where several people gave one."""
    good: bool | None = None
    """Whether people call it good; None where they say nothing, or as many call it bad."""
    better: bool | None = None
    """Whether people prefer it to the other output of its group."""
    weight: float = 1.0
    """Candidates of a run that a label speaks for."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """A fixed sample."""

    kind: Literal["pairs", "preferences", "labels of a run"]
    items: tuple[Item, ...]
    left_out: Mapping[str, int]
    """Rows that cannot be rated as they are, by the reason."""


def read_items(path: Path, *, sample: int | None, seed: int) -> Items:
    """Return the items of a file or a run's labels, `sample` rows of it drawn by the seed."""
    if path.is_dir() or path.name == FILE_NAME:
        return _from_run(path if path.is_dir() else path.parent, sample, seed)
    rows = read_json_rows(path)
    if rows and "output_1" in rows[0]:
        chosen = draw(read_preferences(path), sample, seed)
        return Items(
            kind="preferences",
            items=tuple(
                Item(instruction=p.instruction, response=text, group=group, better=place == p.better)
                for group, p in zip(group_instructions(p.instruction for p in chosen), chosen, strict=True)
                for place, text in enumerate(p.outputs)
            ),
            left_out={},
        )
    return _from_pairs(path, rows, sample, seed)


def _from_run(run: Path, sample: int | None, seed: int) -> Items:
    check_run(run)
    labels = read_labels(run)
    if not labels.pairs:
        raise InputError(
            f"{run} holds no human label of a candidate that can be used; judge some with: humpback label {run}"
        )
    chosen = draw(labels.pairs, sample, seed)
    items = tuple(
        Item(
            instruction=pair.instruction,
            response=pair.response,
            group=group,
            label=pair.label,
            good=pair.good,
            weight=pair.weight,
        )
        for group, pair in zip(group_instructions(pair.instruction for pair in chosen), chosen, strict=True)
    )
    left_out = {"labelled candidates that are gone": labels.gone, "labellers are split": labels.split}
    return Items(kind="labels of a run", items=items, left_out={why: n for why, n in left_out.items() if n})


def _from_pairs(path: Path, rows: Sequence[Row], sample: int | None, seed: int) -> Items:
    said: dict[tuple[str, str], list[tuple[float | None, bool | None]]] = {}
    with_context = 0
    for number, row in enumerate(rows, start=1):
        texts = (row.get("instruction"), row.get("response"))
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(
                f"{path}: row {number} has neither a text of instruction and response nor of input, output_1 and output_2; it has "
                f"{', '.join(list(row)[:9])}"
            )
        if row.get("context"):
            with_context += 1
            continue
        instruction, response = map(str, texts)
        said.setdefault((instruction, response), []).append(_read_label(path, number, row))
    if not said:
        raise InputError(
            f"{path} holds no pair to rate ({with_context} have a context and are left out); give JSON lines of "
            "{instruction, response}"
        )
    items = []
    chosen = draw(list(said.items()), sample, seed)
    groups = group_instructions(instruction for (instruction, _), _ in chosen)
    for group, ((instruction, response), labels) in zip(groups, chosen, strict=True):
        given = [label for label, _ in labels if label is not None]
        votes = [good for _, good in labels if good is not None]
        items.append(
            Item(
                instruction=instruction,
                response=response,
                group=group,
                label=sum(given) / len(given) if given else None,
                good=None if 2 * sum(votes) == len(votes) else 2 * sum(votes) > len(votes),
            )
        )
    return Items(kind="pairs", items=tuple(items), left_out={"context": with_context} if with_context else {})


def _read_label(path: Path, number: int, row: Row) -> tuple[float | None, bool | None]:
    label, good = row.get("label"), row.get("good")
    if label in (None, ""):
        if good in (None, "") or isinstance(good, bool):
            return None, good if isinstance(good, bool) else None
        raise InputError(f"{path}: row {number}: good={str(good)[:20]} is neither true nor false")
    if isinstance(label, bool) or not isinstance(label, int) or not 1 <= label <= 5:
        raise InputError(f"{path}: row {number}: label={str(label)[:20]} is no whole number of 1 to 5")
    return float(label), good if isinstance(good, bool) else is_good(label)
