"""The run folder: which stages are complete, what they were made of, and who may write.

A stage's folder holds `stage.json` (its identity, written when it starts), its shards and files, and `manifest.json`, written
last by rename: its existence means the stage is complete. Identity that no longer matches is refused with a field-by-field
difference; stale output is never served.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from humpback.errors import DriftError, InputError, LockedError, StorageError
from humpback.store.fingerprint import canonical, diff, fingerprint
from humpback.store.shards import atomic_write, storage_errors, sync_folder

__all__ = ["DISCARDED", "Counts", "Manifest", "RunDir", "StageState", "check_folder", "check_run"]

StageState = Literal["done", "started", "refused", "waiting"]
"""`refused`: a gate or a wrong input stopped it; `refusal` says why."""

DISCARDED = ".discarded"


@dataclass(kw_only=True)
class Counts:
    """Accounting of one stage: read = kept + rejected + failed, always."""

    read: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        self.read += other.read
        self.kept += other.kept
        for mine, theirs in ((self.rejected, other.rejected), (self.failed, other.failed)):
            for reason, number in theirs.items():
                mine[reason] = mine.get(reason, 0) + number

    def balanced(self) -> bool:
        return self.read == self.kept + sum(self.rejected.values()) + sum(self.failed.values())


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete stage is."""

    name: str
    iteration: int | None
    fingerprint: str
    identity: Mapping[str, Any]
    """The hashed payload, so that drift can be shown field by field."""
    read: int
    kept: int
    rejected: Mapping[str, int]
    failed: Mapping[str, int]
    seconds: float
    """Working time, over all sittings."""
    result: Mapping[str, Any]
    """What later stages need to know: a model's content hash, an audit's verdict."""
    engine: Mapping[str, Any]
    """Engine totals (`engines/base.py`): of a map stage over all sittings, of another over the last, which finds the answers
    of those before it in the cache."""
    environment: Mapping[str, Any]


