from __future__ import annotations

import gzip
import io
import tempfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import brotli
import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from humpback.corpus.readers import read_documents
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected

FILES = Path(__file__).parents[2] / "../shared/data/warc"
PAGE = "<html><head><title>Soup</title></head><body><h1>Soup</h1><p>Peel two carrots.</p></body></html>"


def read(path: Path, *, max_record_bytes: int = 1_000_000) -> list[Document | Rejected]:
    return list(read_documents([CorpusInput(path=str(path))], max_record_bytes=max_record_bytes))


def documents(records: Sequence[Document | Rejected]) -> list[Document]:
    return [record for record in records if isinstance(record, Document)]


def reasons(records: Sequence[Document | Rejected]) -> list[str]:
    return [record.reason for record in records if isinstance(record, Rejected)]


def http(body: bytes, *, status: str = "200 OK", **headers: str) -> bytes:
    fields = {"Content-Type": "text/html", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def record(block: bytes, *, kind: str = "response", length: str | None = None, more: Mapping[str, str] = {}) -> bytes:
    fields = {
        "WARC-Type": kind,
        "WARC-Target-URI": "<https://a.example/1>",
        "WARC-Date": "2024-01-02T03:04:05Z",
        "Content-Type": "application/http; msgtype=response",
        **more,
        "Content-Length": length or str(len(block)),
    }
    head = "\r\n".join(["WARC/1.0", *(f"{name}: {value}" for name, value in fields.items())])
    return head.encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


GOOD = record(http(PAGE.encode()))

# What each file holds, looked at by hand: documents, and the rows of what is no document.
OUTCOMES: dict[str, tuple[int, dict[str, int]]] = {
    # records of type `unknown`
    "chatnoir-resiliparse__block-sized-records.warc": (0, {"no_document": 1}),
    "chatnoir-resiliparse__block-sized-records.warc.gz": (0, {"no_document": 1}),
    "chatnoir-resiliparse__block-sized-records.warc.lz4": (0, {"no_document": 1}),
    # one record, cut off within it
    "chatnoir-resiliparse__clipped.warc.gz": (0, {"damaged_file": 1}),
    "chatnoir-resiliparse__warcfile.warc": (16, {}),
    "chatnoir-resiliparse__warcfile.warc.gz": (16, {}),
    "chatnoir-resiliparse__warcfile.warc.lz4": (16, {}),
    "dolma__sample-0000.warc.gz": (22, {}),
    "dolma__sample-0001.warc.gz": (15, {}),
    # the lengths -1, -1 and `abc` lead nowhere; the one good record is a line end
    "warcio__bad.arc": (0, {"damaged_file": 2, "no_text": 1}),
    # all records in one gzip member, which only hinders seeking
    "warcio__example-bad-non-chunked.warc.gz": (1, {}),
    "warcio__example-bad.warc.gz.bad": (1, {"http_status": 1}),
    # requests only
    "warcio__example-digest.warc": (0, {"no_document": 1}),
    "warcio__example-iana.org-chunked.warc": (1, {}),
    "warcio__example-resource.warc.gz": (1, {}),
    "warcio__example-space-in-target-uri.warc.gz": (0, {"content_type": 1}),
    # twelve bytes (the CR of the HTTP header) are missing, the page is whole
    "warcio__example-space-in-url.arc": (1, {"damaged_file": 1}),
    # the length is two too small, the page is whole with the bytes behind it
    "warcio__example-trunc.warc": (1, {"damaged_file": 1}),
    "warcio__example-wget-bad-target-uri.warc.gz": (1, {}),
    # HTTP promises one byte more than there is
    "warcio__example-wrong-chunks.warc.gz": (1, {"cut_page": 1}),
    "warcio__example.arc": (1, {}),
    "warcio__example.arc.gz": (1, {}),
    "warcio__example.warc": (1, {}),
    "warcio__example.warc.gz": (1, {}),
    "warcio__post-test.warc.gz": (0, {"content_type": 3}),  # JSON
    "whirlwind-python__whirlwind.warc": (1, {}),
    "whirlwind-python__whirlwind.warc.gz": (1, {}),
    "whirlwind-python__whirlwind.warc.wat": (0, {"no_document": 1}),
    "whirlwind-python__whirlwind.warc.wat.gz": (0, {"no_document": 1}),
    "whirlwind-python__whirlwind.warc.wet": (1, {}),
    "whirlwind-python__whirlwind.warc.wet.gz": (1, {}),
}


@pytest.mark.skipif(not FILES.is_dir(), reason="the shared WARC files are not there")
@pytest.mark.parametrize("name", OUTCOMES)
def test_each_known_file_gives_its_pages_and_its_reasons(name: str) -> None:
    records = read(FILES / name)
    assert (len(documents(records)), Counter(reasons(records))) == OUTCOMES[name]
    assert len({document.location for document in documents(records)}) == len(documents(records))
    for document in documents(records):
        assert not document.source_uri.startswith("<")
        assert document.time


@pytest.mark.skipif(not FILES.is_dir(), reason="the shared WARC files are not there")
def test_the_table_names_every_file() -> None:
    assert {path.name for path in FILES.iterdir()} == set(OUTCOMES)


@pytest.mark.skipif(not FILES.is_dir(), reason="the shared WARC files are not there")
@pytest.mark.parametrize("name", ["chatnoir-resiliparse__warcfile.warc", "chatnoir-resiliparse__warcfile.warc.gz"])
def test_locations_are_where_another_reader_finds_the_records(name: str) -> None:
    warc = pytest.importorskip("fastwarc.warc")
    with (FILES / name).open("rb") as file:
        found = warc.ArchiveIterator(file, record_types=warc.WarcRecordType.response)
        expected = [(one.headers["WARC-Target-URI"], one.stream_pos) for one in found]
    ours = [(one.source_uri, int(one.location.rpartition("@")[2])) for one in documents(read(FILES / name))]
    assert ours == expected


@pytest.mark.parametrize("packed", ["", "gzip", "lz4", "zstd", "one gzip"])
def test_a_page_has_its_address_time_and_place_however_the_file_is_packed(tmp_path: Path, packed: str) -> None:
    pack = {"gzip": gzip.compress, "lz4": lz4.frame.compress, "zstd": zstandard.compress}.get(packed, bytes)
    pages = [pack(GOOD), pack(record(b"a: b", kind="warcinfo")), pack(GOOD)]
    data = gzip.compress(b"".join(pages)) if packed == "one gzip" else b"".join(pages)
    path = tmp_path / "pages.bin.bad"  # the name says nothing
    path.write_bytes(data)
    first, second = documents(read(path))
    assert (first.text, first.format, first.source_uri) == (PAGE, "html", "https://a.example/1")
    assert first.time == "2024-01-02T03:04:05Z"
    assert first.location == f"{path.as_posix()}@0"
    begins = len(pages[0]) + len(pages[1])
    assert second.location == f"{path.as_posix()}@{f'0+{begins}' if packed == 'one gzip' else begins}"


def test_a_zstd_warc_with_its_dictionary_in_the_first_frame(tmp_path: Path) -> None:
    pages = [record(http(PAGE.replace("two", str(number)).encode())) for number in range(200)]
    dictionary = zstandard.train_dictionary(2048, pages)
    pack = zstandard.ZstdCompressor(dict_data=dictionary).compress
    raw = dictionary.as_bytes()
    for held in (raw, zstandard.compress(raw)):
        frame = b"\x5d\x2a\x4d\x18" + len(held).to_bytes(4, "little") + held
        path = tmp_path / "a.warc.zst"
        path.write_bytes(frame + b"".join(map(pack, pages)))
        assert len(documents(read(path))) == len(pages)


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", bare_deflate),
        ("br", brotli.compress),
        ("zstd", zstandard.compress),
        ("identity", bytes),
        ("gzip", bytes),  # unpacked by the crawler, which left the header
        ("br", bytes),
    ],
)
@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_are_unpacked(tmp_path: Path, name: str, encode: object, chunked: bool) -> None:
    body = encode(PAGE.encode())  # type: ignore[operator]
    headers = {"Content_Encoding": name}
    if chunked:
        body = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (body[:20], body[20:])) + b"0\r\n\r\n"
        headers["Transfer_Encoding"] = "chunked"
    path = tmp_path / "a.warc"
    path.write_bytes(record(http(body, **headers)))
    records = read(path)
    assert reasons(records) == []
    assert documents(records)[0].text == PAGE


