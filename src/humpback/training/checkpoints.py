"""What a training leaves on disk: checkpoints that can be trusted, metrics without doubles, and a model all at once.

A checkpoint is written under another name, sealed with a hash of every file, and renamed: under its own name it is whole, or it was
damaged later, which the seal shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from humpback.training.arithmetic import Sitting

__all__ = [
    "Chosen",
    "checkpoint_fault",
    "checkpoint_step",
    "cut_lines",
    "drop_checkpoints",
    "last_sound_checkpoint",
    "publish_checkpoint",
    "write_folder",
    "write_json",
]

SEAL = "seal.json"
"""Name, length and hash of every file of a checkpoint, by how many processes it was trained, whether they shared the model, and by
what it was computed."""
UNFINISHED = ".tmp"
"""End of the names of folders that are being written."""
COPIED = (
    *("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template", "additional_chat_templates"),
    *("spiece", "sentencepiece", "preprocessor", "generation_config", "LICENSE", "NOTICE"),
)
"""Starts of the names of the files a tuned model takes over from its base."""


class Chosen(NamedTuple):
    """The checkpoint to go on from."""

    folder: Path
    step: int
    """Optimizer steps it holds."""
    processes: int
    """Processes that trained it."""
    sharding: str
    """Whether they split the model (`TrainSpec.sharding`): their files are of another kind then."""
    sittings: Sequence[Sitting]
    """By what its steps were computed; none where an earlier version wrote it."""


def cut_lines(path: Path, step: int) -> None:
    """Keep the lines of steps up to `step`: the later ones are trained again."""
    kept: list[str] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            # a line cut by a kill can only come after the checkpoint's step
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
            kept.append(line)
    _replace_text(path, "".join(kept))


# -- checkpoints ---------------------------------------------------------------------------------------------------


def publish_checkpoint(
    written: Path,
    work: Path,
    *,
    processes: int,
    sharding: str,
    sittings: Sequence[Sitting],
    keep: int,
    needed: Iterable[int] = (),
) -> None:
    """Seal a written checkpoint, move it into `work` under its own name, and delete all but the last `keep` and the needed ones.

    `needed` are steps whose checkpoints stay, such as the best one.
    """
    files = {
        path.relative_to(written).as_posix(): {"bytes": path.stat().st_size, "sha256": _hash(path)}
        for path in sorted(written.rglob("*"))
        if path.is_file()
    }
    how = {"processes": processes, "sharding": sharding, "sittings": [asdict(sitting) for sitting in sittings]}
    seal = {**how, "files": files}
    (written / SEAL).write_text(json.dumps(seal, indent=1) + "\n", encoding="utf-8")
    for path in (*written.rglob("*"), written):
        _sync(path)
    target = work / written.name
    shutil.rmtree(target, ignore_errors=True)
    written.replace(target)
    _sync(work)
    steps = sorted(map(checkpoint_step, _checkpoints(work)))
    drop_checkpoints(work, {*steps[-keep:], *needed})


def drop_checkpoints(work: Path, kept: Iterable[int] = ()) -> None:
    """Delete all checkpoints but those of the kept steps, half-written ones included."""
    stay = set(kept)
    for folder in (*_checkpoints(work), *work.glob(f"checkpoint*{UNFINISHED}")):
        if folder.name.endswith(UNFINISHED) or checkpoint_step(folder) not in stay:
            # under another name first: a kill while deleting must not leave half a checkpoint under its own
            doomed = folder if folder.name.endswith(UNFINISHED) else folder.with_name(folder.name + UNFINISHED)
            if doomed != folder:
                folder.replace(doomed)
            shutil.rmtree(doomed)


def last_sound_checkpoint(work: Path, tell: Callable[[str], object]) -> Chosen | None:
    """Return the last checkpoint that is whole; delete later ones and tell why, and what a kill left half-written."""
    while found := _checkpoints(work):
        last = found[-1]
        reason = checkpoint_fault(last)
        if reason is None:
            sealed = json.loads((last / SEAL).read_text(encoding="utf-8"))
            return Chosen(
                last, checkpoint_step(last), int(sealed["processes"]), str(sealed["sharding"]), _read_sittings(sealed)
            )
        before = found[-2].name if len(found) > 1 else "the start"
        tell(f"{last} cannot be used: {reason}; training goes on from {before}")
        drop_checkpoints(work, map(checkpoint_step, found[:-1]))
    return None


def checkpoint_fault(folder: Path) -> str | None:
    """Return why a checkpoint cannot be resumed from, or None. Every byte is read."""
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files: Mapping[str, Mapping[str, object]] = seal["files"]
        if lacking := {"processes", "sharding"} - seal.keys():
            return f"{SEAL} does not hold {' and '.join(sorted(lacking))}"
        _read_sittings(seal)
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] != checkpoint_step(folder):
            return f"trainer_state.json is of step {state['global_step']}"
        for name, sealed in files.items():
            size = (folder / name).stat().st_size
            if size != sealed["bytes"]:
                return f"{name} has {size} bytes, {sealed['bytes']} were written"
            if _hash(folder / name) != sealed["sha256"]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _read_sittings(seal: Mapping[str, Any]) -> list[Sitting]:
    return [Sitting.read(values) for values in seal.get("sittings", ())]


def checkpoint_step(folder: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(folder.name.removeprefix("checkpoint-"))


def _checkpoints(work: Path) -> Sequence[Path]:
    """Return the checkpoint folders, the earliest first."""
    found = [path for path in work.glob("checkpoint-*") if path.name[11:].isdigit()]
    return sorted(found, key=checkpoint_step)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- results -------------------------------------------------------------------------------------------------------


def write_folder(
    output: Path, *, base: Path, write: Callable[[Path], object], finish: Callable[[Path], object] = lambda _: None
) -> None:
    """Let `write` fill a temporary folder, add the base's tokenizer files, let `finish` change them, and rename it."""
    temporary = output.with_name(output.name + UNFINISHED)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    for path in sorted(base.iterdir()):
        if path.name.startswith(COPIED):
            if path.is_dir():
                shutil.copytree(path, temporary / path.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, temporary / path.name)
    finish(temporary)
    for path in (*temporary.rglob("*"), temporary):
        _sync(path)
    shutil.rmtree(output, ignore_errors=True)
    temporary.replace(output)
    _sync(output.parent)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file in one move: a reader sees all of it or none."""
    _replace_text(path, json.dumps(value) + "\n")


def _replace_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + UNFINISHED)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
