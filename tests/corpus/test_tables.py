from __future__ import annotations

import datetime
import gzip
import json
import sys
import types
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from humpback.corpus import datasets
from humpback.corpus.readers import check_inputs, input_files, read_documents
from humpback.errors import InputError, MissingDependencyError, StageError
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected


def read(path: Path | str, *, max_record_bytes: int = 10_000, **columns: str) -> list[Document | Rejected]:
    given = CorpusInput.model_validate({"path": str(path), **columns})
    return list(read_documents([given], max_record_bytes=max_record_bytes))


def told(records: list[Document | Rejected]) -> list[str]:
    return [record.text if isinstance(record, Document) else record.reason for record in records]


def texts(records: list[Document | Rejected]) -> list[str]:
    return [record.text for record in records if isinstance(record, Document)]


@pytest.mark.parametrize(("name", "mark"), [*product(("a.csv", "a.csv.gz"), (",", ";", "\t")), ("a.tsv", "\t")])
def test_a_csv_has_quoted_lines_and_its_columns_by_name(tmp_path: Path, name: str, mark: str) -> None:
    rows = [
        "\ufeffbody,title,url",
        '"One ""1""\r\nmore,\nagain",Head,https://a.example/1',
        "Two,,",
        "",
        ",Empty,",
        "Three",
    ]
    text = "\r\n".join(rows).replace(",", mark).replace(f"more{mark}", "more,")
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    records = read(path, text="body", source_uri="url")
    assert told(records) == ['One "1"\nmore,\nagain', "Two", "no_text", "Three"]
    one, two = records[:2]
    assert isinstance(one, Document)
    assert isinstance(two, Document)
    assert (one.title, one.source_uri, one.location) == ("Head", "https://a.example/1", f"{path.as_posix()}#r1")
    assert two.source_uri == two.location == f"{path.as_posix()}#r2"


