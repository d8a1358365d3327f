"""The seed D out of JSONL files: pairs to train on, pairs held out, and what was left out with its reason.

The seed is small, written by people and trusted, so a faulty row stops with its file and line instead of costing a row.
All pairs are held in memory (the paper's 3,200 take about 5 MB): sampling and the hold-out need to see every id.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.resources
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, cast

from humpback.corpus.dedup import normalise
from humpback.corpus.readers import input_errors, printable_path
from humpback.errors import InputError
from humpback.recipe import SeedInput, SeedSettings
from humpback.records import Pair, Rejected, content_id

__all__ = [
    "MAX_LINE_BYTES",
    "MIN_TRAIN_PAIRS",
    "check_inputs",
    "input_files",
    "normalise_instruction",
    "parse_line",
    "read_distinct",
    "read_lines",
    "read_pairs",
]

MAX_LINE_BYTES = 16_000_000
"""Longest line of a seed file."""
MIN_TRAIN_PAIRS = 8
"""Fewest pairs to train on: one batch of the paper's smallest schedule."""

_PACKAGED = "package:seed"
_PACKAGED_LICENCE = "CC0-1.0"
_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


def read_pairs(settings: SeedSettings, *, random_seed: int) -> Iterator[Pair | Rejected]:
    """Yield the pairs in file order, each `train` or `holdout`, and those left out.

    The sample and the hold-out are chosen by ids, so they do not depend on the order of files. Of pairs with the same
    instruction (apart from case, spacing and the closing mark) the first is taken. Pairs with the same response (apart
    from case, spacing and punctuation) are all in one split: what is held out must not have been trained on.
    """
    pairs: list[Pair] = []
    for item in read_distinct(settings.inputs, settings.max_response_chars):
        if isinstance(item, Rejected):
            yield item
        else:
            pairs.append(item)
    chosen = _smallest([pair.id for pair in pairs], settings.sample, str(random_seed))
    _check_size(settings, len(pairs), len(chosen))
    held = _hold_out([pair for pair in pairs if pair.id in chosen], settings.holdout, str(random_seed))
    for pair in pairs:
        if pair.id not in chosen:
            yield _rejected(
                pair, "not_sampled", f"not among the seed.sample={settings.sample} pairs chosen by content hash"
            )
        else:
            split: Literal["train", "holdout"] = "holdout" if pair.id in held else "train"
            yield dataclasses.replace(pair, split=split)


def read_distinct(inputs: Sequence[SeedInput], max_response_chars: int) -> Iterator[Pair | Rejected]:
    """Yield every pair in file order, of those with the same instruction the first, and those left out."""
    seen: set[str] = set()
    for given in inputs:
        for item in _read(given, max_response_chars):
            if isinstance(item, Rejected):
                yield item
            elif (key := normalise_instruction(item.instruction)) in seen:
                yield _rejected(item, "duplicate", "an earlier pair has the same instruction")
            else:
                seen.add(key)
                yield item


def check_inputs(inputs: Sequence[SeedInput]) -> None:
    """Raise InputError when a seed file is missing or of an unknown kind."""
    input_files(inputs)


def input_files(inputs: Sequence[SeedInput]) -> list[Path]:
    """Return the files of the inputs, in order: their content is the seed's identity."""
    return [_file(given.path) for given in inputs]


def _file(name: str) -> Path:
    if name == _PACKAGED:
        path = Path(str(importlib.resources.files("humpback").joinpath("data", "seed.jsonl")))
        if not path.is_file():
            raise InputError(f"seed input {name} is missing at {path}; reinstall humpback")
        return path
    if name.startswith("package:"):
        raise InputError(f"seed input {name} is unknown; the one there is, is `{_PACKAGED}`")
    shown = printable_path(name)
    with input_errors("seed input", name):
        path = Path(name).expanduser()
        if not path.exists():
            raise InputError(f"seed input {shown} does not exist; give a JSONL file, or `{_PACKAGED}`")
        if not path.is_file() or not path.name.lower().endswith(_SUFFIXES):
            raise InputError(f"seed input {shown} is no JSONL file; convert it to one of {', '.join(_SUFFIXES)}")
    return path


