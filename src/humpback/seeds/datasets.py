"""Finished data sets of pairs, whoever made them: what `humpback statistics` reads beside a run.

In: JSONL (.jsonl, .ndjson, also .gz), Parquet, or a folder of such files; rows of instruction and response, or chats (`messages`, of
which the first question and its answer count). Out: pairs, one at a time, and rows without a pair as `Rejected`: a statistic of half a
million rows is not to fail for one of them. A file in which no row has a pair is an error that names its columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from humpback.corpus.readers import input_errors, printable_path
from humpback.errors import InputError
from humpback.records import Pair, Rejected, content_id
from humpback.seeds.readers import parse_line, read_lines

__all__ = ["find_files", "read_dataset"]

_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_PARQUET = ".parquet"
_BATCH = 1024


def find_files(path: Path) -> list[Path]:
    """Return the data files of a path: itself, or those in the folder, by name; raise InputError when there is none."""
    shown = printable_path(path)
    with input_errors("data set", path):
        if not path.exists():
            raise InputError(
                f"data set {shown} does not exist; give a JSONL or Parquet file, a folder of them, or a run"
            )
        if not path.is_dir():
            if not path.name.lower().endswith((*_LINES, _PARQUET)):
                raise InputError(f"data set {shown} is of no known kind; convert it to .jsonl, .jsonl.gz or .parquet")
            return [path]
        files = sorted(file for file in path.rglob("*") if file.name.lower().endswith((*_LINES, _PARQUET)))
    if not files:
        raise InputError(
            f"folder {shown} holds no .jsonl or .parquet file, and no recipe.yaml: it is no data set and no run"
        )
    return files


def read_dataset(path: Path, *, instruction: str, response: str) -> Iterator[Pair | Rejected]:
    """Yield every row of the data set: its pair, or why it has none."""
    for file in find_files(path):
        columns: dict[str, None] = {}
        some = False
        for where, row in _rows(file):
            if isinstance(row, str):
                yield _rejected(where, "not_json", row)
                continue
            columns |= dict.fromkeys(list(row)[:20])
            found = _pair(row, where, instruction, response)
            some = some or isinstance(found, Pair)
            yield found
        if not some:
            held = ", ".join(list(columns)[:20])
            fix = f"its columns are: {held}; name them by --instruction and --response" if held else "it has no rows"
            raise InputError(f"data set {printable_path(file)} has no row with {instruction!r} and {response!r}: {fix}")


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, object] | str]]:
    """Yield each row with its place; a line that is no object comes as the reason."""
    name = printable_path(file)
    if file.name.lower().endswith(_PARQUET):
        try:
            with input_errors("data set", file), pq.ParquetFile(file) as table:
                number = 0
                for batch in table.iter_batches(batch_size=_BATCH):
                    for row in batch.to_pylist():
                        yield f"{name}#r{number}", row
                        number += 1
        except pa.ArrowException as error:
            raise InputError(
                f"data set {name} is no Parquet file, or damaged ({error}); make or fetch it again"
            ) from error
        return
    for number, data in enumerate(read_lines(file), start=1):
        if not data.strip():
            continue
        try:
            yield f"{name}#L{number}", parse_line(data, f"{name}:{number}", first=number == 1)
        except InputError as error:
            yield f"{name}#L{number}", str(error)


def _pair(row: Mapping[str, object], where: str, instruction: str, response: str) -> Pair | Rejected:
    asked, answer = row.get(instruction), row.get(response)
    if instruction not in row and response not in row:
        chat = _chat(row.get("messages"))
        if chat is None:
            return _rejected(
                where, "no_pair", f"neither {instruction!r} and {response!r} nor `messages` with a question and answer"
            )
        asked, answer = chat
    if not isinstance(asked, str) or not asked.strip():
        return _rejected(where, "no_instruction", f"column {instruction!r} holds no text")
    if not isinstance(answer, str) or not answer.strip():
        return _rejected(where, "no_response", f"column {response!r} holds no text")
    source = next(
        (value for name in ("source_uri", "source") if isinstance(value := row.get(name), str) and value), where
    )
    return Pair(id="", instruction=asked.strip(), response=answer.strip(), split="train", source_uri=source, licence="")


def _chat(messages: object) -> tuple[object, object] | None:
    """Return the first user's message and the assistant's that follows it."""
    if not isinstance(messages, list):
        return None
    asked: object = None
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        if message.get("role") == "user" and asked is None:
            asked = message.get("content")
        elif message.get("role") == "assistant" and asked is not None:
            return asked, message.get("content")
    return None


def _rejected(where: str, reason: str, detail: str) -> Rejected:
    return Rejected(id=content_id(where, reason), reason=reason, detail=detail, row=json.dumps({"source_uri": where}))
