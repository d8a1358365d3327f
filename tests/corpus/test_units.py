from __future__ import annotations

import gzip
import json
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from humpback.corpus import units
from humpback.corpus.readers import check_inputs, input_files, read_documents, read_unit
from humpback.corpus.units import Unit, plan
from humpback.errors import InputError
from humpback.recipe import CorpusInput
from humpback.records import Document


def planned(path: Path, **columns: str) -> list[Unit]:
    return list(plan([CorpusInput.model_validate({"path": str(path), **columns})]))


def names(unit: Unit) -> list[str]:
    return [Path(part.path).name for part in unit.parts]


def locations(found: list[Unit]) -> list[str]:
    records = [record for unit in found for record in read_unit(unit, max_record_bytes=100_000)]
    return [record.location for record in records if isinstance(record, Document)]


def test_small_files_are_grouped_and_big_ones_are_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_GROUP_BYTES", 1000)
    monkeypatch.setattr(units, "_GROUP_FILES", 3)
    for number in range(5):
        (tmp_path / f"a{number}.txt").write_text("a" * 100)
    (tmp_path / "b.warc").write_text("b" * 5000)
    (tmp_path / "c.txt").write_text("c" * 600)
    (tmp_path / "d.txt").write_text("d" * 600)
    found = planned(tmp_path)
    assert [names(unit) for unit in found] == [
        *(["a0.txt", "a1.txt", "a2.txt"], ["a3.txt", "a4.txt"], ["b.warc"], ["c.txt"], ["d.txt"])
    ]
    assert [unit.size for unit in found] == [300, 200, 5000, 600, 600]
    assert [unit.index for unit in found] == list(range(5))
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("size", [1, 7, 20, 64, 333, 100_000])
def test_ranges_of_jsonl_give_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "a" * (number * 7 % 60 + 1)}) for number in range(40)]
    path.write_text("\n".join(lines[:20]) + "\n\n" + "\r\n".join(lines[20:]))
    monkeypatch.setattr(units, "_GROUP_BYTES", 1)
    monkeypatch.setattr(units, "_RANGE_BYTES", size)
    found = planned(path)
    assert len(found) == max(1, -(-path.stat().st_size // size))
    records = [record for unit in found for record in read_unit(unit, max_record_bytes=1000)]
    assert [getattr(record, "text", record) for record in records] == [json.loads(line)["text"] for line in lines]
    if len(found) > 1:
        begins = [path.read_bytes().index(line.encode()) for line in lines[:8]]
        told = [record.location for record in records[:8] if isinstance(record, Document)]
        assert told == [f"{path.as_posix()}@{begin}" for begin in begins]
    else:
        assert locations(found)[20] == f"{path.as_posix()}#L22"


def test_a_line_longer_than_a_range_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "long" * 500}) + "\n" + json.dumps({"text": "short"}))
    monkeypatch.setattr(units, "_GROUP_BYTES", 1)
    monkeypatch.setattr(units, "_RANGE_BYTES", 100)
    records = list(read_documents([CorpusInput(path=str(path))], max_record_bytes=10_000))
    assert [getattr(record, "text", record) for record in records] == ["long" * 500, "short"]


def test_a_packed_file_named_jsonl_is_read_by_its_first_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(300))))
    monkeypatch.setattr(units, "_GROUP_BYTES", 1)
    monkeypatch.setattr(units, "_RANGE_BYTES", 100)
    assert len(planned(path)) > 3
    assert len(locations(planned(path))) == 300


def test_big_parquet_files_are_cut_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"text {number}" for number in range(1000)]})
    pq.write_table(table, path, row_group_size=100)
    monkeypatch.setattr(units, "_GROUP_BYTES", 1)
    whole = locations(planned(path))
    monkeypatch.setattr(units, "_ROW_GROUPS_BYTES", path.stat().st_size // 3)
    assert len(planned(path)) == 4
    assert locations(planned(path)) == whole
    assert whole == [f"{path.as_posix()}#r{number + 1}" for number in range(1000)]


def test_order_is_that_of_the_parts_of_paths_and_deep_folders_are_no_problem(tmp_path: Path) -> None:
    for name in ("a/b/c.txt", "a/b.txt", "a.txt", "a-b/c.txt", "B.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    deep = tmp_path / "z"
    for _ in range(300):
        deep = deep / "z"
    deep.mkdir(parents=True)
    (deep / "z.txt").write_text("deep")
    found = input_files([CorpusInput(path=str(tmp_path))])
    assert found == sorted(found, key=lambda path: path.parts)
    assert len(found) == 6


def test_a_file_without_a_known_name_is_opened_only_when_read(tmp_path: Path) -> None:
    (tmp_path / "index.php?page=3").write_text("<!DOCTYPE html><p>One.")
    (tmp_path / "core").write_bytes(os.urandom(100))
    (unit,) = planned(tmp_path)
    assert all(part.fault is None for part in unit.parts)
    records = list(read_unit(unit, max_record_bytes=1000))
    assert [getattr(record, "reason", "read") for record in records] == ["unknown_kind", "read"]
    assert [path.name for path in input_files([CorpusInput(path=str(tmp_path))])] == ["index.php?page=3"]


def test_a_folder_of_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="without a file to read"):
        check_inputs([CorpusInput(path=str(tmp_path))])
