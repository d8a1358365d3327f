"""Runs one stage: reads, cuts into shards, resumes, writes, counts. Stages themselves are pure functions and know none of it.

Two shapes. A *map* stage turns each record into its own outcomes, shard by shard, under any executor. A *stream* stage needs the
whole input at once (dedup, curate, mix): it is written in one pass and starts over when interrupted.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import humpback
from humpback.engines.base import EngineTotals
from humpback.errors import StorageError
from humpback.executor import Executor
from humpback.progress import Bar
from humpback.records import Record, Rejected
from humpback.store.rundir import Counts
from humpback.store.shards import atomic_write, read_metadata, storage_errors, write_records

__all__ = ["MapTask", "Output", "Work", "environment", "read_sittings", "run_map", "run_stream"]

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "pyarrow")
"""Packages whose versions a manifest names."""

In = TypeVar("In", bound=Record)
Out = TypeVar("Out", bound=Record)
In_contra = TypeVar("In_contra", bound=Record, contravariant=True)
Out_co = TypeVar("Out_co", bound=Record, covariant=True)


@dataclass(frozen=True)
class Output(Generic[Out]):
    """Where a stage's kept rows go."""

    folder: Path
    prefix: str
    kind: type[Out]

    def shard(self, index: int) -> Path:
        return self.folder / f"{self.prefix}-{index:05d}.parquet"

    def rejected(self, index: int) -> Path:
        return self.folder / f"rejected-{index:05d}.parquet"


@dataclass(kw_only=True)
class Work:
    """What running a stage came to, over all sittings."""

    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    totals: EngineTotals = field(default_factory=EngineTotals)

    def add(self, other: Work) -> None:
        self.counts.add(other.counts)
        self.seconds += other.seconds
        for name in ("requests", "tokens_in", "tokens_out", "cache_hits", "seconds"):
            setattr(self.totals, name, getattr(self.totals, name) + getattr(other.totals, name))


class MapTask(Protocol[In_contra, Out_co]):
    """A stage bound to its settings and engines; sent to worker processes, so it must pickle."""

    @property
    def one_to_one(self) -> bool:
        """True when every input has exactly one outcome; else at least one."""
        ...

    def __call__(self, records: Sequence[In_contra]) -> Iterator[Out_co | Rejected]: ...

    def totals(self) -> EngineTotals:
        """What the task's engines have computed so far in this process."""
        ...


@dataclass(frozen=True)
class _Shard(Generic[In]):
    index: int
    records: tuple[In, ...]


@dataclass(frozen=True)
class _ShardJob(Generic[In, Out]):
    """Works one shard from records to finished files. Runs in whatever process the executor chooses."""

    task: MapTask[In, Out]
    output: Output[Out]

    def __call__(self, shard: _Shard[In]) -> tuple[int, Work]:
        started, before = time.monotonic(), asdict(self.task.totals())
        kept: list[Out] = []
        rejected: list[Rejected] = []
        for outcome in self.task(shard.records):
            if isinstance(outcome, Rejected):
                rejected.append(outcome)
            else:
                kept.append(outcome)
        outcomes = len(kept) + len(rejected)
        if outcomes < len(shard.records) or (self.task.one_to_one and outcomes > len(shard.records)):
            raise AssertionError(f"{self.output.folder}: {len(shard.records)} rows gave {outcomes} outcomes")
        counts = _count(len(kept), rejected)
        if rejected:
            write_records(self.output.rejected(shard.index), Rejected, rejected)
        else:
            with storage_errors(self.output.folder):  # a killed sitting may have rejected rows that this one kept
                self.output.rejected(shard.index).unlink(missing_ok=True)
        # the shard's own file comes last: when it is there, the shard is finished
        write_records(self.output.shard(shard.index), self.output.kind, kept, metadata={"counts": asdict(counts)})
        after = asdict(self.task.totals())
        used = {name: after[name] - before[name] for name in after}
        return shard.index, Work(counts=counts, seconds=time.monotonic() - started, totals=EngineTotals(**used))


