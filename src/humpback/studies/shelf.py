"""What the cells of a study share: a stage that one of them has finished is not made again by another.

A stage is known by its identity, the payload that its manifest keeps: recipe section, inputs, prompts and model hashes. Its files are
linked, not copied: no file of a finished stage is ever changed, and removing one cell leaves the others whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from humpback.errors import StorageError
from humpback.store.fingerprint import fingerprint
from humpback.store.rundir import DISCARDED, RunDir
from humpback.store.shards import storage_errors

__all__ = ["StageShelf"]


class StageShelf:
    """The finished stages of a study's cells, by fingerprint."""

    def __init__(self, cells: Path) -> None:
        """`cells` is the folder that holds the cells' run folders."""
        self._cells = cells
        self.folder = cells.parent
        """The study's folder."""
        self._found: dict[str, Path] = {}
        self.taken = 0
        """Stages that were taken and not made."""
        for cell in sorted(cells.iterdir()) if cells.is_dir() else ():
            self.add(cell)

    def add(self, cell: Path) -> None:
        """Note the finished stages of one cell."""
        run_dir = RunDir(cell)
        for path in sorted((*cell.glob("*/manifest.json"), *cell.glob("*/*/manifest.json"))):
            stage = str(path.parent.relative_to(cell))
            if any(part.startswith(".") for part in path.parent.relative_to(cell).parts):
                continue  # what a killed removal left
            try:
                manifest = run_dir.manifest(stage)
            except StorageError:  # damaged: its own cell will say so, and the others make the stage
                continue
            if manifest is not None:
                self._found.setdefault(manifest.fingerprint, path.parent)

    def take(self, payload: Mapping[str, Any], folder: Path) -> str | None:
        """Link the stage of this identity into `folder`; return the cell it was made in, or None."""
        made = self._found.get(fingerprint(payload))
        if made is None or made == folder or not (made / "manifest.json").exists():
            return None
        aside = folder.with_name(f".{folder.name}.taken{DISCARDED}")  # a name that the next sitting sweeps
        with storage_errors(folder):
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(made, aside, copy_function=_link)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(aside, folder)
        self.taken += 1
        return made.relative_to(self._cells).parts[0]


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
    return target