def test_bad_rows_of_a_csv_cost_one_row_each(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,n\none,1\ncaf\xe9,2\n" + b"a" * 3000 + b",3\ntwo,4\n" + b'"open' + b"\nline" * 900)
    records = read(path, max_record_bytes=2000)
    assert told(records)[:4] == ["one", "not_utf8", "line_too_long", "two"]
    assert set(told(records)[4:]) <= {"line_too_long", "line"}
    assert "#r2" in str(records[1])


def test_a_csv_without_the_column_of_text_says_which_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("body,title\none,two\n")
    (only,) = read(path)
    assert isinstance(only, Rejected)
    assert only.reason == "no_column"
    assert "one of: body, title" in only.detail
    path.write_text("")
    assert told(read(path)) == ["no_text"]


TABLE = pa.table(
    {
        "text": ["One.", None, " ", "Four.", "x" * 900],
        "title": ["A\ntitle", "", "", None, ""],
        "header_path": [["A", "B"], None, [], ["C"], []],
        "time": pa.array([datetime.datetime(2024, 1, 2, 3)] * 5, pa.timestamp("us")),
        "image": [b"\xff\xd8"] * 5,
    }
)


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        new = pa.ipc.new_file if path.name.startswith("file") else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_rows_of_parquet_and_arrow(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TABLE)
    records = read(path, max_record_bytes=500)
    assert told(records) == ["One.", "no_text", "no_text", "Four.", "too_large"]
    one, four = records[0], records[3]
    assert isinstance(one, Document)
    assert isinstance(four, Document)
    assert (one.title, one.header_path, one.time) == ("A title", "A > B", "2024-01-02T03:00:00")
    assert four.location == f"{path.as_posix()}#r4"
    assert told(read(path, text="body")) == ["no_column"]


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_damaged_tables_cost_a_row(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TABLE)
    data = path.read_bytes()
    for cut in (0, 5, len(data) // 2, len(data) - 9):
        path.write_bytes(data[:cut])
        records = read(path)
        assert records or (cut == 0 and name != "a.parquet")
        assert not records or isinstance(records[-1], Rejected) or name == "stream.arrow"
    for at in range(0, len(data), 29):
        path.write_bytes(data[:at] + bytes((data[at] ^ 0xFF,)) + data[at + 1 :])
        assert read(path)


def save(folder: Path, texts: list[str]) -> None:
    """Write a folder as `Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    half = len(texts) // 2
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (texts[:half], texts[half:]), strict=True):
        write(folder / name, pa.table({"text": part}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_data_set_is_read_by_its_split(tmp_path: Path) -> None:
    save(tmp_path / "both" / "train", ["one", "two", "three"])
    save(tmp_path / "both" / "test", ["four", "five"])
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts(read(tmp_path / "both")) == ["one", "two", "three"]
    files = sum(path.is_file() for path in (tmp_path / "both").rglob("*"))
    assert len(told(read(tmp_path / "both"))) == 3 + files - 2  # its data are two files
    assert texts(read(tmp_path / "both", split="test")) == ["four", "five"]
    assert texts(read(tmp_path / "both" / "test")) == ["four", "five"]
    with pytest.raises(InputError, match=r"no split 'dev'; .* train, test"):
        check_inputs([CorpusInput(path=str(tmp_path / "both"), split="dev")])
    (tmp_path / "both" / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001.*missing"):
        check_inputs([CorpusInput(path=str(tmp_path / "both"))])
    (tmp_path / "both" / "dataset_dict.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        check_inputs([CorpusInput(path=str(tmp_path / "both"))])


@pytest.mark.slow
def test_what_the_library_saves_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"text": [f"text {number}" for number in range(20)]})
    datasets.DatasetDict({"train": whole.select(range(5, 15)), "test": whole}).save_to_disk(tmp_path / "saved")
    assert texts(read(tmp_path / "saved")) == [f"text {number}" for number in range(5, 15)]


def test_a_folder_as_the_hub_keeps_it_is_read_by_its_split(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\ndataset_info:\n  features: x\n---\n# Card\n")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-00000-of-00001.parquet", pa.table({"text": ["one"]}))
    (tmp_path / "data" / "test.jsonl").write_text('{"text": "two"}')
    one, *others = read(tmp_path)
    assert told([one]) == ["one"]
    assert {row.reason for row in others if isinstance(row, Rejected)} == {"not_in_data_set"}
    details = " ".join(row.detail for row in others if isinstance(row, Rejected))
    assert "README.md is no data of split 'train'" in details
    assert len(others) == sum(path.is_file() for path in tmp_path.rglob("*")) - 1
    assert texts(read(tmp_path, split="test")) == ["two"]
    with pytest.raises(InputError, match=r"one of: test, train"):
        read(tmp_path, split="dev")
    assert [path.name for path in input_files([CorpusInput(path=str(tmp_path))])] == ["train-00000-of-00001.parquet"]
    (tmp_path / "README.md").write_text("# No card")
    assert told(read(tmp_path)) == ["# No card", "two", "one"]


def fake_hub(monkeypatch: pytest.MonkeyPatch, load: object) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(datasets, "_unreachable", str)


def test_the_hub_is_streamed_with_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[dict[str, object]]:
        asked.append((name, config, split, streaming))
        yield {"text": "one", "url": "https://a.example/1"}
        yield {"text": ""}
        yield {"text": "x" * 20_000}
        raise ConnectionError("gone")

    fake_hub(monkeypatch, load_dataset)
    given = CorpusInput(path="hub:owner/name", config="en", split="test", source_uri="url")
    stream = iter(read_documents([given], max_record_bytes=10_000))
    records = [next(stream) for _ in range(3)]
    with pytest.raises(StageError, match="stopped answering at row 4"):  # not a finished unit: it is read again
        next(stream)
    assert asked == [("owner/name", "en", "test", True)]
    assert told(records) == ["one", "no_text", "too_large"]
    assert isinstance(records[0], Document)
    assert (records[0].source_uri, records[0].location) == ("https://a.example/1", "hub:owner/name#r1")
    assert input_files([CorpusInput(path="hub:owner/name")]) == []


def test_a_hub_that_does_not_answer_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise AssertionError("it is asked for half a minute")

    def refuse(address: tuple[str, int], timeout: float) -> None:
        assert timeout <= 5
        raise OSError(-2, "Name or service not known")

    reach = datasets._unreachable
    fake_hub(monkeypatch, load_dataset)
    monkeypatch.setattr(datasets, "_unreachable", reach)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(InputError, match=r"hub:owner/name cannot be opened: huggingface.co does not answer .*network"):
        read("hub:owner/name")


def test_a_data_set_that_cannot_be_opened_stops_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the hub\nlong trace")

    fake_hub(monkeypatch, load_dataset)
    with pytest.raises(InputError, match=r"hub:owner/name cannot be opened .*Couldn't reach the hub; .*network"):
        read("hub:owner/name")
    with pytest.raises(InputError, match="hub:OWNER/NAME"):
        check_inputs([CorpusInput(path="hub:../x y")])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"humpback-lm\[train\]"):
        check_inputs([CorpusInput(path="hub:owner/name")])
