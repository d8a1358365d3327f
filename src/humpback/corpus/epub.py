"""The chapters of an EPUB in reading order, each one an HTML document.

In: a zip with a package file (OPF) that lists the chapters. Out: a document per chapter at `book.epub!path`, with the title,
language and rights of the book, and a row for each chapter that is missing, damaged or encrypted (DRM).
The two XML files are read with the HTML parser: it forgives what book tools get wrong, and knows no entities to expand.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import unquote

from selectolax.lexbor import LexborHTMLParser, LexborNode

from humpback.corpus.archives import ZIP_DAMAGE
from humpback.corpus.charset import decode_html
from humpback.corpus.faults import Fault, rejected
from humpback.corpus.hostile import too_costly
from humpback.corpus.place import Place
from humpback.records import Document, Rejected

__all__ = ["read_epub"]

_MAX_PACKAGE = 16_000_000
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document", "")
_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Fonts may be disguised in a book that is otherwise open."""


@dataclass(frozen=True, kw_only=True)
class _Book:
    chapters: tuple[str, ...]
    """Paths inside the zip, in reading order."""
    title: str
    language: str
    rights: str
    time: str


def read_epub(file: BinaryIO, place: Place) -> Iterator[Document | Rejected]:
    """Yield the chapters of a book."""
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_DAMAGE as error:
        yield place.damaged(place.name, str(error))
        return
    with archive:
        book = _read_package(archive)
        if isinstance(book, str):
            detail = f"{place.name} is no readable EPUB: {book}; open it in a reader and save it again"
            yield rejected(place.name, Fault("damaged_file", detail))
            return
        encrypted = _encrypted(archive)
        for path in book.chapters:
            yield _read_chapter(archive, path, book, place, is_encrypted=path in encrypted)


def _read_chapter(
    archive: zipfile.ZipFile, path: str, book: _Book, place: Place, *, is_encrypted: bool
) -> Document | Rejected:
    inside, limit = place.inside(path), place.max_record_bytes
    if is_encrypted:
        return rejected(inside.name, Fault("encrypted", f"{inside.name} is encrypted (DRM) and cannot be read"))
    data = _read(archive, path, limit + 1)
    if isinstance(data, str):
        return inside.damaged(inside.name, data)
    if len(data) > limit:
        return inside.too_large(inside.name, f"more than {limit:,}", data)
    text = decode_html(data)
    if not text.strip():
        return rejected(inside.name, Fault("no_text", f"{inside.name} is empty"), data)
    return inside.document(
        text,
        at=inside.name,
        format="html",
        title=book.title,
        language=book.language,
        licence=book.rights,
        time=book.time,
    )


def _read_package(archive: zipfile.ZipFile) -> _Book | str:
    """Return what the package file says, or why it cannot be read."""
    container = _read(archive, "META-INF/container.xml", _MAX_PACKAGE)
    if isinstance(container, str):
        return f"META-INF/container.xml {container}"
    roots = (_attributes(node).get("full-path", "") for node in _nodes(container, "rootfile"))
    path = next(filter(None, roots), "")
    if not path:
        return "META-INF/container.xml names no package file"
    package = _read(archive, path, _MAX_PACKAGE)
    if isinstance(package, str):
        return f"{path} {package}"
    items = {found.get("id", ""): found for found in map(_attributes, _nodes(package, "item"))}
    spine = [items.get(_attributes(node).get("idref", ""), {}) for node in _nodes(package, "itemref")]
    chapters = [
        _resolve(path, item["href"])
        for item in spine
        if item.get("href")
        and item.get("media-type", "").lower() in _PAGES
        and "nav" not in item.get("properties", "").split()
    ]
    if not chapters:
        return f"{path} lists no chapter"
    return _Book(
        chapters=tuple(dict.fromkeys(chapters)),
        title=_first(package, "title"),
        language=_first(package, "language").partition("-")[0].lower(),
        rights=_first(package, "rights"),
        time=_first(package, "date"),
    )


def _encrypted(archive: zipfile.ZipFile) -> frozenset[str]:
    data = _read(archive, "META-INF/encryption.xml", _MAX_PACKAGE)
    if isinstance(data, str):
        return frozenset()
    methods = [_attributes(node).get("algorithm", "") for node in _nodes(data, "encryptionmethod")]
    files = [unquote(_attributes(node).get("uri", "")) for node in _nodes(data, "cipherreference")]
    if len(methods) != len(files):
        return frozenset(files)
    return frozenset(file for file, method in zip(files, methods, strict=True) if method not in _FONTS)


def _read(archive: zipfile.ZipFile, path: str, limit: int) -> bytes | str:
    """Return the beginning of a member, or why it cannot be read."""
    try:
        with archive.open(path) as file:
            return file.read(limit)
    except KeyError:
        return "is missing"
    except ZIP_DAMAGE as error:
        return str(error) or type(error).__name__


def _nodes(data: bytes, name: str) -> Iterator[LexborNode]:
    """Yield the elements with this name, whatever their namespace is called."""
    page = decode_html(data).encode()
    root = None if too_costly(page) else LexborHTMLParser(page).root
    if root is None:
        return
    for node in root.traverse(include_text=False):
        if (node.tag or "").rpartition(":")[2] == name:
            yield node


def _attributes(node: LexborNode) -> dict[str, str]:
    return {key.lower().rpartition(":")[2]: value or "" for key, value in node.attributes.items()}


def _first(package: bytes, name: str) -> str:
    for node in _nodes(package, name):
        words = " ".join(node.text().split())
        if words:
            return words[:1000]
    return ""


def _resolve(package: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(href.partition("#")[0])))
