"""JSONL and CSV, read forwards: one record at a time is held.

A record's location is `file#L12` (JSONL) or `file#r12` (CSV, the heading not counted). A big plain JSONL file is read in
ranges by several workers, which do not know line numbers: there every location is `file@BYTE`. What a file is cut into
depends on its size alone, so a location never depends on how many workers there are.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

from humpback.corpus.columns import missing_column, read_row
from humpback.corpus.faults import SHOWN_BYTES, Fault, rejected
from humpback.corpus.place import Place, decode_text
from humpback.corpus.streams import Stream
from humpback.records import Document, Rejected

__all__ = ["read_csv", "read_jsonl"]

_PIECE = 1 << 20


class _Line(NamedTuple):
    data: bytes
    """Without its line end; only the beginning when `size` is above the limit."""
    size: int
    begins: int
    ended: bool
    """It ends in a line end, so it is whole even if the stream is damaged behind it."""


def read_jsonl(stream: Stream, place: Place, start: int = 0, end: int | None = None) -> Iterator[Document | Rejected]:
    """Yield the records of lines that begin from `start` on and before `end`; the stream begins one byte before `start`."""
    limit, number, base = place.max_record_bytes, 0, max(0, start - 1)
    if start:
        while not stream.readline(_PIECE).endswith(b"\n"):
            if not stream.peek(1) or (end is not None and base + stream.position >= end):
                break
    while end is None or base + stream.position < end:
        number += stream.skip_blank_lines()
        if end is not None and base + stream.position >= end:
            break  # the line behind the blank ones is the next range's
        line = _next_line(stream, limit)
        if line is None or (stream.damage and not line.ended):
            break
        number += 1
        where = f"{place.name}@{base + line.begins}" if place.cut else f"{place.name}:{number}"
        address = where if place.cut else f"{place.name}#L{number}"
        if line.size > limit:
            detail = (
                f"{where} is {line.size:,} bytes long, above corpus.max_line_bytes={limit:,}; "
                "raise that, or split the record"
            )
            yield rejected(where, Fault("line_too_long", detail), line.data)
        elif line.data.strip():
            document = _parse(line.data, where, address, place, first=base + line.begins == 0)
            yield rejected(where, document, line.data) if isinstance(document, Fault) else document
    if stream.damage:
        yield _damaged(place.name, number, stream.damage)


def read_csv(stream: Stream, place: Place) -> Iterator[Document | Rejected]:
    """Yield the records of a table whose first row names the columns."""
    delimiter = _delimiter(stream.peek(1 << 14), place.name)
    csv.field_size_limit(min(sys.maxsize, (1 << 31) - 1))  # of the process; the records are limited below
    feed = _Feed(stream, place.max_record_bytes)
    rows = csv.reader(feed, delimiter=delimiter)
    names, number = next(_rows(rows, feed), None), 0
    if not isinstance(names, list):
        why = names.detail if names else "it is empty"
        yield rejected(place.name, Fault("no_text", f"{place.name} has no first row of column names: {why}"))
        return
    if place.given.text not in names:
        yield rejected(place.name, missing_column([_shown(name) for name in names], place.name, place.given.text))
        return
    for cells in _rows(rows, feed):
        number += 1
        where = f"{place.name}#r{number}"
        if isinstance(cells, Fault):
            found: Document | Fault = Fault(cells.reason, f"{where} {cells.detail}")
        elif any(_is_broken(cell) for cell in cells):
            found = Fault("not_utf8", f"{where} is not UTF-8; convert it, for example with `iconv -t UTF-8`")
        else:
            found = read_row(dict(zip(names, cells, strict=False)), where, where, place.given)
        yield rejected(where, found, bytes(feed.begun)) if isinstance(found, Fault) else found
    if stream.damage:
        yield place.damaged(f"{place.name}#r{number + 1}", stream.damage)


def _next_line(stream: Stream, limit: int) -> _Line | None:
    """Return the next line; of a line above the limit only its beginning and its size."""
    begins = stream.position
    data = stream.readline(limit + 1)
    if not data:
        return None
    rest = data
    while not rest.endswith(b"\n") and len(data) > limit and (more := stream.readline(_PIECE)):
        rest = more
    ended = rest.endswith(b"\n")
    size = stream.position - begins - ended
    return _Line(data[:SHOWN_BYTES] if size > limit else data.rstrip(b"\r\n"), size, begins, ended)


def _parse(data: bytes, where: str, address: str, place: Place, *, first: bool) -> Document | Fault:
    raw = decode_text(data, where, first=first)
    if isinstance(raw, Fault):
        return raw
    try:
        row = json.loads(raw)
    except json.JSONDecodeError as error:
        return Fault("not_json", f"{where} is not JSON: {error.msg} at column {error.colno}; write one object per line")
    except (ValueError, RecursionError) as error:
        return Fault("not_json", f"{where} cannot be read as JSON: {error}; write one flat object per line")
    if not isinstance(row, dict):
        return Fault("not_json", f"{where} holds a JSON {type(row).__name__}; write one object per line")
    return read_row(row, where, address, place.given)


def _damaged(name: str, lines: int, why: str) -> Rejected:
    # A checksum comes last: the damage may lie before the line at which it shows.
    detail = f"{name} is damaged at or before line {lines + 1}: {why}; records up to there are kept, fetch it again"
    return rejected(f"{name}:{lines + 1}", Fault("damaged_file", detail))


class _Feed:
    """The lines of one record after the other; a record that never ends is stopped at the limit."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self.begun = bytearray()
        """The beginning of the record that is being read."""
        self._stream = stream
        self._limit = limit
        self._size = 0
        self._first = True

    def begin(self) -> None:
        self.begun.clear()
        self._size = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if not self.begun:
            self._stream.skip_blank_lines()
        line = _next_line(self._stream, self._limit)
        if line is None or (self._stream.damage and not line.ended):
            raise StopIteration
        self._size += line.size
        if len(self.begun) < SHOWN_BYTES:
            self.begun += line.data[:SHOWN_BYTES] + b"\n"
        if self._size > self._limit:
            raise _TooLongError
        text = line.data.decode("utf-8-sig" if self._first else "utf-8", "surrogateescape")
        self._first = False
        return text + "\n"


class _TooLongError(Exception):
    pass


def _rows(rows: Iterator[list[str]], feed: _Feed) -> Iterator[list[str] | Fault]:
    while True:
        feed.begin()
        try:
            cells = next(rows)
        except StopIteration:
            return
        except _TooLongError:
            yield Fault("line_too_long", "is longer than corpus.max_line_bytes; raise that, or close its quotes")
        except csv.Error as error:
            yield Fault("not_csv", f"cannot be read as CSV: {error}; write it with a CSV library")
        else:
            if cells:
                yield cells


def _delimiter(head: bytes, name: str) -> str:
    line = head.partition(b"\n")[0].decode("utf-8", "replace")
    if ".tsv" in name.lower():
        return "\t"
    return max(",;\t|", key=lambda mark: (line.count(mark), mark == ","))


def _is_broken(cell: str) -> bool:
    return not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell)


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
