"""Data sets of others: every kind is read, a bad row is counted, a file without a pair is an error that helps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from humpback.errors import InputError
from humpback.records import Pair, Rejected
from humpback.seeds.datasets import read_dataset

GOOD = {"instruction": "Name a river.", "response": "The Rhine."}


def _read(path: Path, instruction: str = "instruction", response: str = "response") -> list[Pair | Rejected]:
    return list(read_dataset(path, instruction=instruction, response=response))


def _lines(path: Path, rows: list[object]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_jsonl_and_parquet_and_folders_give_the_same_pairs(tmp_path: Path) -> None:
    _lines(tmp_path / "a.jsonl", [GOOD])
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(GOOD) + "\n")
    chat = [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Rhine."}]
    pq.write_table(pa.Table.from_pylist([{"messages": chat}]), tmp_path / "c.parquet")
    found = _read(tmp_path)
    assert [(row.instruction, row.response) for row in found if isinstance(row, Pair)] == [
        ("Name a river.", "The Rhine.")
    ] * 3


def test_bad_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows = ["{", [1], {**GOOD, "response": 3}, {**GOOD, "instruction": " "}, {"x": 1}, {"messages": [5]}, GOOD]
    found = _read(_lines(tmp_path / "a.jsonl", rows))
    reasons = [row.reason for row in found if isinstance(row, Rejected)]
    assert reasons == ["not_json", "not_json", "no_response", "no_instruction", "no_pair", "no_pair"]
    assert sum(isinstance(row, Pair) for row in found) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone.jsonl", None, "does not exist"),
        ("a.csv", b"x", "no known kind"),
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b'{"prompt": "x", "completion": "y"}\n', "prompt, completion"),
        ("a.parquet", b"PAR1nonsense", "no Parquet file"),
        ("a.jsonl.gz", b"\x1f\x8bnonsense", "damaged"),
    ],
)
def test_file_that_gives_nothing_is_an_error_with_its_name(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told) as error:
        _read(tmp_path / name)
    assert name in str(error.value)


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run"):
        _read(tmp_path)
