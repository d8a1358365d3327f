"""Every page of the collected web pages and manuals is read without an error, and what holds for each is checked."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.charset import decode_html
from humpback.corpus.html import Page, read_page
from humpback.corpus.segments import cut, outline
from humpback.records import Document, Segment

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
# (archive, every n-th page)
ARCHIVES = {
    "web/recipes-pages.tar.gz": 1,
    "web/trafilatura-pages.tar.gz": 1,
    "web/readability-pages.tar.gz": 1,
    "corpus/html-gutenberg.tar.gz": 1,
    "corpus/html-manuals.tar.gz": 3,
}
MIN_CHARS, MAX_CHARS = 200, 3000
_CODE = re.compile(r"(?ms)^ *(?:> )?(`{3,})\n.*?^ *\1$|`[^`\n]+`")
_MARKUP = re.compile(r"(?i)<script\b|</(?:div|span|td|p)>")
_PAGE = re.compile(r"(?i)\.x?html?$")


def pages(archive: str, every: int) -> Iterator[tuple[str, bytes]]:
    path = DATA / archive
    if not path.exists():
        pytest.skip(f"needs the collected pages, {archive}")
    with tarfile.open(path) as tar:
        number = 0
        for member in tar:
            if member.isfile() and _PAGE.search(member.name):
                number += 1
                if number % every == 0 and (file := tar.extractfile(member)):
                    yield member.name, file.read()


def check_account(name: str, html: str, page: Page) -> None:
    """Check that every letter of the page is main content or in a part that a rule dropped."""
    tree = LexborHTMLParser(html.encode(), scripting=True)
    tree.strip_tags(["script", "style", "noscript"], recursive=True)
    text = tree.body.text() if tree.body is not None else ""
    assert page.main_chars + sum(part.chars for part in page.dropped) == len("".join(text.split())), name
    assert letters(text) == letters(page.text()) + sum(letters(part.text) for part in page.dropped), name


def letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def check(name: str, data: bytes) -> int:
    """Check one page and return its number of segments."""
    html = decode_html(data)
    document = Document(id=name, text=html, source_uri=name, format="html")
    found = list(cut(document, min_chars=MIN_CHARS, max_chars=MAX_CHARS))
    assert found, name
    segments = [record for record in found if isinstance(record, Segment)]
    page = read_page(html)
    text, end = page.text(), 0
    for segment in segments:
        assert MIN_CHARS <= len(segment.text) <= MAX_CHARS, name
        assert segment.offset >= end, f"{name}: segments overlap at {segment.offset}"
        end = segment.offset + len(segment.text)
        assert text[segment.offset : end] == segment.text, name
    assert len({segment.id for segment in segments}) == len(segments), name
    if page.blocks and page.blocks[0].level:
        assert all(segment.header_path for segment in segments), name
    # Pages about HTML show tags in code, or as escaped text: then the page itself holds them escaped.
    if "&lt;" not in html.lower() and "&#60;" not in html:
        assert not _MARKUP.search(_CODE.sub("", text)), name
    check_account(name, html, page)
    return len(segments)


@pytest.mark.slow
@pytest.mark.parametrize("archive", ARCHIVES)
def test_every_page_is_read_and_its_segments_are_disjoint_and_in_place(archive: str) -> None:
    counts = [check(name, data) for name, data in pages(archive, ARCHIVES[archive])]
    assert len(counts) >= 10
    assert sum(map(bool, counts)) > len(counts) / 4


@pytest.mark.slow
@pytest.mark.parametrize("archive", ARCHIVES)
def test_reading_a_page_again_gives_the_same(archive: str) -> None:
    for name, data in pages(archive, 7 * ARCHIVES[archive]):
        document = Document(id=name, text=decode_html(data), source_uri=name, format="html")
        first = list(cut(document, min_chars=MIN_CHARS, max_chars=MAX_CHARS))
        assert first == list(cut(document, min_chars=MIN_CHARS, max_chars=MAX_CHARS)), name
        assert outline(document).sections == outline(document).sections, name
