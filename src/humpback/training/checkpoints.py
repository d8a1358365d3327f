"""What a training leaves on disk: checkpoints that can be trusted, metrics without doubles, and a model all at once."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

__all__ = ["checkpoint_fault", "cut_metrics", "last_sound_checkpoint", "write_folder", "write_json"]

ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files of a checkpoint that torch writes as zip archives."""
COPIED = (
    *("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template", "additional_chat_templates"),
    *("spiece", "sentencepiece", "preprocessor", "generation_config", "LICENSE", "NOTICE"),
)
"""Starts of the names of the files a tuned model takes over from its base."""


def cut_metrics(path: Path, step: int) -> None:
    """Keep the metrics of steps up to `step`: the later ones are trained again."""
    kept: list[str] = []
    if step and path.is_file():
        # a line cut by a kill can only come after the checkpoint's step
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:step]
    _replace_text(path, "".join(kept))


def last_sound_checkpoint(work: Path) -> Path | None:
    """Return the last checkpoint whose files are all there and whole; delete later ones, which a kill may have cut."""
    while (found := _last_checkpoint(work)) is not None:
        reason = checkpoint_fault(found)
        if reason is None:
            return found
        print(f"checkpoint {found} cannot be used: {reason}; falling back to the one before", flush=True)
        shutil.rmtree(found)
    return None


def checkpoint_fault(folder: Path) -> str | None:
    """Return why a checkpoint cannot be resumed from, or None."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if f"checkpoint-{state['global_step']}" != folder.name:
            return f"trainer_state.json is of step {state['global_step']}"
        for name in ARCHIVES:
            with zipfile.ZipFile(folder / name) as file:
                if (broken := file.testzip()) is not None:
                    return f"{name} is damaged at {broken}"
        weights = list(folder.glob("*.safetensors"))
        for path in weights:
            with safe_open(path, framework="pt"):  # compares the file's length with its header
                pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return None if weights else "no weights"


def _last_checkpoint(work: Path) -> Path | None:
    found = [path for path in work.glob("checkpoint-*") if path.name[11:].isdigit()]
    return max(found, key=lambda path: int(path.name[11:]), default=None)


def write_folder(
    output: Path, *, base: Path, write: Callable[[Path], object], finish: Callable[[Path], object] = lambda _: None
) -> None:
    """Let `write` fill a temporary folder, add the base's tokenizer files, let `finish` change them, and rename it."""
    temporary = output.with_name(output.name + ".tmp")
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
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
