from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import pytest
import zstandard
from hypothesis import given as arbitrary
from hypothesis import settings
from hypothesis import strategies as st

from humpback.corpus import faults, place, streams
from humpback.corpus.readers import check_inputs, input_files, read_documents
from humpback.errors import InputError
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected, content_id


def read(path: Path | str, *, max_record_bytes: int = 10_000, **columns: str) -> list[Document | Rejected]:
    given = CorpusInput.model_validate({"path": str(path), **columns})
    return list(read_documents([given], max_record_bytes=max_record_bytes))


def documents(records: list[Document | Rejected]) -> list[Document]:
    return [record for record in records if isinstance(record, Document)]


def only_rejected(records: list[Document | Rejected]) -> Rejected:
    found = [record for record in records if isinstance(record, Rejected)]
    assert len(found) == 1
    return found[0]


def write_lines(path: Path, *lines: bytes | Mapping[str, object]) -> Path:
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.txt", "plain"), ("a.rst", "plain"), ("a.md", "markdown"), ("a.MARKDOWN", "markdown"), ("a.md.gz", "markdown")],
)
def test_a_text_file_is_one_document_in_the_format_of_its_name(tmp_path: Path, name: str, form: str) -> None:
    path = write_lines(tmp_path / name, b"\xef\xbb\xbfOne\r\ntwo\rthree")
    (document,) = documents(read(path, licence="MIT"))
    assert document.text == "One\ntwo\nthree"
    assert (document.format, document.licence) == (form, "MIT")
    assert document.source_uri == path.as_posix()
    assert document.id == content_id(document.source_uri, document.text)


