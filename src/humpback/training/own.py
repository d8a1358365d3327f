"""A trainer of the user's own in place of ours (`train.command`). In: the spec of a training. Out: a model folder, as any training's.

The seam between `mix/` and `model/`: the command is started with the path of `spec.json` (`spec.py: TrainSpec`), reads the rows
named there (`id`, `input_ids`, `labels`, `sampling`, `weight`), writes a transformers model folder to `output`, and ends with 0.
It may write one JSON line per step to `metrics` (`step`, `loss`, `tokens`, `label_tokens`, `seconds`); then progress, report and
`training.json` have them. What it need not care for is put into its folder afterwards: chat template, ends, `training.json`.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from humpback.errors import InputError, StageError
from humpback.training.held_out import HELD_OUT
from humpback.training.metrics import Follower, read_metrics, sum_steps
from humpback.training.result import dress_model, write_record
from humpback.training.rows import count_rows, read_rows
from humpback.training.spec import FINISHED, PRECISION, TrainResult, TrainSpec, TrainStep, check_inputs

__all__ = ["train_by_command"]

POLL_S = 0.2
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def train_by_command(
    spec: TrainSpec, command: str, *, on_step: Callable[[TrainStep], None] | None = None
) -> TrainResult:
    """Run the command on a spec, refuse a folder that is no model, and complete what it wrote."""
    check_inputs(spec)
    counts = count_rows(read_rows(spec.data))
    spec.work.mkdir(parents=True, exist_ok=True)
    spec.output.parent.mkdir(parents=True, exist_ok=True)
    file = spec.work / "spec.json"
    words = [word.replace("{spec}", str(file)) for word in shlex.split(command)]
    started = time.monotonic()
    with (spec.work / "command.lock").open("ab") as alone:
        _take(alone, spec)
        shutil.rmtree(spec.output, ignore_errors=True)  # whether it resumes its own work is the trainer's affair
        file.write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
        status = _run(words, spec, alone, on_step)
    log = spec.work / "train.log"
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise StageError(f"train.command {how}: {command}{_last_line(log)}; log: {log}")
    _check_model(spec, command)
    dress_model(spec.output, spec)
    (spec.work / "identity").write_text(spec.identity(), encoding="utf-8")
    return _tell(spec, command, counts, time.monotonic() - started)


def _take(alone: IO[bytes], spec: TrainSpec) -> None:
    """Refuse a second trainer on one folder. The command holds the lock as well: killed with -9, a run leaves it training."""
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"the train.command of a run that was killed still writes to {spec.output}; wait for it or end it, then run again"
        ) from error


def _run(words: list[str], spec: TrainSpec, alone: IO[bytes], on_step: Callable[[TrainStep], None] | None) -> int:
    # what our own trainer left here would pass for this one's
    for left in (spec.metrics, spec.metrics.with_name(HELD_OUT), spec.work / FINISHED, spec.work / PRECISION):
        left.unlink(missing_ok=True)
    with (spec.work / "train.log").open("wb") as log:
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(alone.fileno(),),
            )
        except OSError as error:
            raise InputError(f"train.command cannot be started: {words[0]}: {error.strerror or error}") from error
    follower = Follower(spec.metrics)
    try:
        while True:
            try:
                status: int | None = child.wait(POLL_S)
            except subprocess.TimeoutExpired:
                status = None
            for line in follower.new_lines():
                if on_step and "loss" in line:
                    on_step(_step(line, spec))
            if status is not None:
                return status
    finally:
        if child.poll() is None:
            os.killpg(child.pid, 9)  # with what it started
            child.wait()


def _step(line: dict[str, Any], spec: TrainSpec) -> TrainStep:
    return TrainStep(
        step=int(line.get("step", 0)),
        steps=spec.steps,
        loss=float(line["loss"]),
        tokens=int(line.get("tokens", 0)),
        seconds=float(line.get("seconds", 0.0)),
    )


def _check_model(spec: TrainSpec, command: str) -> None:
    folder = spec.output
    lacking = None
    if not (folder / "config.json").is_file():
        lacking = "config.json"
    elif not any(folder.glob("*.safetensors")):
        lacking = "*.safetensors"
    if lacking:
        raise StageError(
            f"train.command ended with 0 and left no {lacking} in {folder}: {command}; write a model there, as "
            "transformers' save_pretrained does"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        for name in ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece"):
            for path in spec.base_model.glob(f"{name}*"):
                shutil.copyfile(path, folder / path.name)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f" ({lines[-1].strip()[:300]})" if lines else ""


def _tell(spec: TrainSpec, command: str, counts: Mapping[str, int], seconds: float) -> TrainResult:
    write_record(spec.output, spec, counts, trainer=command, device=spec.device)
    return sum_steps(read_metrics(spec.metrics), steps=spec.steps, examples=counts["examples"], seconds=seconds)
