"""Documents out of files, folders and Python's own manual, one at a time.

In: the inputs of the recipe. Out: a stream of `Document`, and a `Rejected` for each record that cannot be read. One bad
record costs one row; an input that is wrong as a whole (missing, unknown kind) stops with an InputError beforehand.
Memory: one JSONL line (`max_line_bytes`), or one text file (`MAX_FILE_BYTES`).
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

from humpback.errors import InputError
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected, content_id

__all__ = ["MAX_FILE_BYTES", "check_inputs", "input_files", "read_documents"]

MAX_FILE_BYTES = 256_000_000
"""Longest .txt or .md file, after decompression: it is one document and is held in memory."""

_TOPICS = "pydoc:topics"
_TOPICS_MODULE = "pydoc_data.topics"
_TEXT_FORMATS: Mapping[str, Literal["plain", "markdown"]] = {
    ".txt": "plain",
    ".rst": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
}
_LINE_SUFFIXES = (".jsonl", ".ndjson")
_KNOWN = "`.txt`, `.rst`, `.md`, `.markdown`, `.jsonl` or `.ndjson` (each also with `.gz`)"
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)
_LEADING_GRAMMAR = re.compile(r"(^([*=\-~^])\2{2,}\n\n)((?: {3}\w+ +::= .*\n)(?: {3}.*\n)*)\n*", re.MULTILINE)
_FOOTNOTES = re.compile(r"^-\[ Footnotes \]-$", re.MULTILINE)
_PIECE = 1 << 20
_SHOWN = 2000


class _Line(NamedTuple):
    data: bytes
    """Without its line end; only the beginning when `size` is above the limit."""
    size: int


class _Fault(NamedTuple):
    reason: str
    detail: str


def read_documents(inputs: Sequence[CorpusInput], *, max_line_bytes: int) -> Iterator[Document | Rejected]:
    """Yield the documents of all inputs in order, folders in sorted order."""
    for given in inputs:
        if given.path == _TOPICS:
            yield from _read_topics(given)
            continue
        for path in _files(given):
            if _suffix(path) in _LINE_SUFFIXES:
                yield from _read_lines(path, given, max_line_bytes)
            else:
                yield _read_file(path, given)


def check_inputs(inputs: Sequence[CorpusInput]) -> None:
    """Raise InputError when an input is missing, of an unknown kind, or a folder with nothing to read."""
    input_files(inputs)


def input_files(inputs: Sequence[CorpusInput]) -> list[Path]:
    """Return every file the inputs stand for, in reading order: their content is the corpus's identity."""
    return [path for given in inputs for path in _files(given)]


def _files(given: CorpusInput) -> list[Path]:
    if given.path.startswith("pydoc:"):
        return [_topics_file(given.path)]
    path = Path(given.path).expanduser()
    if path.is_dir():
        found = _walk(path)
        if not found:
            raise InputError(f"corpus input {path} is a folder without a file to read; it needs {_KNOWN}")
        return found
    if not path.exists():
        raise InputError(f"corpus input {path} does not exist; give a file, a folder or `{_TOPICS}`")
    if not _readable(path):
        raise InputError(f"corpus input {path} is of an unknown kind; convert it to {_KNOWN}")
    return [path]


def _walk(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for name in names if not name.startswith(".") and _readable(path := Path(parent, name))]
    return sorted(found, key=lambda path: path.parts)