def test_the_format_of_the_recipe_wins_over_the_name(tmp_path: Path) -> None:
    (document,) = documents(read(write_lines(tmp_path / "a.txt", b"# One"), format="markdown"))
    assert document.format == "markdown"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("# One\n\nText.", "markdown"),
        ("Text.\n\n## One\n\nMore.\n\n## Two\n\nMost.", "markdown"),
        ("  \n# One", "markdown"),
        ("---\ntitle: One\n---\nText.", "markdown"),
        ("---\nText: that is none\nof it", "plain"),
        ("Text.\n\n## One\n\nMore.", "plain"),  # one in the middle says too little
        ("# comment\nx = 1\n# another\ny = 2", "plain"),
        ("#hashtag\n\n#another\n\nText.", "plain"),
        ("Text.\n\n```\n\n# one\n\n# two\n\n```\n", "plain"),
        ("One\n===\n\nText.", "plain"),
        ("#!/bin/sh\n\n# Copyright\n\necho", "plain"),
    ],
)
def test_a_text_in_a_column_is_markdown_by_its_headers(tmp_path: Path, text: str, form: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": text})
    table = tmp_path / "a.csv"
    table.write_text(f'text\n"{text}"\n', encoding="utf-8")
    assert [one.format for one in documents(read(path))] == [form]
    assert [one.format for one in documents(read(table))] == [form]
    assert [one.format for one in documents(read(path, format="plain"))] == ["plain"]


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \t\n"])
def test_blank_lines_are_passed_over_at_once_and_counted(
    tmp_path: Path, blank: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [b'{"text": "one"}\n', blank * 100_000, b' {"text": "two"}\n', blank * 9, b"{torn\n", blank * 3]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "a.csv").write_bytes(blank * 9 + b"text\n" + blank * 100_000 + b'one\n"two\n\nthree"\n')
    real, calls = streams.Stream.readline, Counter[str]()

    def readline(self: streams.Stream, limit: int) -> bytes:
        calls["lines"] += 1
        return real(self, limit)

    monkeypatch.setattr(streams.Stream, "readline", readline)
    one, two, torn = read(tmp_path / "a.jsonl")
    assert [getattr(row, "text", "") for row in (one, two)] == ["one", "two"]
    assert isinstance(two, Document)
    assert two.location.endswith("#L100002")
    assert "a.jsonl:100012" in getattr(torn, "detail", "")
    assert calls["lines"] < 20
    assert [row.text for row in documents(read(tmp_path / "a.csv"))] == ["one", "two\n\nthree"]
    assert calls["lines"] < 40


def test_a_bad_record_that_is_long_says_how_much_of_it_is_kept(tmp_path: Path) -> None:
    short, long = read(write_lines(tmp_path / "a.jsonl", b"{torn", b"{" + b"x" * 5000))
    assert isinstance(short, Rejected)
    assert isinstance(long, Rejected)
    assert "kept_chars" not in json.loads(short.row)
    row = json.loads(long.row)
    assert (row["kept_chars"], len(row["text"])) == (2000, 2000)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.ndjson.gz"])
def test_jsonl_columns_are_found_by_the_names_in_the_recipe(tmp_path: Path, name: str) -> None:
    row = {"body": "Text.", "head": "A\ntitle", "path": ["A", "", "B"], "url": "https://a.example/1", "licence": "CC0"}
    path = write_lines(tmp_path / name, row, b"", {"body": "More.", "language": "en"})
    first, second = documents(
        read(path, text="body", title="head", header_path="path", source_uri="url", licence="unknown")
    )
    assert (first.title, first.header_path, first.source_uri) == ("A title", "A > B", "https://a.example/1")
    assert (first.licence, second.licence, second.language) == ("CC0", "unknown", "en")
    assert (second.title, second.header_path) == ("", "")
    assert second.source_uri == f"{path.as_posix()}#L3"


@pytest.mark.parametrize(
    ("line", "reason", "hint"),
    [
        (b'{"text": "caf\xe9"}', "not_utf8", "iconv"),
        (b'{"text": "half \\ud83d"}', "not_utf8", "half a character"),
        (b'{"text": ', "not_json", "column"),
        (b"[" * 5000, "not_json", "one"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "not_json", "JSON"),
        (b'["text"]', "not_json", "list"),
        (b'{"text": "a", "header_path": ' + b"[" * 500 + b"]" * 500 + b"}", "not_json", "flat"),
        (b'{"text": "a", "title": ' + b"[" * 500 + b"]" * 500 + b"}", "not_json", "flat"),
        (b'{"\\ud83d": "a"}', "no_column", "\\ud83d"),
        (b'{"txet": "a"}', "no_column", "txet"),
        (b'{"text": " "}', "no_text", "is empty"),
        (b'{"text": 7}', "no_text", "int"),
    ],
)
def test_a_bad_record_costs_one_row_and_names_file_and_line(
    tmp_path: Path, line: bytes, reason: str, hint: str
) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "before"}, line, {"text": "after"})
    records = read(path)
    assert [document.text for document in documents(records)] == ["before", "after"]
    rejected = only_rejected(records)
    assert rejected.reason == reason
    assert f"{path.as_posix()}:2" in rejected.detail
    assert hint in rejected.detail
    assert json.loads(rejected.row)["text"]


def test_a_line_at_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    frame = len(json.dumps({"text": ""}))
    fits, long = ({"text": "a" * (2000 - frame + more)} for more in (0, 1))
    path = write_lines(tmp_path / "a.jsonl", fits, long, fits, long)
    records = read(path, max_record_bytes=2000)
    assert [type(record) for record in records] == [Document, Rejected, Document, Rejected]
    assert {record.reason for record in records if isinstance(record, Rejected)} == {"line_too_long"}
    assert "2,001 bytes" in str(records[1])


