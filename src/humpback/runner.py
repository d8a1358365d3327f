"""Runs a map stage: cuts into shards, resumes, writes, counts. Stages themselves are pure functions and know none of it.

A map stage turns each record into its own outcomes, shard by shard, under any executor. A map over *units* is the same where a
worker reads its own input (ingest): pages do not pass through pipes, and no unit is held in memory. What needs its whole input at
once is in `streaming.py`.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from humpback.engines.base import EngineTotals
from humpback.errors import StorageError
from humpback.executor import Executor
from humpback.records import Record, Rejected
from humpback.store.rundir import Counts
from humpback.store.shards import RecordWriter, atomic_write, read_metadata, storage_errors, write_records

__all__ = [
    "MapTask",
    "Output",
    "UnitLike",
    "UnitTask",
    "Work",
    "count_outcomes",
    "read_sittings",
    "run_map",
    "run_units",
    "to_json",
]

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
    tally: Counter[str] = field(default_factory=Counter)
    """What a stage over units counts besides rows: documents, masked addresses."""

    def add(self, other: Work) -> None:
        self.counts.add(other.counts)
        self.seconds += other.seconds
        self.tally.update(other.tally)
        self.totals.add(other.totals)


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

    def __call__(self, shard: _Shard[In]) -> tuple[_Shard[In], Work]:
        before = replace(self.task.totals())
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
        counts = count_outcomes(len(kept), rejected)
        if rejected:
            write_records(self.output.rejected(shard.index), Rejected, rejected)
        else:
            with storage_errors(self.output.folder):  # a killed sitting may have rejected rows that this one kept
                self.output.rejected(shard.index).unlink(missing_ok=True)
        # the shard's own file comes last: when it is there, the shard is finished
        write_records(self.output.shard(shard.index), self.output.kind, kept, metadata={"counts": asdict(counts)})
        # the rows need not travel back
        return replace(shard, records=()), Work(counts=counts, totals=self.task.totals().since(before))


def run_map(
    task: MapTask[In, Out],
    records: Iterable[In],
    output: Output[Out],
    *,
    executor: Executor,
    shard_rows: int,
    on_shard: Callable[[Work, bool], None] = lambda work, fresh: None,
) -> Work:
    """Run a map stage over all records and return its accounting; finished shards are not worked again.

    `on_shard(work, fresh)` hears of every shard; `fresh` is False when an earlier sitting had finished it.
    """
    rows = _planned_rows(output.folder, shard_rows)
    shards = (_Shard(index, batch) for index, batch in enumerate(_batches(records, rows)))
    return _run_pieces(_ShardJob(task, output), shards, output, executor, lambda _, work, fresh: on_shard(work, fresh))


class _Piece(Protocol):
    @property
    def index(self) -> int:
        """Its place in the plan, which names its shard."""
        ...


class UnitLike(_Piece, Protocol):
    """A piece of the input that one worker reads alone; sent to worker processes, so it must pickle and be small."""

    @property
    def size(self) -> int:
        """Bytes, for progress."""
        ...


P = TypeVar("P", bound=_Piece)
U = TypeVar("U", bound=UnitLike)
U_contra = TypeVar("U_contra", bound=UnitLike, contravariant=True)


class UnitTask(Protocol[U_contra, Out_co]):
    """A stage bound to its settings that reads its own input; must pickle."""

    def __call__(self, unit: U_contra, tally: Counter[str]) -> Iterator[Out_co | Rejected]: ...


@dataclass(frozen=True)
class _UnitJob(Generic[U, Out]):
    """Works one unit from its input to finished files, row by row."""

    task: UnitTask[U, Out]
    output: Output[Out]

    def __call__(self, unit: U) -> tuple[U, Work]:
        counts, tally = Counts(), Counter[str]()
        shard, dropped = self.output.shard(unit.index), self.output.rejected(unit.index)
        with RecordWriter(shard, self.output.kind) as kept, RecordWriter(dropped, Rejected) as rejected:
            for outcome in self.task(unit, tally):
                if isinstance(outcome, Rejected):
                    rejected.add(outcome)
                    counts.add(count_outcomes(0, [outcome]))
                else:
                    kept.add(outcome)
            counts.add(count_outcomes(kept.rows, []))
            if rejected.rows:
                rejected.commit()
            else:
                with storage_errors(self.output.folder):  # a killed sitting may have left some
                    dropped.unlink(missing_ok=True)
            # the shard's own file comes last, and also when it is empty: when it is there, the unit is finished
            kept.commit({"counts": asdict(counts), "tally": dict(tally)})
        return unit, Work(counts=counts, tally=tally)


def run_units(
    task: UnitTask[U, Out],
    units: Iterable[U],
    output: Output[Out],
    *,
    executor: Executor,
    on_unit: Callable[[U, Work, bool], None] = lambda unit, work, fresh: None,
) -> Work:
    """Run a map stage whose workers read their own input; finished units are not worked again.

    `on_unit(unit, work, fresh)` hears of every unit; `fresh` is False when an earlier sitting had finished it.
    """
    if not (output.folder / "plan.json").exists():
        atomic_write(output.folder / "plan.json", json.dumps({"units": "as planned"}).encode())
    return _run_pieces(_UnitJob(task, output), units, output, executor, on_unit)


def _run_pieces(
    job: Callable[[P], tuple[P, Work]],
    pieces: Iterable[P],
    output: Output[Any],
    executor: Executor,
    on_piece: Callable[[P, Work, bool], None],
) -> Work:
    """Work every piece whose shard is not there yet, and return the accounting of all of them, over all sittings."""
    done = read_sittings(output.folder)
    work = Work()

    def unfinished() -> Iterator[P]:
        for piece in pieces:
            shard = output.shard(piece.index)
            if not shard.exists():
                yield piece
                continue
            noted = read_metadata(shard)
            part = Work(counts=Counts(**noted["counts"]), tally=Counter(noted.get("tally", {})))
            work.add(part)
            on_piece(piece, part, False)

    started = time.monotonic()
    for piece, part in executor.map(job, unfinished()):
        work.add(Work(counts=part.counts, tally=part.tally))
        elapsed, started = time.monotonic() - started, time.monotonic()
        sitting = Work(seconds=elapsed, totals=part.totals)  # wall time, so that a pool's parallel work counts once
        _append_sitting(output.folder, piece.index, sitting)
        done.add(sitting)
        on_piece(piece, part, True)
    work.seconds, work.totals = done.seconds, done.totals
    return work


def to_json(value: object) -> bytes:
    """Return indented JSON for a file people read."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogatepass")


def count_outcomes(kept: int, rejected: Sequence[Rejected]) -> Counts:
    """Return the counts of some kept rows and of these that were not, by reason."""
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