def run_map(
    task: MapTask[In, Out],
    records: Iterable[In],
    output: Output[Out],
    *,
    executor: Executor,
    shard_rows: int,
    on_shard: Callable[[int, bool], None] = lambda rows, fresh: None,
) -> Work:
    """Run a map stage over all records and return its accounting; finished shards are not worked again.

    `on_shard(rows, fresh)` hears of every shard; `fresh` is False when an earlier sitting had finished it.
    """
    rows = _planned_rows(output.folder, shard_rows)
    done = read_sittings(output.folder)
    work = Work()

    def unfinished() -> Iterator[_Shard[In]]:
        for index, batch in enumerate(_batches(records, rows)):
            if output.shard(index).exists():
                counts = Counts(**read_metadata(output.shard(index))["counts"])
                work.add(Work(counts=counts))
                on_shard(len(batch), False)
                continue
            yield _Shard(index, batch)

    started = time.monotonic()
    for index, part in executor.map(_ShardJob(task, output), unfinished()):
        work.add(Work(counts=part.counts))
        elapsed = time.monotonic() - started
        started = time.monotonic()
        sitting = Work(seconds=elapsed, totals=part.totals)  # wall time, so that a pool's parallel work counts once
        _append_sitting(output.folder, index, sitting)
        done.add(sitting)
        on_shard(part.counts.read, True)
    work.seconds, work.totals = done.seconds, done.totals
    return work


def run_stream(
    outcomes: Iterable[Out | Rejected], output: Output[Out], *, shard_rows: int, bar: Bar | None = None
) -> Work:
    """Write a stream stage's outcomes in shards; whatever an interrupted sitting left is discarded first."""
    with storage_errors(output.folder):
        for pattern in (f"{output.prefix}-*.parquet", "rejected-*.parquet", ".*.tmp"):
            for path in output.folder.glob(pattern):
                path.unlink()
    started = time.monotonic()
    counts = Counts()
    kept: list[Out] = []
    rejected: list[Rejected] = []
    kept_files = rejected_files = 0
    for outcome in outcomes:
        if isinstance(outcome, Rejected):
            rejected.append(outcome)
        else:
            kept.append(outcome)
        if len(rejected) == shard_rows:
            counts.add(_count(0, rejected))
            write_records(output.rejected(rejected_files), Rejected, rejected)
            rejected, rejected_files = [], rejected_files + 1
        if len(kept) == shard_rows:
            counts.add(_count(len(kept), []))
            write_records(output.shard(kept_files), output.kind, kept)
            kept, kept_files = [], kept_files + 1
        if bar:
            bar.advance(1)
    counts.add(_count(len(kept), rejected))
    if rejected:
        write_records(output.rejected(rejected_files), Rejected, rejected)
    if kept or not kept_files:
        write_records(output.shard(kept_files), output.kind, kept)
    return Work(counts=counts, seconds=time.monotonic() - started)


def environment() -> dict[str, Any]:
    """Return what a manifest says of the machine."""
    return {
        "humpback": humpback.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


@functools.cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _count(kept: int, rejected: Sequence[Rejected]) -> Counts:
    counts = Counts(read=kept + len(rejected), kept=kept)
    for row in rejected:
        reasons = counts.failed if row.failed else counts.rejected
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    return counts


def _batches(records: Iterable[In], size: int) -> Iterator[tuple[In, ...]]:
    source = iter(records)
    while batch := tuple(itertools.islice(source, size)):
        yield batch


def _planned_rows(folder: Path, shard_rows: int) -> int:
    """Return the rows per shard the stage was begun with: a resumed stage keeps its cut whatever the recipe says now."""
    path = folder / "plan.json"
    if path.exists():
        try:
            return int(json.loads(path.read_bytes())["shard_rows"])
        except (ValueError, KeyError) as error:
            raise StorageError(f"{path} is damaged ({error}); run again with --rerun-from this stage") from error
    atomic_write(path, json.dumps({"shard_rows": shard_rows}).encode())
    return shard_rows


def _append_sitting(folder: Path, index: int, work: Work) -> None:
    line = json.dumps({"shard": index, "seconds": work.seconds, "engine": asdict(work.totals)})
    with storage_errors(folder), (folder / "sittings.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_sittings(folder: Path) -> Work:
    """Return the time and the engine totals of a map stage's finished shards, over all sittings."""
    work = Work()
    path = folder / "sittings.jsonl"
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line of a killed sitting may be cut; it holds only timing
            work.add(Work(seconds=entry["seconds"], totals=EngineTotals(**entry["engine"])))
    return work