@pytest.mark.parametrize("name", ["gzip", "br", "zstd", "deflate"])
def test_a_bomb_in_a_body_costs_one_row(tmp_path: Path, name: str) -> None:
    pack = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress, "deflate": zlib.compress}[name]
    path = tmp_path / "a.warc"
    path.write_bytes(record(http(pack(b"a" * 30_000_000), Content_Encoding=name)) + GOOD)
    records = read(path)
    assert reasons(records) == ["too_large"]
    assert len(documents(records)) == 1


def test_a_page_that_breaks_off_is_read_and_told(tmp_path: Path) -> None:
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PAGE), PAGE.encode())
    path = tmp_path / "a.warc"
    path.write_bytes(
        record(http(whole[:60], Transfer_Encoding="chunked"))
        + record(http(PAGE.encode(), Content_Length="5000"))
        + record(http(gzip.compress(PAGE.encode() * 50)[:-20], Content_Encoding="gzip"))
        + record(http(PAGE.encode(), Transfer_Encoding="chunked"))  # never cut into chunks
        + GOOD
    )
    records = read(path)
    assert reasons(records) == ["cut_page"] * 3
    assert len(documents(records)) == 5


def test_what_is_no_page_costs_a_row_and_the_archives_own_records_none(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    own = ("warcinfo", "request", "metadata", "revisit", "continuation", "unheard-of")
    path.write_bytes(
        b"".join(record(http(PAGE.encode()), kind=kind) for kind in own)
        + record(http(b"", status="404 Not Found"))
        + record(http(b"\x89PNG", Content_Type="image/png"))
        + record(http(b" \r\n"))
        + record(http(PAGE.encode()), more={"WARC-Segment-Number": "1"})
        + record(
            b"notes", kind="resource", more={"WARC-Target-URI": "metadata://wget/log", "Content-Type": "text/plain"}
        )
        + record(b"\0\1\2", kind="resource", more={"Content-Type": "application/octet-stream"})
    )
    records = read(path)
    assert documents(records) == []
    assert reasons(records) == ["http_status", "content_type", "no_text", "segmented", "content_type"]
    assert all("https://a.example/1" in one.row for one in records if isinstance(one, Rejected))


def test_kinds_of_text_are_told_by_type_and_content(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(
        record(b"One.\r\nTwo.", kind="conversion", more={"Content-Type": "text/plain"})
        + record(http(b"# One", Content_Type="text/markdown; charset=utf-8"))
        + record(http(PAGE.encode(), Content_Type="text/plain"))
        + record(http(PAGE.encode(), Content_Type=""))
        + record(PAGE.encode())  # HTTP/0.9
        + record(http("<p>größer".encode("latin-1"), Content_Type="text/html; charset=ISO-8859-1"))
    )
    found = documents(read(path))
    assert [one.format for one in found] == ["plain", "markdown", "html", "html", "html", "html"]
    assert (found[0].text, found[-1].text) == ("One.\nTwo.", "<p>größer")


@pytest.mark.parametrize("length", ["40", "400", "9999999", "-3", "many", ""])
def test_a_wrong_length_costs_no_other_record(tmp_path: Path, length: str) -> None:
    bad = record(http(b"<html><p>Bad."), length=length or " ")
    path = tmp_path / "a.warc"
    path.write_bytes(GOOD + bad + GOOD + GOOD)
    records = read(path)
    assert [one.text for one in documents(records)] == [PAGE] * 3
    assert reasons(records) == ["damaged_file"]


def test_bytes_between_records_are_passed_over_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(GOOD + b"lost bytes\r\n" * 20_000 + GOOD + b"\r\n\r\n\0\0")
    records = read(path)
    assert [one.text for one in documents(records)] == [PAGE] * 2
    assert reasons(records) == ["damaged_file"]


def test_a_record_above_the_limit_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(GOOD + record(http(b"<html>" + b"a" * 300_000)) + GOOD)
    records = read(path, max_record_bytes=2000)
    assert [type(one) for one in records] == [Document, Rejected, Document]
    assert reasons(records) == ["too_large"]


def test_arc_of_version_2_and_addresses_with_spaces(tmp_path: Path) -> None:
    block = http(PAGE.encode())
    path = tmp_path / "a.arc.gz"
    version = b"2 0 Crawler\nURL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename Archive-length\n"
    head = b"filedesc://a.arc 0.0.0.0 20240102030405 text/plain 200 - - 0 a.arc %d\n%b\n" % (len(version), version)
    line = b"http://a.example/a b 1.2.3.4 20240102030405 text/html 200 - - 12345678901234 a.arc %d\n" % len(block)
    dns = b"dns:a.example 1.2.3.4 20240102030405 text/dns 200 - - 0 a.arc 4\nabcd\n"
    path.write_bytes(gzip.compress(head) + gzip.compress(dns) + gzip.compress(line + block + b"\n"))
    (document,) = documents(read(path))
    assert (document.source_uri, document.time, document.text) == ("http://a.example/a b", "20240102030405", PAGE)


LONG = GOOD + record(http(gzip.compress(PAGE.encode()), Content_Encoding="gzip")) + GOOD
MEMBERS = b"".join(gzip.compress(one) for one in (GOOD, LONG, GOOD))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(LONG)), st.integers(0, len(MEMBERS)))
def test_a_file_cut_anywhere_gives_what_is_whole_before_the_cut(plain: int, packed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.warc")
        path.write_bytes(LONG[:plain])
        records = read(path)
        assert len(documents(records)) >= sum(plain >= end for end in (len(GOOD), len(LONG) - len(GOOD), len(LONG)))
        assert all(one.text == PAGE for one in documents(records))
        path.write_bytes(MEMBERS[:packed])
        records = read(path)
        assert all(one.text == PAGE for one in documents(records))
        assert packed in (0, len(MEMBERS)) or records
        ends = {0, len(gzip.compress(GOOD)), len(gzip.compress(GOOD)) + len(gzip.compress(LONG)), len(MEMBERS)}
        assert packed in ends or "damaged_file" in reasons(records)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(LONG) - 1), st.binary(max_size=6)), max_size=8))
def test_a_damaged_file_never_raises(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(LONG)
    for at, value in changes:
        data[at : at + len(value)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.warc")
        path.write_bytes(data)
        assert read(path)


def test_a_stream_of_many_small_members_stays_small() -> None:
    from humpback.corpus.streams import open_stream, raw_chunks

    file = io.BytesIO(gzip.compress(b"a\n") * 20_000)
    stream, packed = open_stream(raw_chunks(file, "a"))
    assert packed
    assert stream.read() == b"a\n" * 20_000


def test_a_long_address_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    address = f"https://example.org/{'a' * 30_000}"
    path.write_bytes(record(http(b"<p>One.</p>"), more={"WARC-Target-URI": address}))
    (document,) = documents(read(path))
    assert document.source_uri == address[:4000]
