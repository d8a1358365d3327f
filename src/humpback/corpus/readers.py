"""Documents out of files, folders, archives, data sets and Python's own manual, one at a time.

In: the inputs of the recipe, or one `Unit` of them. Out: a stream of `Document`, and a `Rejected` for each record that cannot
be read and each file or link that is passed over. One bad record costs one row, and so does a file of an unknown kind or one
that cannot be read; damage costs one row and what was read before it is kept; an input that is missing stops with an InputError.
The kind of a file is told by its first bytes, unpacked, and then by its name.
Memory: one record (`max_record_bytes`), or one text file (`MAX_FILE_BYTES`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from humpback.corpus.archives import read_tar, read_zip
from humpback.corpus.datasets import check_hub, read_hub
from humpback.corpus.epub import read_epub
from humpback.corpus.faults import Fault, UnreadableError, input_errors, printable_path, rejected
from humpback.corpus.lines import read_csv, read_jsonl
from humpback.corpus.place import MAX_FILE_BYTES, Place
from humpback.corpus.sniff import HEAD_BYTES, KNOWN, Kind, is_foreign, kind_of_name, sniff, unpacked_name
from humpback.corpus.streams import Chunk, Stream, open_stream, raw_chunks
from humpback.corpus.tables import read_arrow, read_parquet
from humpback.corpus.texts import read_page_file, read_text, read_topics, topics_file
from humpback.corpus.units import HUB, Part, Unit, entries, nothing_to_read, plan, unknown_kind
from humpback.corpus.warc import read_arc, read_warc
from humpback.errors import InputError
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected

__all__ = [
    "MAX_FILE_BYTES",
    "check_inputs",
    "input_errors",
    "input_files",
    "printable_path",
    "read_documents",
    "read_unit",
]


def read_documents(inputs: Sequence[CorpusInput], *, max_record_bytes: int) -> Iterator[Document | Rejected]:
    """Yield the documents of all inputs in order, folders in sorted order."""
    for unit in plan(inputs):
        yield from read_unit(unit, max_record_bytes=max_record_bytes)


def read_unit(unit: Unit, *, max_record_bytes: int) -> Iterator[Document | Rejected]:
    """Yield the documents of one unit."""
    for part in unit.parts:
        place = Place(
            name=printable_path(part.path),
            given=part.given,
            max_record_bytes=max_record_bytes,
            cut=part.start > 0 or part.end is not None,
        )
        if part.fault:
            yield rejected(place.name, part.fault)
        elif part.path.startswith("pydoc:"):
            yield from read_topics(part.given)
        elif part.path.startswith(HUB):
            yield from read_hub(place)
        else:
            found = _told(_read_part(part, place), place)
            yield from found if place.cut else _at_least_one(found, place)


def check_inputs(inputs: Sequence[CorpusInput]) -> None:
    """Raise InputError when an input is missing, or no input holds anything to read; what one of several lacks is a row."""
    faults = [fault for given in inputs if (fault := _why_nothing(given))]
    if len(faults) == len(inputs):
        raise InputError("\n".join(faults))


def _why_nothing(given: CorpusInput) -> str | None:
    """Return why an input gives nothing at all, as far as that is known before it is read."""
    if next(_input_files(given), None) or given.path.startswith(("pydoc:", HUB)):
        return None
    shown, path = printable_path(given.path), Path(given.path).expanduser()
    first = next(entries(given), None)
    if first and first.path == path:
        if first.fault:
            return f"corpus input {first.fault.detail}"
        try:
            _kind_of(path)
        except UnreadableError as error:
            return str(error)
        return f"corpus input {shown} is of an unknown kind; convert it to {KNOWN}"
    return str(nothing_to_read(given))


def input_files(inputs: Sequence[CorpusInput]) -> list[Path]:
    """Return every file the inputs stand for, in reading order: their content is the corpus's identity."""
    return [path for given in inputs for path in _input_files(given)]


def _input_files(given: CorpusInput) -> Iterator[Path]:
    if given.path.startswith("pydoc:"):
        yield topics_file(given.path)
        return
    if given.path.startswith(HUB):
        check_hub(given)
        return
    for entry in entries(given):
        with contextlib.suppress(UnreadableError):  # its row says so
            if not entry.fault and _kind_of(entry.path):
                yield entry.path


