"""What holds for every page, whatever its tags."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humpback.corpus.html import Page, read_page
from humpback.corpus.segments import cut
from humpback.records import Document, Rejected, Segment

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEPT = "div p section article main ul ol li table tr td th h1 h2 h3 h4 b strong em i span a blockquote pre code dl dt dd".split()
DROPPED = "nav aside footer script style template select textarea button noscript svg".split()
ADDED = ("<script>var zzz = 'p' < 'q';</script>", "<style>zzz > b { c: d }</style>", "<!-- zzz <p>zzz</p> -->")
WORD = re.compile(r"w\d+")
Tree = tuple[str, list["Tree | None"]]


def trees(tags: list[str]) -> st.SearchStrategy[Tree]:
    """Return trees of tags; None is a piece of text."""
    leaf = st.tuples(st.sampled_from(tags), st.just([None]))
    return st.recursive(
        leaf,
        lambda child: st.tuples(st.sampled_from(tags), st.lists(st.one_of(st.none(), child), min_size=1, max_size=4)),
        max_leaves=14,
    )


def pages(tags: list[str] = KEPT) -> st.SearchStrategy[list[str]]:
    """Return pages as lists of pieces; each text has words found nowhere else, in ascending order."""
    return st.lists(trees(tags), min_size=1, max_size=5).map(written)


def written(body: list[Tree]) -> list[str]:
    pieces: list[str] = []
    number = 0

    def write(node: Tree | None) -> None:
        nonlocal number
        if node is None:
            pieces.append(" ".join(f"w{number + step}" for step in range(8)) + ". ")
            number += 8
            return
        pieces.append(f"<{node[0]}>")
        for child in node[1]:
            write(child)
        pieces.append(f"</{node[0]}>")

    for tree in body:
        write(tree)
    return pieces


def records(html: str) -> list[Segment | Rejected]:
    return list(cut(Document(id="a", text=html, source_uri="a", format="html"), min_chars=10, max_chars=200))


def words(page: Page) -> list[int]:
    return [int(word[1:]) for word in WORD.findall(page.text())]


@QUICK
@given(pages())
def test_the_text_of_segments_is_text_of_the_page_each_word_once(pieces: list[str]) -> None:
    html = "".join(pieces)
    given_words = set(WORD.findall(html))
    found = [word for record in records(html) if isinstance(record, Segment) for word in WORD.findall(record.text)]
    assert set(found) <= given_words
    assert len(found) == len(set(found))


@QUICK
@given(pages())
def test_segments_are_where_they_say_and_never_overlap(pieces: list[str]) -> None:
    html = "".join(pieces)
    text, end = read_page(html).text(), 0
    for record in records(html):
        if isinstance(record, Segment):
            assert text[record.offset :].startswith(record.text)
            assert record.offset >= end
            end = record.offset + len(record.text)


@QUICK
@given(pages([tag for tag in KEPT if tag not in ("table", "tr", "td", "th")]))
def test_text_keeps_its_order(pieces: list[str]) -> None:
    # Tables are left out: what stands in one outside its cells is moved before it, by browsers too.
    found = words(read_page("".join(pieces)))
    assert found == sorted(found)


@QUICK
@given(pages(), st.sampled_from(DROPPED), st.data())
def test_text_inside_dropped_elements_never_appears(pieces: list[str], tag: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(pieces)))
    inside = f"<{tag}>" + "Dropped zzz words. " * 5 + f"</{tag}>"
    page = read_page("".join([*pieces[:place], inside, *pieces[place:]]))
    assert "zzz" not in page.text()


@QUICK
@given(pages(), st.sampled_from(ADDED), st.data())
def test_a_script_style_or_comment_anywhere_changes_nothing(pieces: list[str], added: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(pieces)))
    before = read_page("".join(pieces))
    assert read_page("".join([*pieces[:place], added, *pieces[place:]])).blocks == before.blocks


@QUICK
@given(pages())
def test_fifty_wrappers_change_nothing(pieces: list[str]) -> None:
    html = "".join(pieces)
    assert read_page("<div>" * 50 + html + "</div>" * 50).blocks == read_page(f"<div>{html}</div>").blocks


@QUICK
@given(st.text(max_size=400), st.sampled_from(["html", "markdown", "plain"]))
def test_any_text_has_an_outcome_and_always_the_same(text: str, form: str) -> None:
    document = Document(id="a", text=text, source_uri="a", format=form)  # type: ignore[arg-type]
    found = list(cut(document, min_chars=1, max_chars=50))
    assert found
    assert found == list(cut(document, min_chars=1, max_chars=50))


MARKUP = st.lists(
    st.one_of(
        st.sampled_from(
            "< > </ <! <!-- --> & &amp &#x; \" ' = / <p <p> </p> <h1> </h1> <table> <td> <svg> <a href= <pre> </pre>".split()
        ),
        st.sampled_from([" ", "\n", "word ", "A sentence of words. ", "\x00", "\ud800", "\u202e\u05d0", "\u8336"]),
    ),
    max_size=60,
).map("".join)


@QUICK
@given(MARKUP)
def test_broken_markup_has_an_outcome_and_always_the_same(html: str) -> None:
    assert records(html)
    assert records(html) == records(html)
