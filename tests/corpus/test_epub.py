from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from humpback.corpus.readers import read_documents
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected

CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
  <rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>"""
PACKAGE = """<?xml version="1.0" encoding="utf-8"?>
<opf:package xmlns:opf="http://www.idpf.org/2007/opf" version="3.0">
  <opf:metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
    <dc:title>Soups &amp; stews</dc:title><dc:language>en-GB</dc:language>
    <dc:rights>CC BY 4.0</dc:rights><dc:date>2020-01-02</dc:date><meta property="x">y</meta>
  </opf:metadata>
  <opf:manifest>
    <opf:item id="two" href="text/two%20b.xhtml" media-type="application/xhtml+xml"/>
    <opf:item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/>
    <opf:item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
    <opf:item id="art" href="art.svg" media-type="image/svg+xml"/>
    <opf:item id="gone" href="gone.xhtml" media-type="application/xhtml+xml"/>
  </opf:manifest>
  <opf:spine toc="ncx"><opf:itemref idref="nav"/><opf:itemref idref="one"/><opf:itemref idref="art"/>
    <opf:itemref idref="two"/><opf:itemref idref="gone"/><opf:itemref idref="unlisted"/></opf:spine>
</opf:package>"""
FILES = {
    "META-INF/container.xml": CONTAINER,
    "OEBPS/book.opf": PACKAGE,
    "OEBPS/nav.xhtml": "<html><nav>Contents</nav></html>",
    "OEBPS/text/one.xhtml": "<html><h1>One</h1><p>Grüße.</p></html>",
    "OEBPS/text/two b.xhtml": "<html><h1>Two</h1></html>",
    "OEBPS/art.svg": "<svg/>",
}


def make(path: Path, files: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def read(path: Path, *, max_record_bytes: int = 100_000) -> list[Document | Rejected]:
    return list(read_documents([CorpusInput(path=str(path))], max_record_bytes=max_record_bytes))


@pytest.mark.parametrize("name", ["book.epub", "book.download"])
def test_chapters_come_in_reading_order_with_the_books_words(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, FILES)
    one, two, gone = read(path)
    assert isinstance(one, Document)
    assert isinstance(two, Document)
    assert (one.title, one.language, one.licence, one.time) == ("Soups & stews", "en", "CC BY 4.0", "2020-01-02")
    assert (one.format, one.text) == ("html", FILES["OEBPS/text/one.xhtml"])
    assert one.location == one.source_uri == f"{path.as_posix()}!OEBPS/text/one.xhtml"
    assert two.location.endswith("!OEBPS/text/two b.xhtml")
    assert isinstance(gone, Rejected)
    assert gone.reason == "damaged_file"


def test_encrypted_chapters_are_told_and_disguised_fonts_are_no_matter(tmp_path: Path) -> None:
    method = "<e:EncryptedData><e:EncryptionMethod Algorithm='{}'/><e:CipherReference URI='{}'/></e:EncryptedData>"
    drm = method.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc", "OEBPS/text/one.xhtml")
    font = method.format("http://www.idpf.org/2008/embedding", "OEBPS/text/two%20b.xhtml")
    path = make(tmp_path / "a.epub", {**FILES, "META-INF/encryption.xml": f"<encryption>{drm}{font}</encryption>"})
    assert [getattr(one, "reason", "read") for one in read(path)] == ["encrypted", "read", "damaged_file"]


@pytest.mark.parametrize("name", ["META-INF/container.xml", "OEBPS/book.opf"])
@pytest.mark.parametrize("text", [None, "", "<a>", "\0\1"])
def test_a_book_without_its_directory_costs_one_row(tmp_path: Path, name: str, text: str | None) -> None:
    files = {key: value for key, value in {**FILES, name: text}.items() if value is not None}
    (only,) = read(make(tmp_path / "a.epub", files))
    assert isinstance(only, Rejected)
    assert only.reason == "damaged_file"
    assert "a.epub" in only.detail


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE package [<!ENTITY a0 "ha">{entities}]>' + PACKAGE.replace("Soups &amp; stews", "&a11;")
    one, *_ = read(make(tmp_path / "a.epub", {**FILES, "OEBPS/book.opf": bomb}))
    assert isinstance(one, Document)
    assert len(one.title) < 100


def test_a_chapter_above_the_limit_is_passed_over(tmp_path: Path) -> None:
    path = make(tmp_path / "a.epub", {**FILES, "OEBPS/text/one.xhtml": "a" * 5000})
    assert [getattr(one, "reason", "read") for one in read(path, max_record_bytes=1000)] == [
        *("too_large", "read", "damaged_file")
    ]
