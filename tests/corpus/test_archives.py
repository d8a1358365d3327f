from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from humpback.corpus import streams
from humpback.corpus.readers import read_documents
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected

PAGE = b"<html><body><h1>Soup</h1><p>Peel two carrots.</p></body></html>"
MEMBERS = {
    "./site/index.html": PAGE,
    "site/notes.md": b"# Notes\n\nOne.",
    "site/rows.jsonl.gz": gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'),
    "site/style.css": b"p {}",
    "site/.hidden.html": PAGE,
    "site/inner.zip": b"PK\x03\x04 and so on",
    "site/page": PAGE,
}


def read(path: Path, *, max_record_bytes: int = 1_000_000) -> list[Document | Rejected]:
    return list(read_documents([CorpusInput(path=str(path))], max_record_bytes=max_record_bytes))


def told(records: list[Document | Rejected]) -> list[str]:
    return [record.text if isinstance(record, Document) else record.reason for record in records]


def make_tar(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def make_zip(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


EXPECTED = [PAGE.decode(), "# Notes\n\nOne.", "one", "two", "unknown_kind", "unknown_kind", PAGE.decode()]


@pytest.mark.parametrize(
    "name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2", "a.tar.zst", "a.tar.lz4", "a", "a.zip"]
)
def test_members_are_documents_in_their_order(tmp_path: Path, name: str) -> None:
    modes = {"a.tar.gz": "w:gz", "a.tgz": "w:gz", "a.tar.xz": "w:xz", "a.tar.bz2": "w:bz2"}
    data = make_zip(MEMBERS) if name == "a.zip" else make_tar(MEMBERS, modes.get(name, "w"))
    packers = {"a.tar.zst": zstandard.compress, "a.tar.lz4": lz4.frame.compress}
    path = tmp_path / name
    path.write_bytes(packers.get(name, bytes)(data))
    records = read(path)
    assert told(records) == EXPECTED
    found = [record for record in records if isinstance(record, Document)]
    where = path.as_posix()
    assert [one.location for one in found] == [
        f"{where}!site/index.html",
        f"{where}!site/notes.md",
        f"{where}!site/rows.jsonl.gz#L1",
        f"{where}!site/rows.jsonl.gz#L2",
        f"{where}!site/page",
    ]
    assert [one.format for one in found] == ["html", "markdown", "plain", "plain", "html"]


def test_links_and_devices_in_a_tar_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("a.html", tarfile.SYMTYPE), ("b.html", tarfile.LNKTYPE), ("c.html", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert told(read(path)) == ["link", "link", "unknown_kind"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_tar_gives_the_members_before_the_cut(tmp_path: Path, mode: str) -> None:
    pages = {f"{number}.html": PAGE + b"%d" % number * 700 for number in range(50)}
    data = make_tar(pages, mode)
    path = tmp_path / "a.tar"
    path.write_bytes(data[: len(data) // 2])
    records = read(path)
    assert 5 < sum(isinstance(one, Document) for one in records) < 50
    assert set(told(records)) - {page.decode() for page in pages.values()} == {"damaged_file"}


def test_a_damaged_member_of_a_zip_costs_one_row(tmp_path: Path) -> None:
    data = bytearray(make_zip({"a.html": PAGE, "b.html": PAGE * 20, "c.html": PAGE}))
    at = data.index(b"b.html") + 20
    data[at : at + 10] = bytes(10)
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    assert told(read(path)) == [PAGE.decode(), "damaged_file", PAGE.decode()]
    path.write_bytes(data[: len(data) - 30])
    assert told(read(path)) == ["damaged_file"]


def test_a_member_above_the_limit_is_passed_over(tmp_path: Path) -> None:
    for name, make in (("a.zip", make_zip), ("a.tar", make_tar)):
        path = tmp_path / name
        path.write_bytes(make({"a.html": PAGE, "b.html": PAGE * 100, "c.html": PAGE}))
        assert told(read(path, max_record_bytes=2000)) == [PAGE.decode(), "too_large", PAGE.decode()]


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.tar.gz", "bomb.zip", "bomb.html.zst", "bomb.csv.xz"])
def test_a_bomb_is_stopped_at_the_stated_expansion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1_000_000)
    data = b"text\n" + b"a" * 20_000_000
    path = tmp_path / name
    if name.endswith(".zip"):
        path.write_bytes(make_zip({f"{number}.txt": data for number in range(3)}))
    elif ".tar" in name:
        path.write_bytes(make_tar({"a.txt": data}, "w:gz"))
    else:
        import lzma

        pack = {".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress}
        path.write_bytes(pack[path.suffix](data))
    records = read(path, max_record_bytes=4_000_000)
    assert not any(isinstance(one, Document) and one.text.count("a") > 10 for one in records)
    assert "damaged_file" in told(records)
    assert "like a bomb" in str(records[-1])


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_packed_members_share_what_their_archive_may_expand_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Mapping[str, bytes]], bytes]
) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1_000_000)
    bomb = gzip.compress(b"a" * 400_000)
    path = tmp_path / "a"
    path.write_bytes(make({f"{number}.txt.gz": bomb for number in range(9)}))
    found = told(read(path))
    assert found[:2] == ["a" * 400_000] * 2
    assert "damaged_file" in found
    assert found.count("a" * 400_000) < 9


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_a_tar_is_bounded(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("a.html")
    member.type, member.size = kind, 3_000_000
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar({"a.html": PAGE})[:1024] + member.tobuf() + b"0" * 3_000_000)
    one, damaged = read(path)
    assert told([one]) == [PAGE.decode()]
    assert "extended header of 3,000,000 bytes" in str(damaged)


def test_headers_that_follow_one_another_for_ever_are_damage(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2
    path = tmp_path / "a.tar"
    path.write_bytes((member.tobuf() + b"a".ljust(512, b"\0")) * 5000)
    assert told(read(path)) == ["damaged_file"]


def test_a_long_name_of_a_member_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar({"a" * 9000 + ".html": PAGE, "b.html": PAGE}))
    assert [len(one.location) < 3000 for one in read(path) if isinstance(one, Document)] == [True, True]


def test_a_member_without_a_name_and_one_with_a_password_do_not_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    data = bytearray(make_zip({"a.html": PAGE, "b.html": PAGE}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    assert told(read(path)) == ["encrypted", PAGE.decode()]
    path.write_bytes(make_zip({}))
    assert told(read(path)) == ["no_document"]
