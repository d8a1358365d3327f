"""Parquet and Arrow files, a few rows at a time and only the columns a document is made of.

Rows are numbered through the file from 1 (`file#r12`), wherever a worker begins. Texts that repeat are kept once per batch
(dictionary encoding), so a small file cannot unpack to a big batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humpback.corpus.columns import column_names, missing_column, read_row
from humpback.corpus.faults import Fault, rejected
from humpback.corpus.place import Place
from humpback.records import Document, Rejected

__all__ = ["read_arrow", "read_parquet", "row_groups"]

_BATCH_ROWS = 64


def row_groups(path: Path) -> int:
    """Return how many row groups a Parquet file has; 0 when it cannot be read, which its reader will tell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_row_groups)
    except (pa.ArrowException, OSError, ValueError):
        return 0


def read_parquet(path: Path, place: Place, start: int, end: int | None) -> Iterator[Document | Rejected]:
    """Yield the rows of the row groups from `start` to before `end`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            groups = range(start, min(end if end is not None else file.num_row_groups, file.num_row_groups))
            number = sum(file.metadata.row_group(group).num_rows for group in range(start))
            names = file.schema_arrow.names
            if place.given.text not in names:
                if start == 0:
                    yield rejected(place.name, missing_column(names, place.name, place.given.text))
                return
            wanted = [name for name in dict.fromkeys(column_names(place.given)) if name in names]
        with pq.ParquetFile(path, pre_buffer=False, read_dictionary=_texts(path, wanted)) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(groups), columns=wanted, use_threads=False):
                yield from _rows(batch, place, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        yield place.damaged(f"{place.name}#r{number + 1}", _first_line(error))


def read_arrow(path: Path, place: Place) -> Iterator[Document | Rejected]:
    """Yield the rows of an Arrow file or stream, as data sets are saved."""
    import pyarrow as pa

    number = 0
    try:
        with pa.OSFile(str(path)) as file:
            for batch in _batches(file):
                if place.given.text not in batch.schema.names:
                    yield rejected(place.name, missing_column(batch.schema.names, place.name, place.given.text))
                    return
                wanted = [name for name in dict.fromkeys(column_names(place.given)) if name in batch.schema.names]
                yield from _rows(batch.select(wanted), place, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        yield place.damaged(f"{place.name}#r{number + 1}", _first_line(error))


def _texts(path: Path, wanted: list[str]) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    kinds = (pa.types.is_string, pa.types.is_large_string)
    return [name for name in wanted if any(kind(schema.field(name).type) for kind in kinds)]


def _batches(file: Any) -> Iterator[Any]:
    import pyarrow as pa

    is_file = file.read(8) == b"ARROW1\0\0"
    file.seek(0)
    if is_file:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
    else:
        yield from pa.ipc.open_stream(file)


def _rows(batch: Any, place: Place, before: int) -> Iterator[Document | Rejected]:
    batch.validate(full=True)  # a wrong offset in the file would end the process
    names = batch.schema.names
    for index in range(batch.num_rows):
        where = f"{place.name}#r{before + index + 1}"
        try:
            row = {name: batch.column(at)[index].as_py() for at, name in enumerate(names)}
        except (
            ValueError,
            OverflowError,
            LookupError,
        ) as error:  # no UTF-8; a time that Python cannot hold; a time zone
            yield rejected(where, Fault("not_utf8", f"{where} cannot be read: {error}; write the file again"))
            continue
        text = row.get(place.given.text)
        if isinstance(text, str) and len(text) * 4 > place.max_record_bytes:
            data = text.encode("utf-8", "replace")
            if len(data) > place.max_record_bytes:
                yield place.too_large(where, f"{len(data):,}", data)
                continue
        found = read_row(row, where, where, place.given)
        shown = text.encode("utf-8", "replace") if isinstance(text, str) else b""
        yield rejected(where, found, shown) if isinstance(found, Fault) else found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
