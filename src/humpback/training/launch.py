"""Start a training in a child process, follow its metrics, and say what came of it. Imports neither torch nor trl.

A child of its own keeps torch's memory and threads out of the run, and its failure (out of memory, say) is a message
here. It cannot outlive its parent: it holds the reading end of a pipe that closes when the parent ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from humpback.errors import InputError, MissingDependencyError, StageError
from humpback.store.shards import storage_errors
from humpback.training.held_out import HELD_OUT, read_losses
from humpback.training.metrics import Follower, read_metrics, sum_steps
from humpback.training.spec import (
    FAILED,
    FINISHED,
    LESS_MEMORY,
    PRECISION,
    STARTED,
    TrainResult,
    TrainSpec,
    TrainStep,
    check_inputs,
    check_quantizer,
)

__all__ = ["train"]

POLL_S = 0.2
FULL = 2**20
"""Free bytes below which a trainer that could not say what was wrong had no room to."""
STEP_FIELDS = ("step", "steps", "loss", "tokens", "seconds")
OnStep = Callable[[TrainStep], None]


def train(
    spec: TrainSpec, *, on_step: OnStep | None = None, tell: Callable[[str], object] = lambda _: None
) -> TrainResult:
    """Train a model and return what was done; resume where a killed training of the same spec and rows stopped.

    `tell` is given what a user should know of such a resume.
    """
    check_inputs(spec)
    for package in ("torch", "trl", "peft"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"training needs {package}: pip install 'humpback-lm[train]'")
    check_quantizer(spec)
    with storage_errors(spec.work):
        spec.work.mkdir(parents=True, exist_ok=True)
        spec.output.parent.mkdir(parents=True, exist_ok=True)
        _forget_other_training(spec)
        if not (spec.output.is_dir() and (spec.work / FINISHED).is_file()):
            started = spec.work / STARTED
            for left in (STARTED, FAILED, FINISHED):
                (spec.work / left).unlink(missing_ok=True)
            (spec.work / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
            status = _run_child(spec, _Steps(spec.metrics, started, on_step, tell))
            if status:
                raise _failure(status, spec.work)
        else:
            tell(f"{spec.output} is there already, trained by this spec on these rows; delete it to train it again")
    return _result(spec)


def _forget_other_training(spec: TrainSpec) -> None:
    """Delete what another spec or other rows left: their checkpoints must not be resumed, their model not be served."""
    identity = spec.work / "identity"
    if not identity.is_file() or identity.read_text(encoding="utf-8") != spec.identity():
        for folder in (*spec.work.glob("checkpoint*"), spec.output):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (spec.metrics, spec.metrics.with_name(HELD_OUT), spec.work / FINISHED, spec.work / PRECISION):
            path.unlink(missing_ok=True)
        identity.write_text(spec.identity(), encoding="utf-8")


def _run_child(spec: TrainSpec, steps: _Steps) -> int:
    environment = _environment(spec)
    with (spec.work / "train.log").open("wb") as log:
        child = subprocess.Popen(
            [*_command(spec.processes), str(spec.work / "spec.json")],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the child
        )
    try:
        while True:
            try:
                status = child.wait(POLL_S)
            except subprocess.TimeoutExpired:
                steps.poll()
                continue
            steps.poll()
            return status
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        if child.stdin:
            child.stdin.close()


def _environment(spec: TrainSpec) -> dict[str, str]:
    environment = {**os.environ, "HUMPBACK_PARENT_PIPE": "1", "PYTHONUNBUFFERED": "1"}
    if spec.device.startswith("cuda:") and spec.processes == 1:  # the trainer takes the first device it sees
        number = int(spec.device.removeprefix("cuda:"))
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if visible and number >= len(visible):
            raise InputError(f"device={spec.device}: CUDA_VISIBLE_DEVICES={','.join(visible)} has no such device")
        environment["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    if spec.threads:
        environment["OMP_NUM_THREADS"] = str(spec.threads)
    elif spec.processes > 1:  # torchrun would give each process one thread
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // spec.processes)))
    return environment


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command(processes: int) -> list[str]:
    module = ["-m", "humpback.training.sft"]
    if processes == 1:
        return [sys.executable, *module]
    # torchrun starts the processes and ends all when one fails; accelerate finds the others by what it sets
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *module]


class _Steps:
    """Reports each step of this sitting once, and first how it begins."""

    def __init__(self, metrics: Path, started: Path, on_step: OnStep | None, tell: Callable[[str], object]) -> None:
        self.follower = Follower(metrics)
        self.started = started
        self.on_step = on_step
        self.tell = tell
        self.last: int | None = None

    def poll(self) -> None:
        """Report the steps trained since the last poll."""
        if not self.started.is_file():
            return  # until then the file may hold steps that the child is about to cut off
        if self.last is None:
            begun = json.loads(self.started.read_text(encoding="utf-8"))
            self.last = int(begun["resumed_step"])
            for note in begun["notes"]:
                self.tell(f"warning: {note}")
        if self.on_step is None:
            return
        for line in self.follower.new_lines():
            if line["step"] > self.last:
                self.on_step(TrainStep(**{name: line[name] for name in STEP_FIELDS}))


def _failure(status: int, work: Path) -> Exception:
    log = work / "train.log"
    if (work / FAILED).is_file():
        told = json.loads((work / FAILED).read_text(encoding="utf-8"))
        if told["status"] == InputError.exit_status:
            return InputError(f"{told['message']}; log: {log}")
        said = told["message"]
    else:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if shutil.disk_usage(work).free < FULL:
            how += f" and the disk that holds {work} is full: free some space"
        said = f"the trainer {how}" + (f", often for lack of memory; {LESS_MEMORY}" if status == -9 else "")
    return StageError(f"{said}; log: {log}; the same command goes on from the last checkpoint")


def _result(spec: TrainSpec) -> TrainResult:
    finished = json.loads((spec.work / FINISHED).read_text(encoding="utf-8"))
    return sum_steps(
        read_metrics(spec.metrics),
        steps=spec.steps,
        examples=json.loads((spec.work / STARTED).read_text(encoding="utf-8"))["examples"],
        held_out=read_losses(spec.metrics.with_name(HELD_OUT)),
        kept_step=finished["kept_step"],
        precision=finished.get("precision"),
    )
