from __future__ import annotations

import time

import pytest

from humpback.corpus.sniff import is_foreign, kind_of_name, sniff

EPUB = b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/epub+zip"


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"WARC/1.0\r\nWARC-Type: x", "page.html.bad", "warc"),
        (b"\r\n\r\nWARC/1.1\n", "x", "warc"),
        (b"WARC/1.0 is a format of archives", "notes.txt", "plain"),
        (b"filedesc://a.arc 0.0.0.0", "x.txt", "arc"),
        (b"PAR1\x15", "x", "parquet"),
        (b"ARROW1\0\0\xff", "x", "arrow"),
        (b"\xff\xff\xff\xff\x10\x01", "data.arrow", "arrow"),
        (EPUB, "x", "epub"),
        (b"PK\x03\x04" + bytes(60), "x.epub", "epub"),
        (b"PK\x03\x04" + bytes(60), "x", "zip"),
        (bytes(257) + b"ustar\0", "x", "tar"),
        (b"\xef\xbb\xbf <!-- a --> <!DOCTYPE HTML>", "x", "html"),
        (b"<?xml version='1.0'?>\n<html xmlns='x'>", "x.php", "html"),
        (b"<html lang=en>", "x.txt", "html"),
        (b"<?xml version='1.0'?><rss>", "feed", None),
        (b"<div align=center>", "readme.md", "markdown"),
        (b"<div>", "page.htm", "html"),
        (b"# One", "a.md.gz", "markdown"),
        (b"One", "a.rst", "plain"),
        (b"One", "LICENSE", None),
        (b'{"text": "a"}\n{"text"', "x", "jsonl"),
        (b'{"name": "settings"}', "package.json", None),
        (b'{\n  "name": 1}', "package.json", None),
        (b'{"text": "' + b"a" * 5000, "rows.json", "jsonl"),
        (b"a,b\n", "x.csv.zst", "csv"),
        (b"\x89PNG\r\n", "page.html", None),
        (b"%PDF-1.5", "a.txt", None),
        (b"", "a.txt", "plain"),
        (b"", "a", None),
        (b"<html>", "style.css", None),
    ],
)
def test_content_decides_and_then_the_name(head: bytes, name: str, kind: str | None) -> None:
    assert sniff(head, name) == kind


def test_names() -> None:
    assert kind_of_name("CC-MAIN.warc.wet.gz") == "warc"
    assert kind_of_name("a.tar.zst") == kind_of_name("a.tgz") == "tar"
    assert kind_of_name(".gz") is None
    assert is_foreign("picture.PNG")
    assert is_foreign("program.js.gz")
    assert not is_foreign("page.php")


def test_hostile_beginnings_take_no_time() -> None:
    begins = time.process_time()
    for head in (b"<!---->" * 600, b"<!--" * 1000, b" " * 4096, b"<?" * 2000, b"WARC/" + b"1" * 4000):
        sniff(head, "a")
    assert time.process_time() - begins < 1
