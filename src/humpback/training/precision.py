"""Which number format a training multiplies in. In: a spec, a device. Out: one format for all its processes and all its sittings.

`auto` is decided once, by measurement on a CPU, and kept in the work folder: what a killed training goes on in must not depend on how
busy the machine was when it was started again, or its weights would not be those of one that was left alone. Trainings that name a
`precision_file` share the decision of the first: models in two formats would differ by more than what they were trained on.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from humpback.errors import InputError, StageError
from humpback.formats import Chosen, choose_on_cpu
from humpback.training.checkpoints import Chosen as Checkpoint
from humpback.training.checkpoints import write_json
from humpback.training.spec import PRECISION, TrainSpec

__all__ = ["keep_precision", "settle_precision"]

WAIT_S = 300
"""For the first process to decide, which takes a second; its failure ends the others before."""
POLL_S = 0.1


def settle_precision(spec: TrainSpec, *, on_cuda: bool, first: bool) -> Chosen:
    """Return the format of a training; of its processes the first decides, where nothing is decided yet, and the others wait."""
    if spec.precision != "auto":
        return Chosen(format=spec.precision, reason="as runtime.training.precision says")
    if first:
        _share_decision(spec, on_cuda=on_cuda)
    settled = _await_decision(spec)
    if settled.format == "bfloat16" and on_cuda and not torch.cuda.is_bf16_supported():
        raise InputError(
            f"the training is to go on in bfloat16 ({settled.reason}), which this GPU does not have; set "
            "runtime.training.precision=float32, or use the machine it began on"
        )
    return settled


def keep_precision(spec: TrainSpec, settled: Chosen, checkpoint: Checkpoint | None) -> None:
    """Write down what is settled; refuse to go on from a checkpoint of another format."""
    path = spec.work / PRECISION
    before = _read_own(spec) if path.is_file() else settled
    if checkpoint and before.format != settled.format:
        raise InputError(
            f"precision={settled.format}, but {checkpoint.folder} was trained in {before.format}: the model would be of neither. Set "
            f"precision to {before.format} or auto, or delete {spec.work} to train from the start"
        )
    if before.format != settled.format or not path.is_file():
        write_json(path, asdict(settled))


def _share_decision(spec: TrainSpec, *, on_cuda: bool) -> None:
    """Decide what is not decided yet, and write it down: for the other trainings first, so that a kill in between parts no two."""
    own, shared = spec.work / PRECISION, spec.precision_file
    if own.is_file():  # a training keeps its own, whatever the others have
        settled = _read_own(spec)
    elif shared and shared.is_file():
        settled = _read(
            shared,
            "delete the file, and the next training decides anew, or set runtime.training.precision to what the models that are "
            "there were trained in (machine.precision in their training.json)",
        )
    else:
        settled = _decide(on_cuda=on_cuda)
    for path in (shared, own):
        if path and not path.is_file():
            write_json(path, asdict(settled))


def _decide(*, on_cuda: bool) -> Chosen:
    if not on_cuda:
        return choose_on_cpu()
    if torch.cuda.is_bf16_supported():
        return Chosen(format="bfloat16", reason="a GPU")
    return Chosen(format="float32", reason="a GPU that has no bfloat16")


def _await_decision(spec: TrainSpec) -> Chosen:
    started = time.monotonic()
    while not (spec.work / PRECISION).is_file():
        if time.monotonic() - started > WAIT_S:
            raise StageError(f"the first process did not write {spec.work / PRECISION} within {WAIT_S} s; see its log")
        time.sleep(POLL_S)
    return _read_own(spec)


def _read_own(spec: TrainSpec) -> Chosen:
    return _read(spec.work / PRECISION, f"delete {spec.work} to train from the start")


def _read(path: Path, fix: str) -> Chosen:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["format"] in ("float32", "bfloat16"):
            return Chosen(format=kept["format"], reason=str(kept["reason"]))
        fault = f"format is {kept['format']!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
    raise InputError(f"{path} does not say which number format is trained in ({fault}); {fix}")
