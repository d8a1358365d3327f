from __future__ import annotations

import itertools
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humpback.corpus.quality import judge
from humpback.corpus.readers import read_documents
from humpback.corpus.segments import NO_HEADER, cut
from humpback.recipe import CorpusInput, CorpusSettings
from humpback.records import Document, Rejected, Segment, content_id

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Form = Literal["plain", "markdown"]


def document(text: str, form: Form = "markdown", title: str = "", header_path: str = "") -> Document:
    return Document(
        id=content_id("a", text), text=text, source_uri="a", format=form, title=title, header_path=header_path
    )


def segments(given: Document, low: int = 1, high: int = 3000) -> list[Segment]:
    return [record for record in cut(given, min_chars=low, max_chars=high) if isinstance(record, Segment)]


def paths(given: Document, low: int = 1, high: int = 3000) -> list[str]:
    return [segment.header_path for segment in segments(given, low, high)]


def words(stem: str, chars: int) -> str:
    return " ".join(f"{stem}{number}" for number in range(chars))[:chars].strip()


def test_a_segment_is_a_header_s_text_with_its_lower_headers() -> None:
    text = "# Tea\n\nIntro.\n\n## Green\n\nCool water.\n\n## Black\n\nHot water.\n"
    (segment,) = segments(document(text))
    assert segment.text == "Intro.\n\n## Green\n\nCool water.\n\n## Black\n\nHot water."
    assert segment.header_path == "Tea"
    assert text[segment.offset :].startswith("Intro.")


def test_a_subtree_that_is_too_long_gives_way_to_its_children_and_its_own_text() -> None:
    text = f"# Tea\n\n{words('a', 80)}\n\n## Green\n\n{words('b', 80)}\n\n### Leaf\n\n{words('c', 30)}\n\n## Black\n\nx"
    records = list(cut(document(text), min_chars=50, max_chars=150))
    assert [(type(record), getattr(record, "header_path", "")) for record in records] == [
        (Segment, "Tea"),
        (Segment, "Tea > Green"),
        (Rejected, ""),
    ]
    assert segments(document(text), 50, 150)[1].text.endswith(f"### Leaf\n\n{words('c', 30)}")
    rejected = records[-1]
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "too_short"
    assert "1 characters, below min_chars=50" in rejected.detail
    assert json.loads(rejected.row)["header_path"] == "Tea > Black"


def test_own_text_without_a_lower_header_that_is_too_long_is_rejected_with_its_figures() -> None:
    (rejected,) = cut(document(f"# Tea\n\n{'a' * 5000}"), min_chars=10, max_chars=3000)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "too_long"
    assert "5,000 characters" in rejected.detail
    row = json.loads(rejected.row)
    assert (len(row["text"]), row["chars"], row["offset"]) == (5000, 5000, 7)
    assert "kept_chars" not in row


@pytest.mark.parametrize("form", ["plain", "markdown"])
def test_text_of_too_many_lines_is_one_row(monkeypatch: pytest.MonkeyPatch, form: Form) -> None:
    monkeypatch.setattr("humpback.corpus.outline.MAX_LINES", 100)
    (whole,) = cut(document("a\n" * 100, form), min_chars=1, max_chars=3000)
    assert isinstance(whole, Segment)
    (row,) = cut(document("a\n" * 101, form), min_chars=1, max_chars=3000)
    assert isinstance(row, Rejected)
    assert (row.reason, "101 line ends, above 100" in row.detail) == ("too_many_lines", True)
    assert json.loads(row.row)["text"] == "a\n" * 101


def test_rejected_row_keeps_its_text_up_to_the_bound_and_says_how_much_there_was() -> None:
    (rejected,) = cut(document(f"# Tea\n\n{'a' * 5000}"), min_chars=10, max_chars=3000, kept_chars=400)
    assert isinstance(rejected, Rejected)
    row = json.loads(rejected.row)
    assert (row["text"], row["chars"], row["kept_chars"], row["offset"]) == ("a" * 400, 5000, 400, 7)


def test_a_document_without_headers_is_one_candidate() -> None:
    assert paths(document("Just text.\n\nMore.", "plain", title="Tea")) == ["Tea"]
    assert paths(document("Just text.", "plain")) == [""]
    assert paths(document("Just text.", "plain"), low=100) == []


def test_a_title_is_the_header_of_several_top_sections_but_not_above_a_single_one() -> None:
    several = "Intro.\n\n# One\n\nText one.\n\n# Two\n\nText two.\n"
    assert paths(document(several, title="Tea")) == ["Tea"]
    assert paths(document(several)) == ["", "One", "Two"]
    assert paths(document("# Green tea\n\nText.", title="tea-1")) == ["tea-1 > Green tea"]
    assert paths(document("# Tea\n\nText.", title="TEA")) == ["Tea"]


def test_a_ready_segment_is_taken_whole() -> None:
    text = "\nIntro.\n\n# Not a header here\n\nText.\n"
    (segment,) = segments(document(text, header_path="Guide > Tea"))
    assert (segment.text, segment.offset, segment.header_path) == (text.strip(), 1, "Guide > Tea")


