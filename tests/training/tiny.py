"""Small trainings for tests: rows of tokens, a spec for them, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from humpback.training.arithmetic import Arithmetic
from humpback.training.spec import TrainSpec

VOCABULARY = 96
COMPUTED = Arithmetic(device="a CPU", attention="sdpa", threads=1, batch_tokens=64, packages={"torch": "2.13.0"})
"""By what a training was computed."""
Row = tuple[list[int], list[int]]


def make_rows(count: int) -> list[Row]:
    """Rows of different lengths; none ends in the end-of-sequence token."""
    rows = []
    for i in range(count):
        ids = [2 + (7 * i + 3 * j) % (VOCABULARY - 2) for j in range(6 + 5 * i % 23)]
        prompt = 2 + i % 4
        rows.append((ids, [-100] * prompt + ids[prompt:]))
    return rows


def write_rows(path: Path, rows: list[Row]) -> Path:
    columns = {
        "id": [f"row{i}" for i in range(len(rows))],
        "input_ids": [ids for ids, _ in rows],
        "labels": [labels for _, labels in rows],
    }
    ints = pa.list_(pa.int64())
    pq.write_table(pa.table(columns, pa.schema({"id": pa.string(), "input_ids": ints, "labels": ints})), path)
    return path


def make_spec(folder: Path, base: Path, *, rows: list[Row] | None = None, **changes: Any) -> TrainSpec:
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "base_model": base,
        "data": [write_rows(folder / "rows.parquet", make_rows(10) if rows is None else rows)],
        "output": folder / "model",
        "work": folder / "work",
        "metrics": folder / "metrics.jsonl",
        "steps": 5,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "final_learning_rate": 1e-4,
        "dropout": 0.0,
        "batch_tokens": 64,
        "threads": 1,
        "device": "cpu",
        "precision": "float32",
    }
    return TrainSpec(**{**values, **changes})


def metrics_of(spec: TrainSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in spec.metrics.read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    import torch

    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
