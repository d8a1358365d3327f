"""The inputs of a corpus cut into pieces of work, each of which one worker reads alone.

In: the inputs of the recipe. Out: `Unit`s, always the same ones in the same order for the same files, whoever reads them.
Small files of a folder are put together, plain JSONL is cut by bytes and Parquet by row groups; any other big file is one
unit, because packed bytes can only be read from the beginning. Files are not opened here but for the footer of a big
Parquet file: what a file is, is found out when it is read. Memory: the names of one folder at a time.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from humpback.corpus.faults import Fault, UnreadableError, input_errors, printable_path, unreadable
from humpback.corpus.sniff import KNOWN, is_foreign, kind_of_name, unpacked_name
from humpback.errors import InputError
from humpback.recipe import CorpusInput

__all__ = ["HUB", "Entry", "Part", "Unit", "entries", "nothing_to_read", "plan", "unknown_kind"]

HUB = "hub:"
_GROUP_BYTES = 16_000_000
_GROUP_FILES = 2_000
_RANGE_BYTES = 64_000_000
_ROW_GROUPS_BYTES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file, or a range of one."""

    path: str
    """As the operating system knows it; `pydoc:topics` or `hub:OWNER/NAME` for those."""
    given: CorpusInput
    start: int = 0
    """First byte (JSONL: lines that begin from there on) or row group (Parquet)."""
    end: int | None = None
    """Behind the last byte or row group; None reads to the end."""
    fault: Fault | None = None
    """Why it is passed over."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker reads alone."""

    index: int
    parts: tuple[Part, ...]
    size: int
    """Bytes on disk, for progress."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of an input, or what is passed over with its reason."""

    path: Path
    size: int = 0
    fault: Fault | None = None


def plan(inputs: Sequence[CorpusInput]) -> Iterator[Unit]:
    """Yield the units of all inputs in order, folders in sorted order."""
    index = 0
    for given in inputs:
        for parts, size in _groups(given):
            yield Unit(index=index, parts=tuple(parts), size=size)
            index += 1


def _root_of(given: CorpusInput) -> Path:
    """Return the file or folder of an input; InputError when there is none."""
    shown = printable_path(given.path)
    with input_errors("corpus input", given.path):
        path = Path(given.path).expanduser()
        if not path.is_dir() and not path.exists():
            raise InputError(
                f"corpus input {shown} does not exist; give a file, a folder, `pydoc:topics` or `{HUB}OWNER/NAME`"
            )
    return path


def entries(given: CorpusInput) -> Iterator[Entry]:
    """Yield what the file or folder of an input holds, in the order of its names; of a data set its own files first."""
    path = _root_of(given)
    if not path.is_dir():
        yield _given_file(path)
        return
    from humpback.corpus.datasets import saved_files

    try:
        saved = saved_files(path, given)
    except UnreadableError as error:
        yield Entry(path=path, fault=error.fault)
        return
    if saved is None:
        yield from _walk(path)
        return
    yield from map(_given_file, saved)
    own = set(saved)
    for entry in _walk(path):
        if entry.path not in own:
            yield entry if entry.fault else _passed_over(entry.path, path, given)


def _given_file(path: Path) -> Entry:
    try:
        with input_errors("corpus input", path):
            if path.is_file():
                return Entry(path=path, size=path.stat().st_size)
    except UnreadableError as error:
        return Entry(path=path, fault=error.fault)
    return Entry(path=path, fault=_no_file(printable_path(path)))


def _passed_over(path: Path, folder: Path, given: CorpusInput) -> Entry:
    detail = (
        f"{printable_path(path)} is no data of split {given.split!r} of the data set in {printable_path(folder)}; to read it, "
        "name it as an input of its own, or the folder without its data set card"
    )
    return Entry(path=path, fault=Fault("not_in_data_set", detail))


