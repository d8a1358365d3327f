"""What goes along with trained weights, so that a model folder stands alone. In: the folder, the spec, the rows. Out: its files.

    chat_template.jinja       the template the rows were rendered with, for every server the same
    generation_config.json    ends where training taught the model to end
    training.json             what it was trained on, how, with which versions, and how the loss went
    adapter/                  after LoRA: the adapter alone, for servers that load it onto the base model

No torch here: a trainer of another kind gets the same files (`dress_model`, `write_record`).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import humpback
from humpback.errors import InputError
from humpback.machine import find_versions
from humpback.training.arithmetic import Sitting
from humpback.training.checkpoints import write_json
from humpback.training.held_out import HELD_OUT, read_losses
from humpback.training.metrics import read_metrics, sum_steps
from humpback.training.spec import PRECISION, TrainSpec

__all__ = ["ADAPTER", "RECORD", "dress_model", "read_curves", "write_record"]

ADAPTER = "adapter"
"""Folder of the adapter inside a model folder: what loads the model reads its top level only."""
RECORD = "training.json"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "tokenizers", "safetensors", "numpy")


def dress_model(folder: Path, spec: TrainSpec) -> None:
    """Write the template and the ends into a model folder; done twice, it changes nothing more."""
    if spec.chat_template:
        (folder / "chat_template.jinja").write_text(spec.chat_template, encoding="utf-8")
        _drop_other_template(folder / "tokenizer_config.json")
    if spec.stop_ids:
        path = folder / "generation_config.json"
        config = _read(path) if path.is_file() else {}
        before = config.get("eos_token_id")
        if before is None and (folder / "config.json").is_file():
            before = _read(folder / "config.json").get("eos_token_id")
        ends = before if isinstance(before, list) else [] if before is None else [before]
        ends = list(dict.fromkeys([*ends, *spec.stop_ids]))
        write_json(path, {**config, "eos_token_id": ends[0] if len(ends) == 1 else ends})


def _drop_other_template(path: Path) -> None:
    """Take the template out of the tokenizer's config: converters to GGUF prefer it to the file."""
    if path.is_file() and "chat_template" in (config := _read(path)):
        del config["chat_template"]
        write_json(path, config)


def write_record(
    folder: Path,
    spec: TrainSpec,
    counts: Mapping[str, int],
    *,
    trainer: str,
    device: str,
    kept_step: int | None = None,
    sittings: Sequence[Sitting] = (),
) -> None:
    """Write `training.json`: all that is needed to know what this model is, and to train it again.

    `counts` are of the rows trained on, each counted once; `kept_step` is the step whose model it is, and `sittings` by what its steps
    were computed, where that is known.
    """
    lines = read_metrics(spec.metrics)
    done = sum_steps(lines, steps=0, examples=counts["examples"])
    # of a trainer of the user's own it is not known
    precision = _read(kept) if (kept := spec.work / PRECISION).is_file() else None
    record = {
        "humpback": humpback.__version__,
        "trainer": trainer,
        "base_model": {"path": str(spec.base_model), "content_hash": spec.base_hash or None},
        "data": {
            "files": [{"name": path.name, "sha256": _hash(path)} for path in spec.data],
            "held_out": [{"name": path.name, "sha256": _hash(path)} for path in spec.held_out],
            **{name: counts[name] for name in ("examples", "tokens", "label_tokens", "longest")},
        },
        "spec": spec.model_dump(mode="json"),
        "trained": {
            "steps": done.steps,
            "kept_step": kept_step,
            "tokens": done.tokens,
            "label_tokens": done.label_tokens,
            "seconds": round(done.seconds, 3),
        },
        "curves": read_curves(lines),
        "held_out": [asdict(loss) for loss in read_losses(spec.metrics.with_name(HELD_OUT))],
        "versions": {"python": platform.python_version(), **find_versions(PACKAGES)},
        "machine": {
            "device": device,
            "platform": platform.platform(),
            "precision": precision,
            "sittings": [asdict(sitting) for sitting in sittings],
        },
    }
    write_json(folder / RECORD, record)


def read_curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Return every figure of a metrics file as [step, value] pairs by its name; what was not measured at a step has none."""
    curves: dict[str, list[list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "steps") and isinstance(value, int | float) and not isinstance(value, bool):
                curves.setdefault(name, []).append([line["step"], value])
    return curves


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy or fetch the base model again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no JSON object; copy or fetch the base model again")
    return config


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