def _readable(path: Path) -> bool:
    suffix = _suffix(path)
    return (suffix in _TEXT_FORMATS or suffix in _LINE_SUFFIXES) and path.is_file()


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def _topics_file(name: str) -> Path:
    if name != _TOPICS:
        raise InputError(f"corpus input {name} is unknown; the one there is, is `{_TOPICS}`")
    try:
        spec = importlib.util.find_spec(_TOPICS_MODULE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(
            f"corpus input {name}: this Python was built without {_TOPICS_MODULE}; give your own documents"
        )
    return Path(spec.origin)


def _read_topics(given: CorpusInput) -> Iterator[Document | Rejected]:
    _topics_file(given.path)
    topics = cast(Mapping[str, str], importlib.import_module(_TOPICS_MODULE).topics)
    for key in sorted(topics):
        uri = f"{_TOPICS}#{key}"
        # A section that opens with its formal grammar has its text below it; the footnotes belong to no one section.
        grammar = "\n".join(found.group(3) for found in _LEADING_GRAMMAR.finditer(topics[key]))
        text = _FOOTNOTES.sub("Footnotes\n=========", _LEADING_GRAMMAR.sub(r"\1", topics[key]))
        if grammar:
            fault = _Fault("formal_grammar", f"{uri}: the grammar above the text of its sections is left out")
            yield _rejected(uri, fault, grammar.encode())
        yield Document(
            id=content_id(uri, text),
            text=text,
            source_uri=uri,
            title=key,
            licence=given.licence or "PSF-2.0",
            language="en",
        )


def _read_file(path: Path, given: CorpusInput) -> Document | Rejected:
    where = path.as_posix()
    try:
        with _open(path) as stream:
            data = _read(stream, MAX_FILE_BYTES + 1, path)
    except _DAMAGE as error:
        return _damaged(where, 0, error)
    if len(data) > MAX_FILE_BYTES:
        detail = f"{where} is longer than {MAX_FILE_BYTES:,} bytes; split it, or write it as JSONL"
        return _rejected(where, _Fault("file_too_long", detail), data)
    text = _decode(data, where, first=True)
    if isinstance(text, _Fault):
        return _rejected(where, text, data)
    if not text.strip():
        return _rejected(where, _Fault("no_text", f"{where} is empty; fill it or take it out of the input"), data)
    text = _unix_lines(text)
    form = _TEXT_FORMATS[_suffix(path)] if given.format == "auto" else given.format
    return Document(id=content_id(where, text), text=text, source_uri=where, format=form, licence=given.licence)


def _read_lines(path: Path, given: CorpusInput, max_line_bytes: int) -> Iterator[Document | Rejected]:
    number = 0
    with _open(path) as stream:
        while True:
            try:
                line = _next_line(stream, max_line_bytes, path)
            except _DAMAGE as error:
                yield _damaged(path.as_posix(), number, error)
                return
            if line is None:
                return
            number += 1
            where = f"{path.as_posix()}:{number}"
            if line.size > max_line_bytes:
                detail = (
                    f"{where} is {line.size:,} bytes long, above corpus.max_line_bytes={max_line_bytes:,}; "
                    "raise that, or split the record"
                )
                yield _rejected(where, _Fault("line_too_long", detail), line.data)
            elif line.data.strip():
                document = _parse(line.data, where, f"{path.as_posix()}#L{number}", given, first=number == 1)
                yield _rejected(where, document, line.data) if isinstance(document, _Fault) else document


def _parse(data: bytes, where: str, address: str, given: CorpusInput, *, first: bool) -> Document | _Fault:
    raw = _decode(data, where, first=first)
    if isinstance(raw, _Fault):
        return raw
    try:
        row = json.loads(raw)
    except json.JSONDecodeError as error:
        return _Fault(
            "not_json", f"{where} is not JSON: {error.msg} at column {error.colno}; write one object per line"
        )
    except (ValueError, RecursionError) as error:
        return _Fault("not_json", f"{where} cannot be read as JSON: {error}; write one flat object per line")
    if not isinstance(row, dict):
        return _Fault("not_json", f"{where} holds a JSON {type(row).__name__}; write one object per line")
    text = row.get(given.text)
    if not isinstance(text, str) or not text.strip():
        return _Fault("no_text", _no_text(row, where, given.text))
    text = _unix_lines(text)
    title, header_path = _words(row.get(given.title)), _words(row.get(given.header_path))
    uri = _words(row.get(given.source_uri)) or address
    licence, language = _words(row.get("licence")) or given.licence, _words(row.get("language"))
    half = _half_character(text, title, header_path, uri, licence, language)
    if half:
        return _Fault("not_utf8", f"{where} holds half a character ({half}), which UTF-8 cannot hold; write it whole")
    return Document(
        id=content_id(uri, text),
        text=text,
        source_uri=uri,
        format="plain" if given.format == "auto" else given.format,
        title=title,
        header_path=header_path,
        licence=licence,
        language=language,
    )


def _no_text(row: Mapping[str, object], where: str, column: str) -> str:
    if column not in row:
        return f"{where} has no column {column!r}; set corpus.inputs.text to one of: {', '.join(list(row)[:20])}"
    found = "is empty" if isinstance(row[column], str) else f"holds {type(row[column]).__name__}, not a string"
    return f"{where}: column {column!r} {found}; fill it or take the record out"


def _words(value: object) -> str:
    """Return a column as one line of text; a list of headers becomes a header path."""
    if isinstance(value, list):
        return " > ".join(filter(None, map(_words, value)))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split())


def _half_character(*values: str) -> str:
    # JSON may spell half a surrogate pair ("\ud83d"); Parquet would refuse the whole shard later.
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"\\u{ord(value[error.start]):04x}"
    return ""


def _decode(data: bytes, where: str, *, first: bool) -> str | _Fault:
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        detail = f"{where} is not UTF-8 at byte {error.start + 1}; convert it, for example with `iconv -t UTF-8`"
        return _Fault("not_utf8", detail)


def _unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _open(path: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _next_line(stream: BinaryIO, limit: int, path: Path) -> _Line | None:
    """Return the next line; of a line above the limit only its beginning and its size."""
    try:
        data = stream.readline(limit + 1)
        if len(data) <= limit or data.endswith(b"\n"):
            return _Line(data.rstrip(b"\r\n"), len(data) - data.endswith(b"\n")) if data else None
        size, rest = len(data), data
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(_PIECE)
            size += len(rest)
        return _Line(data[: 4 * _SHOWN], size - rest.endswith(b"\n"))
    except _DAMAGE:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(stream: BinaryIO, limit: int, path: Path) -> bytes:
    try:
        return stream.read(limit)
    except _DAMAGE:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"corpus input {path} cannot be read: {error.strerror or error}; check its permissions and disk")


def _damaged(where: str, lines: int, error: Exception) -> Rejected:
    # gzip's checksum comes last: the damage may lie before the line at which it shows.
    detail = f"{where} is damaged at or before line {lines + 1}: {error}; records up to there are kept, fetch it again"
    return _rejected(f"{where}:{lines + 1}", _Fault("damaged_file", detail), b"")


def _rejected(where: str, fault: _Fault, data: bytes) -> Rejected:
    shown = data[: 4 * _SHOWN].decode("utf-8", "replace")[:_SHOWN]
    row = json.dumps({"text": shown, "source_uri": where}, ensure_ascii=False)
    return Rejected(id=content_id(where, fault.reason), reason=fault.reason, detail=fault.detail, row=row)