def _groups(given: CorpusInput) -> Iterator[tuple[list[Part], int]]:
    if given.path.startswith(("pydoc:", HUB)):
        yield [Part(path=given.path, given=given)], 0
        return
    parts: list[Part] = []
    size = 0
    for entry in entries(given) if _holds_any(given) else [_empty(given)]:
        big = entry.size >= _GROUP_BYTES
        if parts and (big or len(parts) >= _GROUP_FILES or size + entry.size > _GROUP_BYTES):
            yield parts, size
            parts, size = [], 0
        if big:
            yield from _ranges(entry, given)
        else:
            parts.append(Part(path=str(entry.path), given=given, fault=entry.fault))
            size += entry.size
    if parts:
        yield parts, size


def _holds_any(given: CorpusInput) -> bool:
    return next(entries(given), None) is not None


def _empty(given: CorpusInput) -> Entry:
    detail = f"{printable_path(given.path)} is a folder without a file; take it out of the input"
    return Entry(path=Path(given.path), fault=Fault("no_document", detail))


def _ranges(entry: Entry, given: CorpusInput) -> Iterator[tuple[list[Part], int]]:
    path, size, name = str(entry.path), entry.size, entry.path.name
    kind = kind_of_name(name) if unpacked_name(name) == name else None
    cuts = [0, size]
    if kind == "jsonl":
        cuts = [*range(0, size, _RANGE_BYTES), size]
        share = [end - start for start, end in itertools.pairwise(cuts)]
    elif kind == "parquet" and size > _ROW_GROUPS_BYTES:
        from humpback.corpus.tables import row_groups

        groups = row_groups(entry.path)
        step = max(1, groups * _ROW_GROUPS_BYTES // size)
        cuts = [*range(0, groups, step), groups] if groups else cuts
        share = [size * (end - start) // max(1, groups) for start, end in itertools.pairwise(cuts)]
    if len(cuts) < 3:
        yield [Part(path=path, given=given, fault=entry.fault)], size
        return
    for start, end, part in zip(cuts[:-1], cuts[1:], share, strict=True):
        yield [Part(path=path, given=given, start=start, end=end)], part


def _walk(folder: Path) -> Iterator[Entry]:
    """Yield what a folder and its folders hold, sorted by the parts of the path."""
    open_folders = [_listing(folder)]
    while open_folders:
        found = next(open_folders[-1], None)
        if found is None:
            open_folders.pop()
        elif isinstance(found, Entry):
            yield found
        elif found.is_dir(follow_symlinks=False):
            open_folders.append(_listing(Path(found.path)))
        else:
            yield _entry(found)


def _listing(folder: Path) -> Iterator[os.DirEntry[str] | Entry]:
    """Return what is in a folder by name, or why it cannot be listed."""
    try:
        with os.scandir(str(folder)) as found:
            names = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        return iter([Entry(path=folder, fault=unreadable(error.filename or folder, error).fault)])
    return iter(sorted(names, key=lambda entry: entry.name))


def _entry(found: os.DirEntry[str]) -> Entry:
    path, shown = Path(found.path), printable_path(found.path)
    if found.is_symlink() and found.is_dir():
        detail = f"{shown} is a link to a folder, which is not followed; name that folder as an input of its own"
        return Entry(path=path, fault=Fault("link", detail))
    if is_foreign(found.name):
        return Entry(path=path, fault=unknown_kind(shown))
    if found.is_file():
        try:
            return Entry(path=path, size=found.stat().st_size)
        except OSError as error:
            return Entry(path=path, fault=unreadable(found.path, error).fault)
    if found.is_symlink():
        detail = f"{shown} is a link that leads to no file; correct it or take it out of the folder"
        return Entry(path=path, fault=Fault("link", detail))
    return Entry(path=path, fault=_no_file(shown))


def _no_file(shown: str) -> Fault:
    return Fault("unknown_kind", f"{shown} is no regular file and not read; convert it to {KNOWN}")


def nothing_to_read(given: CorpusInput) -> InputError:
    shown = printable_path(given.path)
    return InputError(f"corpus input {shown} is a folder without a file to read; it needs {KNOWN}")


def unknown_kind(shown: str) -> Fault:
    return Fault("unknown_kind", f"{shown} is of an unknown kind and not read; convert it to {KNOWN}")