def _read(given: SeedInput, max_response_chars: int) -> Iterator[Pair | Rejected]:
    path = _file(given.path)
    name = given.path if given.path == _PACKAGED else printable_path(path)
    licence = given.licence or (_PACKAGED_LICENCE if given.path == _PACKAGED else "")
    skip_column_seen = given.skip_if is None
    columns: list[str] = []
    for number, data in enumerate(read_lines(path), start=1):
        if not data.strip():
            continue
        where = f"{name}:{number}"
        row = parse_line(data, where, first=number == 1)
        columns = columns or list(row)[:20]
        pair = Pair(
            id="",
            instruction=_column(row, given.instruction, where, "instruction"),
            response=_column(row, given.response, where, "response"),
            split="train",
            source_uri=f"{name}#L{number}",
            licence=_licence(row, where) or licence,
        )
        pair = dataclasses.replace(pair, id=content_id(pair.instruction, pair.response))
        skip_column_seen = skip_column_seen or given.skip_if in row
        if given.skip_if is not None and _filled(row.get(given.skip_if)):
            yield _rejected(pair, "has_context", f"column {given.skip_if!r} is not empty")
        elif len(pair.response) > max_response_chars:
            detail = f"{len(pair.response):,} characters, above seed.max_response_chars={max_response_chars:,}"
            yield _rejected(pair, "response_too_long", detail)
        else:
            yield pair
    if columns and not skip_column_seen:
        raise InputError(
            f"seed input {name} has no column {given.skip_if!r}, named by skip_if; "
            f"its columns are {', '.join(columns)}: name one of them, or leave skip_if out"
        )


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, plain or gzip; raise InputError where it is damaged or a line is too long."""
    number, name = 0, printable_path(path)
    try:
        with input_errors("seed input", path), _open(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    raise InputError(
                        f"{name}:{number} is longer than {MAX_LINE_BYTES:,} bytes; write one pair per line"
                    )
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name} is damaged after line {number}: {error}; fetch or compress it again") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


def parse_line(data: bytes, where: str, *, first: bool) -> Mapping[str, object]:
    """Return the object that a line holds; raise InputError when it is none."""
    try:
        row = json.loads(data.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}; write one object per line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} holds a JSON {type(row).__name__}; write one object per line")
    return row


def _column(row: Mapping[str, object], column: str, where: str, key: str) -> str:
    value = row.get(column)
    if column not in row:
        raise InputError(
            f"{where} has no column {column!r}; set seed.inputs.{key} to one of: {', '.join(list(row)[:20])}"
        )
    if not isinstance(value, str):
        raise InputError(f"{where}: column {column!r} holds {type(value).__name__}, not a string; correct the row")
    if not value.strip():
        raise InputError(f"{where}: column {column!r} is empty; fill it or take the row out")
    return _whole(value, column, where)


def _licence(row: Mapping[str, object], where: str) -> str:
    value = row.get("licence")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: column 'licence' holds {type(value).__name__}, not a string; correct the row")
    return _whole(value, "licence", where)


def _whole(value: str, column: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: column {column!r} holds half a character, not UTF-8; write it whole") from None
    return value.strip()


def _filled(value: object) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def normalise_instruction(instruction: str) -> str:
    # Inner punctuation stays: "What is 2+2?" is not "What is 2*2?".
    return " ".join(instruction.casefold().split()).rstrip(" .?!:…")


def _smallest(ids: Sequence[str], count: int | None, *salt: str) -> set[str]:
    if count is None or count >= len(ids):
        return set(ids)
    return set(sorted(ids, key=lambda item: content_id(*salt, item))[:count])


def _hold_out(pairs: Sequence[Pair], count: int, random_seed: str) -> set[str]:
    """Return the ids to hold out, pairs with an equal response together or not at all."""
    groups: dict[str, list[str]] = {}
    for pair in pairs:
        groups.setdefault(normalise(pair.response), []).append(pair.id)
    by_id = {item: group for group in groups.values() for item in group}
    held: set[str] = set()
    for item in sorted(by_id, key=lambda item: content_id("holdout", random_seed, item)):
        if item not in held and len(held) + len(by_id[item]) <= count:
            held.update(by_id[item])
    if len(held) < count:
        raise InputError(
            f"seed.holdout={count} cannot be met: pairs with the same response stay together, and of {len(pairs)} pairs "
            f"only {len(groups)} responses differ; lower seed.holdout to {len(held)}, or add pairs with other responses"
        )
    return held


def _check_size(settings: SeedSettings, found: int, chosen: int) -> None:
    files = ", ".join(given.path for given in settings.inputs)
    if not found:
        raise InputError(f"empty seed: no pair is left in {files}; give human-written pairs, or `package:seed`")
    needed = settings.holdout + MIN_TRAIN_PAIRS
    if chosen >= needed:
        return
    if found >= needed:
        raise InputError(
            f"seed.sample={settings.sample} takes {chosen} of {found} pairs, and seed.holdout={settings.holdout} "
            f"leaves fewer than {MIN_TRAIN_PAIRS} to train on; raise seed.sample to {needed}, or lower seed.holdout"
        )
    raise InputError(
        f"the seed ({files}) has {found} pairs, and seed.holdout={settings.holdout} leaves fewer than {MIN_TRAIN_PAIRS} "
        f"to train on; lower seed.holdout, or add pairs until there are {needed}"
    )


def _rejected(pair: Pair, reason: str, detail: str) -> Rejected:
    row = {"instruction": pair.instruction, "response": pair.response[:2000], "source_uri": pair.source_uri}
    return Rejected(
        id=content_id(pair.source_uri, pair.id, reason),
        reason=reason,
        detail=f"{pair.source_uri}: {detail}",
        row=json.dumps(row, ensure_ascii=False),
    )