def _kind_of(path: Path) -> Kind | None:
    """Return the kind of a file that can be opened, by its name and then by its content."""
    with input_errors("corpus input", path), path.open("rb") as file:
        if kind := kind_of_name(path.name):
            return kind
        stream, _ = open_stream(raw_chunks(file, str(path)))
        return sniff(stream.peek(HEAD_BYTES), path.name)


def _read_part(part: Part, place: Place) -> Iterator[Document | Rejected]:
    path = Path(part.path)
    with input_errors("corpus input", path):
        file = path.open("rb")
    with file:
        stream, packed = open_stream(raw_chunks(file, part.path, place.budget), place.budget)
        kind = sniff(stream.peek(HEAD_BYTES), path.name)
        if packed and kind in ("parquet", "arrow", "zip", "epub"):
            kind = None
        if kind == "jsonl" and place.cut and not packed:
            yield from _read_range(file, part, place)
        elif kind == "parquet":
            yield from read_parquet(path, place, part.start, part.end)
        elif part.start:
            return  # the name promised ranges that the content has not: the first part reads it all
        elif kind == "arrow":
            yield from read_arrow(path, place)
        elif kind in ("zip", "epub"):
            yield from read_zip(file, place, read_member) if kind == "zip" else read_epub(file, place)
        else:
            yield from _read_stream(stream, kind, place, path.name, packed=packed)


def _read_range(file: BinaryIO, part: Part, place: Place) -> Iterator[Document | Rejected]:
    with input_errors("corpus input", part.path):
        file.seek(max(0, part.start - 1))
    yield from read_jsonl(Stream(raw_chunks(file, part.path)), place, part.start, part.end)


def read_member(chunks: Iterator[Chunk], place: Place, name: str) -> Iterator[Document | Rejected]:
    """Yield the documents of a member of an archive."""
    if is_foreign(name):
        yield rejected(place.name, unknown_kind(place.name))
        return
    stream, packed = open_stream(chunks, place.budget)
    kind = sniff(stream.peek(HEAD_BYTES), name)
    if kind in ("zip", "epub", "tar", "parquet", "arrow"):
        detail = f"{place.name} is a file of its own kind inside an archive and not read; unpack the archive"
        yield rejected(place.name, Fault("unknown_kind", detail))
        return
    yield from _at_least_one(_read_stream(stream, kind, place, name, packed=packed), place)


def _read_stream(
    stream: Stream, kind: Kind | None, place: Place, name: str, *, packed: bool
) -> Iterator[Document | Rejected]:
    """Yield the documents of what is read forwards."""
    if (
        not packed
        and unpacked_name(name) != name
        and kind == kind_of_name(name)
        and stream.peek(1)
        and not _sure(stream)
    ):
        yield _not_packed(place, name)
    elif kind == "plain" or kind == "markdown":
        yield read_text(stream, place, kind)
    elif kind == "html":
        yield read_page_file(stream, place)
    elif kind == "jsonl":
        yield from read_jsonl(stream, place)
    elif kind == "csv":
        yield from read_csv(stream, place)
    elif kind == "warc":
        yield from read_warc(stream, place)
    elif kind == "arc":
        yield from read_arc(stream, place)
    elif kind == "tar":
        yield from read_tar(stream, place, read_member)
    elif stream.damage:
        yield place.damaged(place.name, stream.damage)
    else:
        yield rejected(place.name, unknown_kind(place.name))


def _told(found: Iterator[Document | Rejected], place: Place) -> Iterator[Document | Rejected]:
    """Yield what is found; where the operating system refuses to read on, a row says so and the next file is read."""
    try:
        yield from found
    except UnreadableError as error:
        yield rejected(place.name, error.fault)


def _at_least_one(found: Iterator[Document | Rejected], place: Place) -> Iterator[Document | Rejected]:
    """Yield what is found, and a row when that is nothing: no file is passed over without a word."""
    empty = True
    for record in found:
        empty = False
        yield record
    if empty:
        detail = f"{place.name} holds no document; take it out of the input"
        yield rejected(place.name, Fault("no_document", detail))


def _sure(stream: Stream) -> bool:
    """Tell whether the bytes alone say what they are: some servers unpack a file and leave its name."""
    return sniff(stream.peek(HEAD_BYTES), "") is not None


def _not_packed(place: Place, name: str) -> Rejected:
    ending = name[len(unpacked_name(name)) :]
    detail = f"{place.name} is damaged at or before line 1: its name ends in `{ending}` and it is not packed so; fetch it again"
    return rejected(place.name, Fault("damaged_file", detail))
