"""Which number format a training multiplies in. In: a spec, a device. Out: one format for all its processes and all its sittings.

`auto` is decided once, by measurement on a CPU, and kept in the work folder: what a killed training goes on in must not depend on how
busy the machine was when it was started again, or its weights would not be those of one that was left alone.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict

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
    if first and not (spec.work / PRECISION).is_file():
        write_json(spec.work / PRECISION, asdict(_decide(on_cuda=on_cuda)))
    return _await_decision(spec)


def keep_precision(spec: TrainSpec, settled: Chosen, checkpoint: Checkpoint | None) -> None:
    """Write down what is settled; refuse to go on from a checkpoint of another format."""
    path = spec.work / PRECISION
    before = _read(spec) if path.is_file() else settled
    if checkpoint and before.format != settled.format:
        raise InputError(
            f"precision={settled.format}, but {checkpoint.folder} was trained in {before.format}: the model would be of neither. Set "
            f"precision to {before.format} or auto, or delete {spec.work} to train from the start"
        )
    if before.format != settled.format or not path.is_file():
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
    return _read(spec)


def _read(spec: TrainSpec) -> Chosen:
    path = spec.work / PRECISION
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["format"] in ("float32", "bfloat16"):
            return Chosen(format=kept["format"], reason=str(kept["reason"]))
        fault = f"format is {kept['format']!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
    raise InputError(
        f"{path} does not say which format the training has ({fault}); delete {spec.work} to train from the start"
    )