def test_a_document_of_headers_alone_is_not_lost_without_a_reason() -> None:
    for text in ("# One\n", "", "  \n\n", "#\n# \n"):
        (rejected,) = cut(document(text), min_chars=1, max_chars=10)
        assert isinstance(rejected, Rejected)
        assert rejected.reason == "no_text"


def test_marks_in_code_quotes_lists_and_comments_are_no_markdown_headers() -> None:
    fake = "```\n# no\n```\n\n> # no\n\n- # no\n\n    # no\n\n<!--\n# no\n-->\n\n#no\n\n~~~\nno\n===\n~~~\n"
    text = f"# One\n\n{fake}\nTwo\n===\n\nText.\n\nThree\n---\n\nEnd.\n"
    assert paths(document(text)) == ["One", "Two"]
    assert segments(document(text))[0].text == fake.strip("\n")
    assert segments(document(text))[1].text == "Text.\n\nThree\n---\n\nEnd."


@pytest.mark.parametrize(
    ("heading", "shown"),
    [
        ("# **Bold** and `code` #", "Bold and code"),
        ("# [Tea](https://a.example) ![pot](p.png) {#tea}", "Tea pot"),
        ("# R&amp;D <a name='x'></a>snake_case \\*", "R&D snake_case *"),
        ("#", NO_HEADER),
        ("# <br>", NO_HEADER),
    ],
)
def test_a_markdown_header_is_read_as_a_reader_sees_it(heading: str, shown: str) -> None:
    assert paths(document(f"{heading}\n\nText.")) == [shown]


def test_front_matter_is_neither_header_nor_text_and_gives_the_title() -> None:
    text = "---\ntitle: 'My tea'\ndate: 2020\n---\n\nIntro.\n\n# One\n\nText.\n\n# Two\n\nMore.\n"
    rejected, segment = cut(document(text), min_chars=1, max_chars=3000)
    assert isinstance(rejected, Rejected)
    assert isinstance(segment, Segment)
    assert rejected.reason == "front_matter"
    assert (segment.title, segment.header_path) == ("My tea", "My tea")
    assert segment.text.startswith("Intro.")
    assert paths(document("---\n\nText between rules.\n\n---\n\nMore.")) == [""]


def test_plain_headers_take_their_level_from_the_first_use_of_their_underline() -> None:
    text = "Tea\n***\n\nGreen\n=====\n\nCool.\n\nLeaf\n----\n\nSmall.\n\nBlack\n=====\n\nHot.\n\nMilk\n****\n\nWhite.\n"
    assert paths(document(text, "plain"), high=8) == [
        "Tea > Green",
        "Tea > Green > Leaf",
        "Tea > Black",
        "Milk",
    ]


def test_an_overlined_header_is_a_level_of_its_own_and_wholly_a_header() -> None:
    text = "=====\n Tea\n=====\n\nIntro here.\n\nGreen\n=====\n\nCool water.\n"
    assert paths(document(text, "plain"), high=12) == ["Tea", "Tea > Green"]
    assert [segment.text for segment in segments(document(text, "plain"), high=12)] == ["Intro here.", "Cool water."]


@pytest.mark.parametrize(
    "text",
    [
        "Title too long\n====\n\ntext",
        "Tea\n==\n\ntext",
        "Tea\n=-=\n\ntext",
        "some text\nTea\n===\n\ntext",
        "text\n\n   Tea\n   ===\n\ntext",
        "\n=====\n\ntext",
        "----\n----\n\ntext",
        f"{'a' * 121}\n{'=' * 121}\n\ntext",
    ],
)
def test_what_only_looks_like_a_plain_header_is_text(text: str) -> None:
    assert paths(document(text, "plain")) == [""]


def test_plain_text_keeps_its_layout_but_not_common_indentation_and_blank_runs() -> None:
    text = "Tea\n===\n\n\n   First\n     deeper\n\n\n\n\n\n   last  \n\n"
    (segment,) = segments(document(text, "plain"))
    assert segment.text == "First\n  deeper\n\n\nlast"
    assert text[segment.offset :].startswith("   First")


def test_headers_of_an_indented_text_are_found() -> None:
    text = textwrap.indent("Tea\n===\n\nText of it.\n", "    ")
    assert paths(document(text, "plain")) == ["Tea"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["plain", "markdown"])
def test_line_ends_of_every_system_cut_alike(newline: str, form: Form) -> None:
    text = "Tea\n===\n\nText \x0c one.\n\nMore\u2028text.\n".replace("\n", newline)
    (segment,) = segments(document(text, form))
    assert (segment.text, segment.header_path) == ("Text \x0c one.\n\nMore\u2028text.", "Tea")
    assert text[segment.offset :].startswith("Text")