def test_a_line_far_above_the_limit_is_never_held(tmp_path: Path) -> None:
    import tracemalloc

    path = write_lines(tmp_path / "a.jsonl.gz", b"x" * 40_000_000, {"text": "after"})
    tracemalloc.start()
    records = read(path, max_record_bytes=1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert only_rejected(records).reason == "line_too_long"
    assert "40,000,000 bytes" in only_rejected(records).detail
    assert [document.text for document in documents(records)] == ["after"]
    assert peak < 10_000_000


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip", "bad checksum"])
def test_a_damaged_gz_gives_the_records_before_the_damage(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({"text": content_id(str(number)) * 8}).encode() for number in range(3000)]
    data = bytearray(gzip.compress(b"\n".join(lines), mtime=0))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    elif damage == "bad checksum":
        data[-8] ^= 1
    else:
        data = bytearray(b"plain text")
    path.write_bytes(data)
    records = read(path)
    last = records[-1]
    assert isinstance(last, Rejected)
    assert last.reason == "damaged_file"
    assert [record for record in records if getattr(record, "reason", "") == "damaged_file"] == [last]
    # Overwritten bytes garble lines before zlib notices: those are rejected one by one. A checksum costs the open line.
    intact = {"cut": 1400, "flipped": 1400, "not gzip": 0, "bad checksum": 2999}[damage]
    assert [document.text for document in documents(records)][:intact] == [
        json.loads(line)["text"] for line in lines[:intact]
    ]
    if damage != "flipped":
        assert f"line {len(records)}:" in last.detail


def test_a_folder_is_read_in_sorted_order_without_hidden_and_unknown_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/y.txt.gz", ".hidden.txt", ".git/c.txt", "d.pdf", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_lines(tmp_path / name, name.encode())
    found = [document.text for document in documents(read(tmp_path))]
    assert found == ["a/y.txt.gz", "a/z.md", "a.txt", "b.txt"]
    files = input_files([CorpusInput(path=str(tmp_path))])
    assert [path.relative_to(tmp_path).as_posix() for path in files] == found


def test_text_files_that_cannot_be_read_cost_one_row_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "MAX_FILE_BYTES", 100)
    write_lines(tmp_path / "empty.txt", b" \n")
    write_lines(tmp_path / "latin.txt", b"caf\xe9")
    write_lines(tmp_path / "long.txt.gz", b"a" * 101)
    (tmp_path / "torn.md.gz").write_bytes(gzip.compress(b"a" * 90)[:-4])
    write_lines(tmp_path / "well.md", b"a" * 100)
    records = read(tmp_path)
    assert [getattr(record, "reason", "read") for record in records] == [
        "no_text",
        "not_utf8",
        "file_too_long",
        "damaged_file",
        "read",
    ]
    assert len({record.id for record in records}) == 5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("missing.txt", "does not exist"),
        ("page.pdf", "convert it"),
        ("folder", "without a file to read"),
        ("pydoc:keywords", "pydoc:topics"),
    ],
)
def test_a_wrong_input_stops_with_its_name_and_the_fix(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "page.pdf").write_bytes(b"%PDF")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.docx").write_bytes(b"PK")
    path = name if name.startswith("pydoc:") else str(tmp_path / name)
    given = CorpusInput(path=path)
    with pytest.raises(InputError, match=hint) as caught:
        check_inputs([given])
    assert path in str(caught.value)


def test_one_input_of_several_that_holds_nothing_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "page.pdf").write_bytes(b"%PDF")
    (tmp_path / "data").write_bytes(b"\0\1\2")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.txt").write_text("one")
    inputs = [CorpusInput(path=str(tmp_path / name)) for name in ("page.pdf", "data", "folder", "a.txt")]
    check_inputs(inputs)
    rows = list(read_documents(inputs, max_record_bytes=1024))
    assert [getattr(row, "reason", "read") for row in rows] == ["unknown_kind", "unknown_kind", "no_document", "read"]
    with pytest.raises(InputError, match=r"(?s)page\.pdf .*data .*folder "):
        check_inputs(inputs[:3])


