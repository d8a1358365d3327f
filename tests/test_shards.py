"""Shards: whole or not there, the same bytes for the same records, and damage is never read as data."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from humpback.errors import StorageError
from humpback.records import Candidate, Document, Example, Pair, Record, Rejected, Scored, Segment
from humpback.store.shards import (
    RecordWriter,
    atomic_write,
    count_rows,
    read_metadata,
    read_records,
    shard_files,
    write_records,
)

TEXT = 'Zeile 1\r\nline 2\t"quoted" \x00 \u2028 é 漢字 🐋 <|end|> {}'
WEB = {"segment_id": "s", "header_path": "A > B", "source_uri": "u#1", "title": "", "licence": "CC0"}
RECORDS: list[Record] = [
    Document(id="1", text=TEXT, source_uri="file:1", format="markdown", title="T", licence="x", language="en"),
    Segment(
        id="2",
        text=TEXT,
        header_path="",
        source_uri="u",
        offset=2**40,
        title="",
        licence="",
        language="",
        document_id="1",
    ),
    Pair(id="3", instruction=TEXT, response="", split="holdout", source_uri="u", licence=""),
    Candidate(id="4", instruction=TEXT, response=TEXT, backward_model="m", **WEB),
    Scored(
        id="5",
        instruction="",
        response=TEXT,
        scores={"rating": 4.25, "backward_lift": -1e-300},
        missing={"forward_lift": "no tokens"},
        scored_by="m",
        iteration=2,
        **WEB,
    ),
    Scored(id="6", instruction="", response="", scores={}, missing={}, scored_by="m", iteration=1, **WEB),
    Example(
        id="7",
        origin="web",
        tag="",
        instruction="",
        response="",
        parent_id="5",
        segment_id="3",
        source_uri="u",
        licence="",
        sampling=0.5,
        weight=0.9,
        input_ids=(1, 2, 3),
        labels=(-100, 2, 3),
    ),
    Rejected(id="8", reason="too_short", detail=TEXT, failed=True, row='{"a": 1}'),
]


def _rows(count: int, start: int = 0) -> list[Rejected]:
    return [Rejected(id=f"{n:016x}", reason="r", detail=f"number {n} {TEXT}") for n in range(start, start + count)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{type(record).__name__}-{record.id}")
def test_every_record_comes_back_as_it_was(tmp_path: Path, record: Record) -> None:
    assert write_records(tmp_path / "x.parquet", type(record), [record]) == 1
    (found,) = read_records(tmp_path / "x.parquet", type(record))
    assert found == record
    assert [type(getattr(found, name)) for name in vars(found)] == [
        type(getattr(record, name)) for name in vars(record)
    ]


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / name, Rejected, _rows(3000), metadata={"counts": {"b": 1, "a": 2}})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_come_back_in_order_over_shards_and_row_groups(tmp_path: Path) -> None:
    files = [tmp_path / f"rows-{n:05d}.parquet" for n in range(3)]
    for n, path in enumerate(files):
        assert write_records(path, Rejected, iter(_rows(7, 7 * n)), chunk=3) == 7
    (tmp_path / ".rows-00003.parquet.tmp").write_bytes(b"unfinished")
    (tmp_path / "rejected-00000.parquet").write_bytes(b"another prefix")
    assert shard_files(tmp_path, "rows") == files
    assert list(read_records(files, Rejected, chunk=2)) == _rows(21)
    assert count_rows(files) == 21


def test_long_records_are_written_before_many_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humpback.store.shards.HELD_CHARS", 1000)
    rows = [Rejected(id=str(number), reason="r", detail="d", row=" " * 400) for number in range(10)]
    write_records(tmp_path / "a.parquet", Rejected, rows)
    groups = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [3, 3, 3, 1]


def test_no_records_give_a_shard_without_rows(tmp_path: Path) -> None:
    assert write_records(tmp_path / "x.parquet", Scored, []) == 0
    assert list(read_records(tmp_path / "x.parquet", Scored)) == []
    assert count_rows([tmp_path / "x.parquet"]) == 0
    assert count_rows([]) == 0


def test_metadata_comes_back(tmp_path: Path) -> None:
    counts = {"read": 3, "kept": 1, "rejected": {"too_short": 2}, "failed": {}}
    write_records(tmp_path / "with", Rejected, _rows(1), metadata={"counts": counts})
    write_records(tmp_path / "without", Rejected, _rows(1))
    assert read_metadata(tmp_path / "with") == {"counts": counts}
    assert read_metadata(tmp_path / "without") == {}


def test_reading_is_streamed(tmp_path: Path) -> None:
    write_records(tmp_path / "good", Rejected, _rows(5))
    (tmp_path / "bad").write_bytes(b"no parquet")
    rows = read_records([tmp_path / "good", tmp_path / "bad"], Rejected)
    assert [next(rows) for _ in range(5)] == _rows(5)
    with pytest.raises(StorageError, match="bad is damaged or gone"):
        next(rows)


# -- whole or not there --------------------------------------------------------------------------------------------------


def test_write_that_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    def failing() -> Iterator[Rejected]:
        yield from _rows(2000)
        raise RuntimeError("the stage stopped")

    path = tmp_path / "x.parquet"
    write_records(path, Rejected, _rows(1))
    with pytest.raises(RuntimeError, match="the stage stopped"):
        write_records(path, Rejected, failing())
    assert list(read_records(path, Rejected)) == _rows(1)
    with pytest.raises(TypeError):
        atomic_write(path, "text instead of bytes")  # type: ignore[arg-type]
    assert list(read_records(path, Rejected)) == _rows(1)


@pytest.mark.parametrize("kind", ["records", "bytes"])
def test_file_is_on_disk_before_it_gets_its_name_and_its_name_is_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    calls: list[tuple[str, str, int]] = []
    real = os.replace

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(("fsync", path.name, path.stat().st_size if path.is_file() else 0))

    def replace(source: Path, target: Path) -> None:
        calls.append(("replace", target.name, source.stat().st_size))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    path = tmp_path / "folder" / "file"
    if kind == "records":
        write_records(path, Rejected, _rows(10))
    else:
        atomic_write(path, b"some bytes")
    size = path.stat().st_size
    assert calls == [("fsync", ".file.tmp", size), ("replace", "file", size), ("fsync", "folder", 0)]


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    atomic_write(path, b"0" * 100_000)
    stop = threading.Event()

    def write() -> None:
        for n in range(200):
            atomic_write(path, str(n % 10).encode() * 100_000)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        data = path.read_bytes()
        assert len(data) == 100_000
        assert len(set(data)) == 1
    writer.join()


# -- damage --------------------------------------------------------------------------------------------------------------


def _read_all(path: Path) -> Any:
    return read_metadata(path), count_rows([path]), list(read_records(path, Rejected))


@pytest.mark.parametrize("size", [0, 3, 50, -1, -8, -100])
def test_truncated_shard_is_damaged_for_every_reader(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.parquet"
    write_records(path, Rejected, _rows(50))
    path.write_bytes(path.read_bytes()[:size])
    for read in (read_metadata, lambda p: count_rows([p]), lambda p: list(read_records(p, Rejected))):
        with pytest.raises(
            StorageError, match=r"x\.parquet is damaged or gone .*; rebuild it with --rerun-from its stage"
        ):
            read(path)


def test_missing_shard_is_gone_for_every_reader(tmp_path: Path) -> None:
    for read in (read_metadata, lambda p: count_rows([p]), lambda p: list(read_records(p, Rejected))):
        with pytest.raises(StorageError, match=r"x\.parquet is damaged or gone"):
            read(tmp_path / "x.parquet")


def test_flipped_bit_is_never_read_as_data(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_records(path, Rejected, _rows(50))
    whole = path.read_bytes()
    expected = _read_all(path)
    pages = range(4, pq.read_metadata(path).row_group(0).column(4).data_page_offset)
    noticed = 0
    for place in pages[:: max(1, len(pages) // 60)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert _read_all(path) == expected
        except StorageError as error:
            assert "x.parquet is damaged" in str(error)
            noticed += 1
    assert noticed > 30


def test_writer_puts_the_file_there_when_it_is_committed_with_what_was_counted_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "rejected-00000.parquet"
    rows = [Rejected(id=str(number), reason="r", detail="d") for number in range(25)]
    with RecordWriter(path, Rejected, chunk=10) as writer:
        for row in rows:
            writer.add(row)
        assert not path.exists()
        writer.commit({"rows": writer.rows})
    assert read_metadata(path) == {"rows": 25}
    assert list(read_records(path, Rejected)) == rows
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_writer_left_without_a_commit_leaves_nothing(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.parquet", Rejected, chunk=2) as writer:
        for number in range(5):
            writer.add(Rejected(id=str(number), reason="r", detail="d"))
    assert list(tmp_path.iterdir()) == []
