"""Runs a stage that needs its whole input at once (dedup, curate, mix): written in one pass, started over when interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from humpback.progress import Bar
from humpback.records import Record, Rejected
from humpback.runner import Output, Work, count_outcomes
from humpback.store.rundir import Counts
from humpback.store.shards import RecordWriter, storage_errors

__all__ = ["run_stream"]

Out = TypeVar("Out", bound=Record)


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
    with (
        _Shards(output.shard, output.kind, shard_rows) as kept,
        _Shards(output.rejected, Rejected, shard_rows) as rejected,
    ):
        for outcome in outcomes:
            if isinstance(outcome, Rejected):
                rejected.add(outcome)
                counts.add(count_outcomes(0, [outcome]))
            else:
                kept.add(outcome)
                counts.add(Counts(read=1, kept=1))
            if bar:
                bar.advance(1)
        rejected.finish()
        kept.finish(even_empty=True)
    return Work(counts=counts, seconds=time.monotonic() - started)


class _Shards(Generic[Out]):
    """Files of `rows` records each, written as the records come."""

    def __init__(self, path_of: Callable[[int], Path], kind: type[Out], rows: int) -> None:
        self._path_of, self._kind, self._rows = path_of, kind, rows
        self._index = 0
        self._open: RecordWriter[Out] | None = None

    def add(self, record: Out) -> None:
        if self._open is None:
            self._open = RecordWriter(self._path_of(self._index), self._kind)
        self._open.add(record)
        if self._open.rows == self._rows:
            self.finish()

    def finish(self, *, even_empty: bool = False) -> None:
        """Finish the open file; with `even_empty`, there is at least one."""
        if self._open is None and even_empty and not self._index:
            self._open = RecordWriter(self._path_of(0), self._kind)
        if self._open is not None:
            self._open.commit()
            self._open, self._index = None, self._index + 1

    def __enter__(self) -> _Shards[Out]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.discard()
