"""The trainer of the scripted engine: no weights, but a model folder that depends on everything it was trained on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq

from humpback.errors import InputError
from humpback.prompts import IGNORE
from humpback.training.spec import TrainResult, TrainSpec

__all__ = ["FAKE_MODEL", "train_fake"]

FAKE_MODEL = "fake-model.json"


def train_fake(spec: TrainSpec) -> TrainResult:
    """Write `fake-model.json` into the output folder: same base and rows, same bytes."""
    start = time.monotonic()
    base = spec.base_model / FAKE_MODEL
    digest = hashlib.sha256(base.read_bytes() if base.is_file() else b"base")
    examples = tokens = label_tokens = 0
    for path in spec.data:
        if not path.is_file():
            raise InputError(f"training data {path}: there is no such file")
        for batch in pq.ParquetFile(path).iter_batches(columns=["id", "input_ids", "labels"]):
            for row in batch.to_pylist():
                digest.update(json.dumps([row["id"], row["input_ids"]]).encode())
                examples += 1
                tokens += len(row["input_ids"])
                label_tokens += sum(label != IGNORE for label in row["labels"])
    if not examples:
        raise InputError(f"no training rows in {', '.join(map(str, spec.data))}")
    _write(spec.output, {"fake": True, "trained_on": digest.hexdigest(), "examples": examples})
    spec.work.mkdir(parents=True, exist_ok=True)
    (spec.work / "identity").write_text(spec.identity(), encoding="utf-8")
    spec.metrics.parent.mkdir(parents=True, exist_ok=True)
    spec.metrics.write_text(json.dumps({"step": spec.steps, "steps": spec.steps}) + "\n", encoding="utf-8")
    return TrainResult(
        steps=spec.steps,
        examples=examples,
        tokens=tokens,
        label_tokens=label_tokens,
        first_loss=None,
        last_loss=None,
        first_tenth_loss=None,
        last_tenth_loss=None,
        seconds=time.monotonic() - start,
    )


def _write(output: Path, model: dict[str, object]) -> None:
    temporary = output.with_name(output.name + ".tmp")
    for folder in (temporary, output):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / FAKE_MODEL).write_text(json.dumps(model, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, output)
