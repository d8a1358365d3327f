"""Finetune: a mix in, a model folder out. Always from the base model, never from the model before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from humpback.engines.base import ModelRef
from humpback.errors import GateError
from humpback.recipe import RuntimeSettings, TrainSettings
from humpback.store.fingerprint import derive_seed
from humpback.store.shards import storage_errors
from humpback.training.held_out import HELD_OUT
from humpback.training.sampling import trained_rows
from humpback.training.schedule import schedule_for
from humpback.training.spec import METRICS, TrainResult, TrainSpec, TrainStep, check_spec

__all__ = ["finetune", "take_twin", "train_spec"]

Trainer = Callable[[TrainSpec, Callable[[TrainStep], None] | None], TrainResult]


def train_spec(
    stage: str,
    folder: Path,
    data: tuple[Path, ...],
    examples: int,
    base: ModelRef,
    settings: TrainSettings,
    runtime: RuntimeSettings,
    *,
    random_seed: int,
    precision_file: Path | None = None,
    chat_template: str = "",
    stop_ids: tuple[int, ...] = (),
) -> TrainSpec:
    """Return the training of one model; raise GateError when the mix is empty, InputError when processes outnumber a batch's rows."""
    if not examples:
        raise GateError(
            f"{stage}: the mix is empty, so there is nothing to train on; see the mix stage's rejected rows"
        )
    trained = trained_rows(examples, settings.held_out_share)
    schedule = schedule_for(trained, steps=settings.steps, epochs=settings.epochs, batch_size=settings.batch_size)
    values = {
        "base_model": Path(base.path),
        "base_hash": base.content_hash,
        "chat_template": chat_template,
        "stop_ids": stop_ids,
        "data": data,
        "output": folder / "model",
        "work": folder / "work",
        "metrics": folder / METRICS,
        "steps": schedule.steps,
        "batch_size": schedule.batch_size,
        "method": settings.method,
        "learning_rate": settings.learning_rate,
        "final_learning_rate": settings.final_learning_rate,
        "warmup_steps": min(settings.warmup_steps, schedule.steps - 1),
        "weight_decay": settings.weight_decay,
        "dropout": settings.dropout,
        "max_grad_norm": settings.max_grad_norm,
        "lora_rank": settings.lora_rank,
        "lora_alpha": settings.lora_alpha,
        "held_out_share": settings.held_out_share,
        "evaluate_every": settings.evaluate_every,
        "patience": settings.patience,
        "keep": settings.keep,
        "seed": derive_seed(random_seed, "finetune") % 2**32,
        "batch_tokens": runtime.train_batch_tokens,
        "save_every": runtime.save_every,
        "threads": runtime.threads,
        "device": runtime.device,
        "report_to": tuple(runtime.report_to),
        "processes": runtime.training.processes,
        "sharding": runtime.training.sharding,
        "precision": runtime.training.precision,
        "precision_file": precision_file,
        "recompute": runtime.training.recompute,
    }
    return check_spec(values, f"{stage}: the training")


def take_twin(spec: TrainSpec, other: Path) -> bool:
    """Take over the model of a finished training with the same rows and settings, if `other` is one.

    A curation that no longer changes gives the same mix again: training it a second time would compute the same model.
    """
    identity = other / "work" / "identity"
    if not identity.is_file() or identity.read_text(encoding="utf-8") != spec.identity():
        return False
    with storage_errors(spec.output.parent):
        temporary = spec.output.with_name(spec.output.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(spec.output, ignore_errors=True)
        shutil.copytree(other / "model", temporary)
        for name in (METRICS, HELD_OUT):
            if (other / name).is_file():
                shutil.copyfile(other / name, spec.metrics.with_name(name))
        os.replace(temporary, spec.output)
    return True


def finetune(spec: TrainSpec, trainer: Trainer, on_step: Callable[[TrainStep], None] | None) -> TrainResult:
    """Train and return what was done; a killed training resumes from its last checkpoint."""
    with storage_errors(spec.output.parent):
        return trainer(spec, on_step)
