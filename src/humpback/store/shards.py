"""Shards: Parquet files of records that are there whole or not at all.

Every file is written to a temporary name, fsynced and renamed. Nothing in a file depends on time or machine, so the same
records give the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from humpback.errors import StorageError
from humpback.records import Record, from_row, schema_of, to_row

__all__ = [
    "RecordWriter",
    "atomic_write",
    "count_rows",
    "read_columns",
    "read_metadata",
    "read_records",
    "shard_files",
    "storage_errors",
    "write_records",
]

R = TypeVar("R", bound=Record)
_META = b"humpback"
HELD_CHARS = 16_000_000
"""Characters of records that are held before they are written: a rejected row may keep a long text."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear StorageError; finished work stays as it is."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        fixes = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.EACCES: "no permission to write there; change it or choose another folder",
            errno.EPERM: "no permission to write there; change it or choose another folder",
            errno.ENOTDIR: "a part of that path is a file; choose another folder",
        }
        if error.errno is None:  # not the operating system's: a library's own error by that name
            raise
        fix = fixes.get(error.errno) or f"{error.strerror or error}; check the disk, or choose another folder"
        raise StorageError(
            f"{path} cannot be written: {fix}, then run the same command again. Finished work is kept."
        ) from error


def atomic_write(path: Path, data: bytes) -> None:
    """Write a small file whole: temporary name, fsync, rename, fsync of the folder."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RecordWriter(Generic[R]):
    """Writes one Parquet file as records come, with at most `chunk` of them, or `HELD_CHARS` of their text, in memory.

    The file appears under its name at `commit`, whole; a block that is left without one leaves nothing.
    """

    def __init__(self, path: Path, kind: type[R], *, chunk: int = 1024) -> None:
        self.path, self.rows = path, 0
        self._schema, self._chunk = schema_of(kind), chunk
        self._held: list[R] = []
        self._chars = 0
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._writer: pq.ParquetWriter | None = None

    def add(self, record: R) -> None:
        self.rows += 1
        self._held.append(record)
        self._chars += sum(len(value) for value in vars(record).values() if type(value) is str)
        if len(self._held) == self._chunk or self._chars >= HELD_CHARS:
            with storage_errors(self.path):
                self._flush()

    def commit(self, metadata: Mapping[str, Any] | None = None) -> None:
        """Finish the file, with metadata that `read_metadata` returns, and put it in its place."""
        with storage_errors(self.path):
            if self._held:
                self._flush()
            writer = self._open()
            if metadata is not None:
                writer.add_key_value_metadata({_META: json.dumps(metadata, sort_keys=True).encode()})
            writer.close()
            descriptor = os.open(self._temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(self._temporary, self.path)
            self._writer = None
            sync_folder(self.path.parent)

    def __enter__(self) -> RecordWriter[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def discard(self) -> None:
        """Leave nothing of a file that is not committed."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # a full disk, when that is what ended the block
                self._writer.close()
            self._writer = None
            self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        table = pa.Table.from_pylist([to_row(record) for record in self._held], schema=self._schema)
        self._open().write_table(table)
        self._held, self._chars = [], 0

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd", write_page_checksum=True)
        return self._writer


def write_records(
    path: Path, kind: type[R], records: Iterable[R], *, metadata: Mapping[str, Any] | None = None, chunk: int = 1024
) -> int:
    """Write records as one Parquet file and return how many; at most `chunk` rows are held at a time."""
    with RecordWriter(path, kind, chunk=chunk) as writer:
        for record in records:
            writer.add(record)
        writer.commit(metadata)
        return writer.rows


def shard_files(folder: Path, prefix: str) -> list[Path]:
    """Return the finished shards of a stage in order."""
    return sorted(folder.glob(f"{prefix}-*.parquet"))


def read_records(files: Path | Sequence[Path], kind: type[R], *, chunk: int = 1024) -> Iterator[R]:
    """Stream records from Parquet files in order, their own columns only; raise StorageError naming a damaged file."""
    columns = [field.name for field in dataclasses.fields(kind)]
    for path in [files] if isinstance(files, Path) else files:
        with _open(path) as file:
            for batch in file.iter_batches(batch_size=chunk, columns=columns):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    yield from_row(kind, row)


def read_columns(files: Sequence[Path], columns: Sequence[str], *, chunk: int = 4096) -> Iterator[Mapping[str, Any]]:
    """Stream the named columns of Parquet files in order, without the cost of the others."""
    for path in files:
        with _open(path) as file:
            for batch in file.iter_batches(batch_size=chunk, columns=list(columns)):
                yield from batch.to_pylist(maps_as_pydicts="strict")


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata a shard was written with."""
    with _open(path) as file:
        raw = (file.metadata.metadata or {}).get(_META, b"{}")
    data: dict[str, Any] = json.loads(raw)
    return data


def count_rows(files: Sequence[Path]) -> int:
    """Return the number of rows without reading them."""
    rows = 0
    for path in files:
        with _open(path) as file:
            rows += file.metadata.num_rows
    return rows


@contextlib.contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a shard; whatever is found wrong with it while it is read becomes a StorageError with its name."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{path} is damaged or gone ({error}); rebuild it with --rerun-from its stage") from error