def test_pydoc_topics_are_documents_without_their_leading_grammar() -> None:
    records = read("pydoc:topics")
    topics = {document.title: document for document in documents(records)}
    assert len(topics) > 60
    document = topics["lambda"]
    assert document.source_uri == "pydoc:topics#lambda"
    assert (document.licence, document.language, document.format) == ("PSF-2.0", "en", "plain")
    assert document.text.startswith("Lambdas\n*******\n\nLambda expressions")
    left_out = {record.id: record for record in records if isinstance(record, Rejected)}
    assert {record.reason for record in left_out.values()} == {"formal_grammar"}
    assert any("lambda_expr ::=" in record.row for record in left_out.values())
    assert all(path.is_file() for path in input_files([CorpusInput(path="pydoc:topics")]))


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})
    records = read_documents(
        [CorpusInput(path=str(path)), CorpusInput(path=str(tmp_path / "missing.txt"))], max_record_bytes=1024
    )
    assert isinstance(next(records), Document)


def test_what_a_folder_holds_and_is_not_read_is_told_row_by_row(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "docs", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    (elsewhere / "linked.txt").write_text("linked")
    (folder / "a.txt").write_text("one")
    (folder / "b.pdf").write_bytes(b"%PDF")
    (folder / "c.txt").symlink_to(elsewhere / "linked.txt")
    (folder / "d").symlink_to(elsewhere)
    (folder / "e.txt").symlink_to(folder / "nothing.txt")
    os.mkfifo(folder / "f.txt")
    (folder / ".g.pdf").write_bytes(b"%PDF")
    records = read(folder)
    assert [getattr(record, "reason", "read") for record in records] == [
        *("read", "unknown_kind", "read", "link", "link", "unknown_kind")
    ]
    details = [record.detail for record in records if isinstance(record, Rejected)]
    for name, detail in zip(("b.pdf", "d", "e.txt", "f.txt"), details, strict=True):
        assert f"{folder / name} " in detail
    assert "`.md`" in details[0]
    assert len({record.id for record in records}) == len(records)
    assert [path.name for path in input_files([CorpusInput(path=str(folder))])] == ["a.txt", "c.txt"]


def test_a_folder_that_cannot_be_listed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("one")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    read_one, closed = read(tmp_path)
    assert isinstance(read_one, Document)
    assert isinstance(closed, Rejected)
    assert closed.reason == "unreadable"
    assert "closed cannot be read: Permission denied; check its name, permissions" in closed.detail
    with pytest.raises(InputError, match=r"corpus input .*closed cannot be read: Permission denied"):
        check_inputs([CorpusInput(path=str(tmp_path / "closed"))])


@pytest.mark.parametrize("after", [0, 1])
def test_a_file_that_the_disk_refuses_is_a_row_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    lines = b'{"text": "one"}\n' * 10_000
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "two"}\n')
    real = streams.raw_chunks

    def raw_chunks(file: BinaryIO, path: str, *more: streams.Budget) -> Iterator[streams.Chunk]:
        for number, chunk in enumerate(real(file, path, *more)):
            if number >= after and path.endswith("a.jsonl"):
                raise faults.unreadable(path, OSError(5, "Input/output error"))
            yield chunk

    monkeypatch.setattr("humpback.corpus.readers.raw_chunks", raw_chunks)
    *before, row, last = read(tmp_path)
    assert bool(before) == bool(after)
    assert isinstance(row, Rejected)
    assert (row.reason, "Input/output error" in row.detail) == ("unreadable", True)
    assert isinstance(last, Document)
    assert last.text == "two"


def test_a_name_that_is_not_utf8_is_written_out(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"caf\xe9.jsonl", b"caf\xe9.pdf"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b'{"text": "one"}\n{')
    records = read(tmp_path)
    told = [record.source_uri if isinstance(record, Document) else record.detail for record in records]
    assert len(told) == 4
    for text in told:
        assert "caf\\xe9." in text
        assert text.encode()


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("method", ["open", "is_file", "exists", "is_dir"])
def test_an_input_that_may_not_be_read_stops_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(InputError, match=r"corpus input .*a\.txt cannot be read: Permission denied"):
        check_inputs([CorpusInput(path=str(path))])


