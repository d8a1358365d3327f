"""Hugging Face data sets: folders written by `save_to_disk`, folders as the hub keeps them, and the hub itself.

In: a folder, or `hub:OWNER/NAME` in the recipe with `config` and `split`. Out: the folder's data files in order, or documents
streamed from the hub, one row at a time. `datasets` itself is needed for the hub alone.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humpback.corpus.columns import read_row
from humpback.corpus.faults import Fault, input_errors, printable_path, rejected
from humpback.corpus.place import Place
from humpback.corpus.sniff import kind_of_name
from humpback.errors import InputError, MissingDependencyError, StageError
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected

__all__ = ["check_hub", "read_hub", "saved_files"]

_HUB = "hub:"
_PATIENCE_S = 5.0
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_CARD = re.compile(r"---\s*\n(?:.*\n)*?(?:dataset_info|configs|task_categories|size_categories)\s*:")
_SPLITS = re.compile(r"(?:^|[-_./])(train|training|test|testing|validation|valid|val|dev)(?:[-_./0-9]|$)")
_DATA = ("parquet", "jsonl", "csv", "arrow")


def saved_files(folder: Path, given: CorpusInput) -> list[Path] | None:
    """Return the data files of the recipe's split, in order; None when the folder is no data set."""
    with input_errors("corpus input", folder):
        if (folder / "dataset_dict.json").is_file():
            splits = _read_json(folder / "dataset_dict.json").get("splits", [])
            if given.split not in splits:
                raise _no_split(folder, given, [str(name) for name in splits])
            folder = folder / given.split
        if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
            names = _read_json(folder / "state.json").get("_data_files", [])
            files = [folder / str(item["filename"]) for item in names if isinstance(item, dict) and "filename" in item]
            missing = [file for file in files if not file.is_file() or file.parent != folder]
            if missing or not files:
                lost = printable_path(missing[0] if missing else folder)
                raise InputError(f"corpus input {lost} is missing from a saved data set; save the data set again")
            return files
        return _snapshot(folder, given)


def check_hub(given: CorpusInput) -> None:
    """Raise when a data set of the hub is misnamed, or what is needed to read it is not installed."""
    if not _NAME.fullmatch(given.path.removeprefix(_HUB)):
        raise InputError(f"corpus input {given.path} names no data set; write it `{_HUB}OWNER/NAME`")
    _load()


def read_hub(place: Place) -> Iterator[Document | Rejected]:
    """Yield the rows of a data set of the hub, streamed."""
    check_hub(place.given)
    name, number = place.given.path.removeprefix(_HUB), 0
    rows = _open(name, place.given)
    while True:
        try:
            row = next(rows, None)
        except (OSError, ValueError, RuntimeError) as error:
            raise StageError(
                f"{place.name}: the hub stopped answering at row {number + 1:,} ({_first_line(error)}); "
                "finished units are kept, run the same command again"
            ) from error
        if row is None:
            return
        number += 1
        where = f"{place.name}#r{number}"
        text = row.get(place.given.text)
        data = text.encode("utf-8", "replace") if isinstance(text, str) else b""
        if len(data) > place.max_record_bytes:
            yield place.too_large(where, f"{len(data):,}", data)
            continue
        found = read_row(row, where, where, place.given)
        yield rejected(where, found, data) if isinstance(found, Fault) else found


def _load() -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {_HUB}… needs the package `datasets`: pip install 'humpback-lm[train]'"
        ) from error
    return load_dataset


def _open(name: str, given: CorpusInput) -> Iterator[Mapping[str, object]]:
    load_dataset = _load()
    if fault := _unreachable():  # the library would try for half a minute
        raise InputError(f"corpus input {given.path} cannot be opened: {fault}; check the network")
    try:
        return iter(load_dataset(name, given.config, split=given.split, streaming=True))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"corpus input {given.path} cannot be opened (config {given.config}, split {given.split}): "
            f"{_first_line(error)}; check its name, config and split, the network, and whether it needs `hf auth login`"
        ) from error


def _unreachable() -> str:
    """Return why the hub cannot be reached, as far as a few seconds tell; through a proxy they tell nothing."""
    import urllib.request  # slow to load, and few need it

    hub = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if urllib.request.getproxies() or not hub.hostname:
        return ""
    try:
        socket.create_connection((hub.hostname, hub.port or (80 if hub.scheme == "http" else 443)), _PATIENCE_S).close()
    except OSError as error:
        return f"{hub.hostname} does not answer ({error.strerror or error})"
    return ""


def _snapshot(folder: Path, given: CorpusInput) -> list[Path] | None:
    """Return the split's files of a folder as the hub keeps it, which is told by its data set card."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open("rb") as file:
        if not _CARD.match(file.read(1 << 16).decode("utf-8", "replace")):
            return None
    files = sorted(
        file
        for file in folder.rglob("*")
        if kind_of_name(file.name) in _DATA
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )
    if given.config and (chosen := [file for file in files if given.config in file.relative_to(folder).parts]):
        files = chosen
    splits = {file: _split_of(file.relative_to(folder).as_posix()) for file in files}
    if not any(splits.values()):
        return files or None
    found = [file for file in files if splits[file] == given.split]
    if not found:
        raise _no_split(folder, given, sorted({split for split in splits.values() if split}))
    return found


def _split_of(path: str) -> str:
    found = _SPLITS.findall(path.lower())
    name = found[-1] if found else ""
    return {"training": "train", "testing": "test", "valid": "validation", "val": "validation"}.get(name, name)


def _no_split(folder: Path, given: CorpusInput, splits: list[str]) -> InputError:
    return InputError(
        f"corpus input {printable_path(folder)} has no split {given.split!r}; set corpus.inputs.split to one of: "
        f"{', '.join(splits)}"
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"corpus input {printable_path(path)} is not JSON: {error}; save the data set again") from None
    return found if isinstance(found, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