@pytest.mark.parametrize(
    ("form", "unit"),
    [
        ("markdown", "# A\n\n## B\n\n### C\n\n#### D\n\n##### E\n\n###### F\n\nbody of it\n\n"),
        ("markdown", "[a]: b\n"),
        ("markdown", "> > > > > > > > > > > > > > > > > > > > > > > > > # a\n"),
        ("plain", "Title\n=====\n\nbody of it\n\n"),
        ("plain", "=====\n"),
    ],
)
def test_large_hostile_shapes_come_through_whole(form: Form, unit: str) -> None:
    """400 kB of one shape: recursion or a quadratic scan would end in an error or in the test's time limit."""
    given = document("# Top\n\n" + unit * (400_000 // len(unit)), form)
    assert sum(1 for _ in cut(given, min_chars=600, max_chars=3000)) >= 1


HEADINGS = st.sampled_from(
    ["# {}", "## {}", "### {}", "###### {}", "{}\n====", "{}\n----", "====\n{}\n====", "{}\n~~~~"]
)


@st.composite
def marked_documents(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A document below the 2,000 characters a `Rejected` shows; each paragraph has a word of its own."""
    counter = itertools.count()
    blocks: list[str] = []
    names: list[str] = []
    for is_heading in draw(st.lists(st.booleans(), max_size=25)):
        if is_heading:
            blocks.append(draw(HEADINGS).format(f"H{next(counter)}"))
        else:
            name = f"w{next(counter)}x"
            names.append(name)
            blocks.append(" ".join([name] + ["pad"] * draw(st.integers(0, 12))))
    return "\n\n".join(blocks), names


@settings(max_examples=200, deadline=None)
@given(
    marked_documents(), st.sampled_from(["plain", "markdown"]), st.integers(1, 60), st.integers(0, 300), st.booleans()
)
def test_every_paragraph_is_in_exactly_one_segment_or_rejected(
    marked: tuple[str, list[str]], form: Form, low: int, more: int, titled: bool
) -> None:
    text, names = marked
    records = list(cut(document(text, form, title="T" if titled else ""), min_chars=low, max_chars=low + more))
    found = " ".join(_text_of(record) for record in records)
    assert re.findall(r"w\d+x", found) == names
    assert len({record.id for record in records}) == len(records)


MESS = st.text(st.sampled_from(" \t\n\r#=-*~>`[]()|.aÄ字\x0b\x0c\u2028"), max_size=300) | st.text(max_size=300)


@settings(max_examples=300, deadline=None)
@given(MESS, st.sampled_from(["plain", "markdown"]), st.integers(1, 20), st.integers(0, 100))
def test_any_text_is_cut_within_limits_in_order_without_overlap_or_loss(
    text: str, form: Form, low: int, more: int
) -> None:
    records = list(cut(document(text, form), min_chars=low, max_chars=low + more))
    for record in records:
        if isinstance(record, Segment):
            assert low <= len(record.text) <= low + more
            assert record.text.strip("\n") == record.text
    if getattr(records[0], "reason", "") == "no_text":
        assert _may_be_headers(_ink(text), form)
        return
    offsets = [_offset_of(record) for record in records]
    assert offsets == sorted(set(offsets))
    assert _may_be_headers(_ink(text[: offsets[0]]), form)
    for record, start, end in zip(records, offsets, [*offsets[1:], len(text)], strict=True):
        here, piece = _ink(text[start:end]), _ink(_text_of(record))
        assert here.startswith(piece)
        assert _may_be_headers(here[len(piece) :], form)


def _may_be_headers(ink: str, form: Form) -> bool:
    return not ink or re.search("[#=-]" if form == "markdown" else r"([*=\-~^\"#+])\1\1", ink) is not None


def _offset_of(record: Segment | Rejected) -> int:
    return record.offset if isinstance(record, Segment) else int(json.loads(record.row)["offset"])


def _text_of(record: Segment | Rejected) -> str:
    return record.text if isinstance(record, Segment) else str(json.loads(record.row)["text"])


def _ink(text: str) -> str:
    return "".join(text.split())


def _topics(low: int, high: int) -> Iterator[Segment]:
    chosen = CorpusSettings(inputs=[CorpusInput(path="pydoc:topics")], min_chars=low, max_chars=high)
    for record in read_documents(chosen.inputs, max_record_bytes=chosen.max_line_bytes):
        if isinstance(record, Document):
            yield from (one for one in segments(record, low, high) if judge(one, chosen) is None)


def test_the_manual_of_python_gives_segments_that_start_with_text() -> None:
    found = list(_topics(600, 3000))
    assert len({segment.text for segment in found}) > 60
    for segment in found:
        assert 600 <= len(segment.text) <= 3000
        assert not segment.text[0].isspace()
        assert re.match(r"""["“(*_\w]""", segment.text)
        assert "-[ Footnotes ]-" not in segment.text


def test_ready_segments_of_real_pages_are_taken_whole() -> None:
    path = SHARED / "corpus" / "segments.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent: data beside the project, not part of it")
    given = CorpusInput(path=str(path), header_path="heading_path")
    stream = read_documents([given], max_record_bytes=16_000_000)
    read = list(itertools.islice(stream, 500))
    assert len(read) == 500
    for record in read:
        assert isinstance(record, Document)
        (segment,) = segments(record, 600, 3000)
        assert segment.text == record.text.strip()
        assert segment.header_path == record.header_path
        assert segment.licence