@pytest.mark.parametrize("path", ["a" * 300 + ".txt", "~no-such-user/a.txt"])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"corpus input .* cannot be"):
        check_inputs([CorpusInput(path=path)])


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.xhtml.gz", "saved page", "a.txt"])
def test_a_web_page_is_one_document_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    page = "<!DOCTYPE html><meta charset=iso-8859-1><h1>Grüße</h1>"
    path = write_lines(tmp_path / name, page.encode("latin-1"))
    (document,) = documents(read(path, licence="CC0-1.0"))
    assert (document.format, document.text, document.licence) == ("html", page, "CC0-1.0")
    assert document.location == document.source_uri == path.as_posix()


def test_a_web_page_above_the_limit_is_passed_over(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.html", b"<html>" + b"a" * 3000)
    assert only_rejected(read(path, max_record_bytes=2000)).reason == "too_large"


@pytest.mark.parametrize("pack", [zstandard.compress, lz4.frame.compress, gzip.compress])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.bad"])
def test_packed_lines_are_told_by_their_bytes(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(pack(b'{"text": "one"}\n') + pack(b'{"text": "two"}\n'))
    assert [document.text for document in documents(read(path))] == ["one", "two"]


def test_bytes_that_no_server_packed_are_read_where_they_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"text": "one"}\n')
    assert [document.text for document in documents(read(path))] == ["one"]


def test_the_columns_of_time_licence_and_language(tmp_path: Path) -> None:
    row = {"text": "<h1>One</h1>", "lang": "de", "when": "2024-01-02", "rights": "CC0", "licence": "MIT"}
    path = write_lines(tmp_path / "a.jsonl", row, {"text": "<h1>Two</h1>"})
    columns = {"language": "lang", "time": "when", "licence_column": "rights", "licence": "unknown"}
    first, second = documents(read(path, **columns, format="html"))
    assert (first.language, first.time, first.licence, first.format) == ("de", "2024-01-02", "CC0", "html")
    assert (second.language, second.time, second.licence, second.location) == (
        "",
        "",
        "unknown",
        f"{path.as_posix()}#L2",
    )
    assert documents(read(path))[0].format == "plain"


NAMES = [
    *(
        "a.txt",
        "a.md.gz",
        "a.html",
        "a.jsonl",
        "a.jsonl.zst",
        "a.csv",
        "a.tsv.lz4",
        "a.parquet",
        "a.arrow",
        "a.warc",
        "a.wet.gz",
    ),
    *("a.arc", "a.epub", "a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.txt.bz2", "a", "a.bad", "a.json"),
]
BEGINNINGS = [
    *(b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x5d\x2a\x4d\x18", b"BZh9", b"\xfd7zXZ\0"),
    *(
        b"PAR1",
        b"ARROW1\0\0",
        b"PK\x03\x04",
        b"WARC/1.0\r\n",
        b"filedesc://a 1 20240101000000 text/plain 3\n",
        b"<html>",
    ),
    *(b'{"text": ', b"text,title\n", bytes(257) + b"ustar\0" + b"00", b"\xff\xff\xff\xff"),
]


@settings(deadline=None, max_examples=200)
@arbitrary(st.sampled_from(NAMES), st.sampled_from(BEGINNINGS), st.binary(max_size=600), st.booleans())
def test_whatever_a_file_holds_it_is_told_and_nothing_raises(name: str, head: bytes, rest: bytes, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(gzip.compress(head + rest) if packed else head + rest)
        Path(folder, "b.txt").write_text("one")
        records = read(folder)
    assert len(records) >= 2
    assert isinstance(records[-1], Document)
    for record in records:
        assert isinstance(record, Rejected) or (record.text.strip() and record.location)
        str(record).encode()
        if isinstance(record, Rejected):
            assert json.loads(record.row)["source_uri"]
