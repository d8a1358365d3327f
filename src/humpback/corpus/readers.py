"""Documents out of files, folders and Python's own manual, one at a time.

In: the inputs of the recipe. Out: a stream of `Document`, and a `Rejected` for each record that cannot be read and each
file or link of a folder that is passed over. One bad record costs one row; an input that is wrong as a whole (missing,
unknown kind, not readable) stops with an InputError.
Memory: one JSONL line (`max_line_bytes`), or one text file (`MAX_FILE_BYTES`).
"""

from __future__ import annotations

import contextlib
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

__all__ = ["MAX_FILE_BYTES", "check_inputs", "input_errors", "input_files", "printable_path", "read_documents"]

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
_MAX_NESTING = 20
"""Lists within lists that a header path or title may have; nobody writes more, and Python itself gives up at some point."""


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
        for path, fault in _entries(given):
            if fault:
                yield _rejected(printable_path(path), fault, b"")
            elif _suffix(path) in _LINE_SUFFIXES:
                yield from _read_lines(path, given, max_line_bytes)
            else:
                yield _read_file(path, given)


def check_inputs(inputs: Sequence[CorpusInput]) -> None:
    """Raise InputError when an input is missing, of an unknown kind, or a folder with nothing to read."""
    input_files(inputs)


def input_files(inputs: Sequence[CorpusInput]) -> list[Path]:
    """Return every file the inputs stand for, in reading order: their content is the corpus's identity."""
    return [path for given in inputs for path, fault in _entries(given) if not fault]


@contextlib.contextmanager
def input_errors(what: str, path: Path | str) -> Iterator[None]:
    """Turn the operating system's refusal to find or read what the user gave into an InputError; damage passes."""
    try:
        yield
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise _unreadable(path, error, what) from error
    except RuntimeError as error:  # expanduser, of a user that is not there
        raise InputError(f"{what} {printable_path(path)} cannot be found: {error}") from error


def printable_path(path: Path | str) -> str:
    """Return a path as text that UTF-8 can hold: a byte of its name that is no UTF-8 becomes `\\xNN`."""
    return os.fsencode(Path(path).as_posix()).decode("utf-8", "backslashreplace")


def _entries(given: CorpusInput) -> list[tuple[Path, _Fault | None]]:
    """Return what the input stands for in reading order, and of what is passed over the reason."""
    if given.path.startswith("pydoc:"):
        return [(_topics_file(given.path), None)]
    shown = printable_path(given.path)
    with input_errors("corpus input", given.path):
        path = Path(given.path).expanduser()
        if path.is_dir():
            found = _walk(path)
            if all(fault for _, fault in found):
                raise InputError(f"corpus input {shown} is a folder without a file to read; it needs {_KNOWN}")
            return found
        if not path.exists():
            raise InputError(f"corpus input {shown} does not exist; give a file, a folder or `{_TOPICS}`")
        if not _is_known(path) or not path.is_file():
            raise InputError(f"corpus input {shown} is of an unknown kind; convert it to {_KNOWN}")
    return [(path, None)]


def _walk(folder: Path) -> list[tuple[Path, _Fault | None]]:
    def refuse(error: OSError) -> None:  # os.walk passes over a folder that it cannot list
        raise _unreadable(error.filename or folder, error)

    found: list[tuple[Path, _Fault | None]] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(path, _folder_link(path)) for name in folders if (path := Path(parent, name)).is_symlink()]
        found += [
            (path, _passed_over(path)) for name in names if not name.startswith(".") and (path := Path(parent, name))
        ]
    return sorted(found, key=lambda entry: entry[0].parts)


def _folder_link(path: Path) -> _Fault:
    shown = printable_path(path)
    return _Fault(
        "link", f"{shown} is a link to a folder, which is not followed; name that folder as an input of its own"
    )


def _passed_over(path: Path) -> _Fault | None:
    """Return why a file of a folder is not read; a link to a file is read as that file."""
    shown = printable_path(path)
    if not _is_known(path):
        return _Fault("unknown_kind", f"{shown} is of an unknown kind and not read; convert it to {_KNOWN}")
    if path.is_file():
        return None
    if path.is_symlink():
        return _Fault("link", f"{shown} is a link that leads to no file; correct it or take it out of the folder")
    return _Fault("unknown_kind", f"{shown} is no regular file and not read; convert it to {_KNOWN}")


def _is_known(path: Path) -> bool:
    return _suffix(path) in (*_TEXT_FORMATS, *_LINE_SUFFIXES)


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
    where = printable_path(path)
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
    number, name = 0, printable_path(path)
    with _open(path) as stream:
        while True:
            try:
                line = _next_line(stream, max_line_bytes, path)
            except _DAMAGE as error:
                yield _damaged(name, number, error)
                return
            if line is None:
                return
            number += 1
            where = f"{name}:{number}"
            if line.size > max_line_bytes:
                detail = (
                    f"{where} is {line.size:,} bytes long, above corpus.max_line_bytes={max_line_bytes:,}; "
                    "raise that, or split the record"
                )
                yield _rejected(where, _Fault("line_too_long", detail), line.data)
            elif line.data.strip():
                document = _parse(line.data, where, f"{name}#L{number}", given, first=number == 1)
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
    try:
        title, header_path, uri, licence, language = (
            _words(row.get(name)) for name in (given.title, given.header_path, given.source_uri, "licence", "language")
        )
    except RecursionError:
        return _Fault("not_json", f"{where} nests lists more than {_MAX_NESTING} deep; write one flat object per line")
    uri, licence = uri or address, licence or given.licence
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


def _words(value: object, depth: int = 0) -> str:
    """Return a column as one line of text; a list of headers becomes a header path."""
    if isinstance(value, list):
        if depth >= _MAX_NESTING:
            raise RecursionError
        return " > ".join(filter(None, (_words(item, depth + 1) for item in value)))
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
    with input_errors("corpus input", path):
        return cast(BinaryIO, gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


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
    with input_errors("corpus input", path):
        return stream.read(limit)


def _unreadable(path: Path | str, error: OSError, what: str = "corpus input") -> InputError:
    name = printable_path(path)
    return InputError(f"{what} {name} cannot be read: {error.strerror or error}; check its name, permissions and disk")


def _damaged(where: str, lines: int, error: Exception) -> Rejected:
    # gzip's checksum comes last: the damage may lie before the line at which it shows.
    detail = f"{where} is damaged at or before line {lines + 1}: {error}; records up to there are kept, fetch it again"
    return _rejected(f"{where}:{lines + 1}", _Fault("damaged_file", detail), b"")


def _rejected(where: str, fault: _Fault, data: bytes) -> Rejected:
    shown = data[: 4 * _SHOWN].decode("utf-8", "replace")[:_SHOWN]
    row = json.dumps({"text": shown, "source_uri": where}, ensure_ascii=False)
    detail = fault.detail.encode("utf-8", "backslashreplace").decode()  # a column may be named by half a character
    return Rejected(id=content_id(where, fault.reason), reason=fault.reason, detail=detail, row=row)
