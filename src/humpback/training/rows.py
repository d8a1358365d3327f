"""Read tokenised training rows, and refuse those that a trainer would train wrongly without a sound."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from humpback.errors import InputError
from humpback.prompts import IGNORE

__all__ = ["check_fit", "check_shares", "count_rows", "label_counts", "read_rows", "row_lengths", "split_rows"]

SHARES = ("sampling", "weight")
"""Columns that say how much a row counts: draws per epoch on average, and the weight of its loss."""
ORIGIN = "origin"
"""Column by which losses of held-out rows are told apart."""


def read_rows(paths: Sequence[Path]) -> pa.Table:
    """Return `id`, `input_ids`, `labels`, `sampling`, `weight` and `origin` of all rows.

    Each row has a label, each label is its own token; what says how much a row counts is 1 unless the files say otherwise, and the
    origin is `all`.
    """
    names = ", ".join(map(str, paths))
    try:
        tables = [_read(path) for path in paths]
    except (pa.ArrowException, KeyError, OSError) as error:
        raise InputError(f"training data {names}: {error}") from error
    table = pa.concat_tables(tables).combine_chunks()
    if not len(table):
        raise InputError(f"no training rows in {names}")
    lengths = _lengths(table["input_ids"])
    _refuse(table, lengths != _lengths(table["labels"]), "input_ids and labels differ in length")
    _refuse(table, lengths < 2, "fewer than two tokens")
    ids, labels = _flat(table["input_ids"]), _flat(table["labels"])
    # a label shifted by its maker is the classic mistake: the trainer shifts
    shifted = (labels != IGNORE) & (labels != ids)
    _refuse(table, np.logical_or.reduceat(shifted, _starts(lengths)), "a label is not its own token")
    _refuse(table, label_counts(table) == 0, "no label token, so nothing to learn")
    for column in SHARES:
        values = table[column].to_numpy()
        _refuse(table, ~(np.isfinite(values) & (values > 0)), f"{column} is not a number above 0; leave such rows out")
    return table


def check_shares(schema: pa.Schema, path: Path) -> None:
    """Refuse a file that says with other than numbers how much a row counts."""
    for name in (name for name in SHARES if name in schema.names):
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InputError(
                f"training data {path}: column {name} is of type {kind}; give numbers above 0, or no such column"
            )


def _read(path: Path) -> pa.Table:
    schema = pq.read_schema(path)
    check_shares(schema, path)
    there = schema.names
    optional = [name for name in (*SHARES, ORIGIN) if name in there]
    table = pq.read_table(path, columns=["id", "input_ids", "labels", *optional])
    for name in SHARES:
        if name not in there:
            table = table.append_column(name, pa.array(np.ones(len(table))))
    if ORIGIN not in there:
        table = table.append_column(ORIGIN, pa.array(["all"] * len(table), pa.string()))
    return table.select(["id", "input_ids", "labels", *SHARES, ORIGIN])


def split_rows(table: pa.Table, share: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """Return the rows to train on and those held out: this share of each origin, at least one row, chosen by seed and row id.

    An origin of one row is trained on. A row keeps its side when others come or go, as far as the numbers allow.
    """
    places: dict[str, list[tuple[bytes, int]]] = {}
    for place, (row, origin) in enumerate(zip(table["id"].to_pylist(), table[ORIGIN].to_pylist(), strict=True)):
        places.setdefault(origin, []).append((hashlib.sha256(f"{seed}:{row}".encode()).digest(), place))
    held = np.zeros(len(table), dtype=bool)
    for rows in places.values():
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held[[place for _, place in sorted(rows)[:count]]] = True
    return table.filter(pa.array(~held)).combine_chunks(), table.filter(pa.array(held)).combine_chunks()


def check_fit(table: pa.Table, base_model: Path) -> None:
    """Refuse rows that are longer than the model's context or hold tokens it does not know."""
    config = json.loads((base_model / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    context = config.get("max_position_embeddings") or config.get("n_positions")
    lengths, ids = _lengths(table["input_ids"]), _flat(table["input_ids"])
    if context is not None:
        _refuse(table, lengths > context, f"longer than the {context} tokens of the context of {base_model}")
    if (known := config.get("vocab_size")) is not None:
        strange = np.logical_or.reduceat((ids < 0) | (ids >= known), _starts(lengths))
        _refuse(
            table, strange, f"a token outside the {known} that {base_model} knows: it was made with another tokenizer"
        )


def count_rows(table: pa.Table) -> dict[str, int]:
    """Return the number of rows, their tokens and label tokens, and the longest row's tokens."""
    lengths = row_lengths(table)
    return {
        "examples": len(table),
        "tokens": int(lengths.sum()),
        "label_tokens": int(label_counts(table).sum()),
        "longest": int(lengths.max()),
    }


def row_lengths(table: pa.Table) -> Any:
    """Return the number of tokens of each row."""
    return _lengths(table["labels"])


def _lengths(column: pa.ChunkedArray) -> Any:
    return pc.list_value_length(column).to_numpy()


def _flat(column: pa.ChunkedArray) -> Any:
    return pc.list_flatten(column).to_numpy()


def _starts(lengths: Any) -> Any:
    return np.cumsum(lengths) - lengths


def label_counts(table: pa.Table) -> Any:
    """Count each row's label tokens; the first token of a row is never predicted."""
    starts = _starts(_lengths(table["labels"]))
    counted = _flat(table["labels"]) != IGNORE
    counted[starts] = False
    return np.add.reduceat(counted.astype(np.int64), starts)


def _refuse(table: pa.Table, wrong: Any, reason: str) -> None:
    if wrong.any():
        row = table["id"][int(wrong.argmax())].as_py()
        raise InputError(f"training row {row}: {reason} ({int(wrong.sum())} such rows)")