class RunDir:
    """One run folder. Use as a context manager to hold its lock while writing."""

    def __init__(self, path: Path, *, what: str = "run folder", rebuild: str | None = None) -> None:
        """`what` and `rebuild` are for messages: what the folder is called, and how a stage of it is built anew."""
        self.path = path
        self._what, self._rebuild = what, rebuild
        self._lock: int | None = None

    # -- lock ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> RunDir:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self._what} {self.path} is a file; name another folder")
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the kernel when the process dies
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            self._lock = None
            raise LockedError(
                f"{self._what} {self.path} is being worked on by process {holder}; wait for it, or stop it and run again"
            ) from None
        try:
            with storage_errors(self.path):
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, str(os.getpid()).encode(), 0)
                self._sweep()
        except BaseException:  # Ctrl-C too: `with` leaves no lock behind that it has not entered; raised again
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- stages ----------------------------------------------------------------------------------------------------

    def folder(self, stage: str) -> Path:
        return self.path / stage

    def manifest(self, stage: str) -> Manifest | None:
        """Return the manifest of a complete stage, else None."""
        path = self.folder(stage) / "manifest.json"
        try:
            return Manifest(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise StorageError(f"{path} is damaged ({error}); {self._how_to_rebuild(stage)}") from error

    def drop_damaged(self, stage: str) -> None:
        """Take away a manifest that cannot be read: its stage is not complete, and begins anew."""
        try:
            self.manifest(stage)
        except StorageError:
            (self.folder(stage) / "manifest.json").unlink()

    def state(self, stage: str) -> StageState:
        if (self.folder(stage) / "manifest.json").exists():
            return "done"
        if (self.folder(stage) / "refused.json").exists():
            return "refused"
        return "started" if (self.folder(stage) / "stage.json").exists() else "waiting"

    def refusal(self, stage: str) -> str | None:
        """Return why a stage was refused, or None."""
        try:
            return str(json.loads((self.folder(stage) / "refused.json").read_bytes())["message"])
        except FileNotFoundError:
            return None

    def begin(self, stage: str, identity: Mapping[str, Any]) -> bool:
        """Start or resume a stage; return False when it is complete already. Raise DriftError when it was another's."""
        path = self.folder(stage) / "stage.json"
        payload = canonical(identity)
        if path.exists():
            try:
                before = json.loads(path.read_bytes())
            except ValueError as error:
                raise StorageError(f"{path} is damaged ({error}); {self._how_to_rebuild(stage)}") from error
            if before != payload and self._unworked(stage):
                self.discard(stage)  # a gate or a wrong input stopped it before: a corrected recipe begins it anew
                atomic_write(path, _json(payload))
            elif before != payload:
                self.refuse_drift(stage, before, payload)
        else:
            atomic_write(path, _json(payload))
        (path.parent / "refused.json").unlink(missing_ok=True)
        return not (path.parent / "manifest.json").exists()

    def refuse_drift(self, stage: str, before: object, payload: object) -> NoReturn:
        """Raise DriftError with every field that differs."""
        lines = "\n".join(f"  {line}" for line in diff(before, payload))
        fix = self._rebuild or (
            f"Either run again with --rerun-from {stage}, which rebuilds it and everything after it, "
            "or keep it and give the new recipe another run folder (--run NAME)."
        )
        raise DriftError(f"stage {stage} in {self.path} was made from something else:\n{lines}\n{fix}")

    def _how_to_rebuild(self, stage: str) -> str:
        return self._rebuild or f"run again with --rerun-from {stage}"

    def refuse(self, stage: str, message: str) -> None:
        """Note that a gate or a wrong input stopped the stage: its files stay to be read until the recipe is corrected."""
        atomic_write(self.folder(stage) / "refused.json", _json({"message": message}))

    def _unworked(self, stage: str) -> bool:
        """Tell whether an unfinished stage holds nothing worth keeping."""
        folder = self.folder(stage)
        if (folder / "manifest.json").exists():
            return False
        worked = any(folder.glob("*.parquet")) or (folder / "work").exists() or (folder / "model").exists()
        return (folder / "refused.json").exists() or not worked

    def finish(
        self,
        stage: str,
        iteration: int | None,
        counts: Counts,
        *,
        seconds: float,
        result: Mapping[str, Any],
        engine: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> Manifest:
        """Write the manifest: the stage is complete from this moment."""
        if not counts.balanced():
            raise AssertionError(f"stage {stage} lost rows: {counts}")
        identity = json.loads((self.folder(stage) / "stage.json").read_bytes())
        manifest = Manifest(
            name=stage,
            iteration=iteration,
            fingerprint=fingerprint(identity),
            identity=identity,
            **dataclasses.asdict(counts),
            seconds=round(seconds, 3),
            result=result,
            engine=engine,
            environment=environment,
        )
        atomic_write(self.folder(stage) / "manifest.json", _json(dataclasses.asdict(manifest)))
        return manifest

    def discard(self, stage: str) -> None:
        """Forget a stage. Its folder is moved aside in one step: a kill half-way leaves no shard that the next recipe finds."""
        folder = self.folder(stage)
        if not folder.exists():
            return
        with storage_errors(folder):
            aside = folder.with_name(f".{folder.name}{DISCARDED}")
            os.replace(folder, aside)
            sync_folder(folder.parent)
            shutil.rmtree(aside)
            if folder.parent != self.path and not any(folder.parent.iterdir()):
                folder.parent.rmdir()  # an iteration without a stage is none

    def _sweep(self) -> None:
        """Delete what a killed `discard` left."""
        for pattern in (f".*{DISCARDED}", f"*/.*{DISCARDED}"):  # stages lie one or two folders deep
            for aside in self.path.glob(pattern):
                shutil.rmtree(aside)


def check_folder(folder: Path, sources: Iterable[str], *, what: str, inputs: str, fix: str) -> None:
    """Refuse a folder to write into that holds something else, or that an input folder would read back as documents."""
    if folder.is_dir() and not (folder / ".lock").exists() and any(folder.iterdir()):
        raise InputError(f"{what} {folder} holds files that are no run's; name a new or an empty folder ({fix})")
    for source in map(Path, sources):
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise InputError(
                f"{what} {folder} lies inside {inputs} {source}, which would read it back as documents; "
                f"name a folder outside ({fix})"
            )


def check_run(run: Path) -> None:
    """Refuse what is no run folder: a run writes recipe.yaml before its first stage."""
    try:
        there = (run / "recipe.yaml").is_file()
    except OSError as error:
        fix = "check its name and permissions"
        raise InputError(f"run folder {run} cannot be read: {error.strerror or error}; {fix}") from error
    if there:
        return
    if run.is_file():
        raise InputError(f"{run} is a file; give the folder of a run, such as runs/demo")
    if not run.is_dir():
        raise InputError(f"run folder {run} does not exist; give the folder of a run, such as runs/demo")
    raise InputError(f"{run} is no run folder: it has no recipe.yaml; give a folder that `humpback run` made")


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
