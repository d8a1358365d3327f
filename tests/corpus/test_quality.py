from __future__ import annotations

import time

import pytest

from humpback.corpus.quality import (
    header_empty,
    header_navigation,
    header_upper,
    judge,
    mostly_not_text,
    repeated_sentences,
)
from humpback.corpus.segments import NO_HEADER
from humpback.recipe import CorpusInput, CorpusSettings
from humpback.records import Segment

PROSE = (
    "A kettle boils sooner with its lid on. The lid keeps the steam inside, and steam carries most of the heat away. "
    "Fill it with no more water than you need, since every cup takes its own minute."
)


def segment(text: str = PROSE, header_path: str = "Guide > Kettles", title: str = "Guide") -> Segment:
    return Segment(
        id="s",
        text=text,
        header_path=header_path,
        source_uri="a.md",
        offset=0,
        title=title,
        licence="",
        language="",
        document_id="d",
    )


@pytest.mark.parametrize("header", [NO_HEADER, "***", "- - -"])
def test_a_header_without_words_is_empty(header: str) -> None:
    assert header_empty(segment(header_path=f"Guide > {header}"))
    assert header_empty(segment(header_path=header))


def test_a_document_without_headers_has_no_empty_header() -> None:
    assert header_empty(segment(header_path="", title="")) is None
    assert header_empty(segment(header_path="???", title="???")) is None
    assert header_empty(segment(header_path=f"{NO_HEADER} > Kettles")) is None


@pytest.mark.parametrize("header", ["BUY NOW", "ADVERTISEMENT", "ÜBER UNS HIER", "CHAPTER 1"])
def test_a_header_in_upper_case_is_found(header: str) -> None:
    assert header_upper(segment(header_path=f"Guide > {header}"))


@pytest.mark.parametrize("header", ["HTTP", "UNESCO", "README", "The HTTP protocol", "1984", "日本語", ""])
def test_acronyms_and_scripts_without_case_are_not_shouting(header: str) -> None:
    assert header_upper(segment(header_path=f"LOUD TITLE > {header}")) is None


@pytest.mark.parametrize("header", ["See also", "SEE ALSO:", "Quick  Links", "Free Newsletter!", "Forum", "References"])
def test_a_navigation_header_is_found_whatever_its_case(header: str) -> None:
    assert header_navigation(segment(header_path=f"Guide > {header}"))


@pytest.mark.parametrize("header", ["Roman forums", "How to share files", "Reference", "Related rates", "See also > A"])
def test_a_header_that_only_holds_a_navigation_word_is_kept(header: str) -> None:
    assert header_navigation(segment(header_path=f"Guide > {header}")) is None


def test_two_nearly_equal_sentences_are_repetition() -> None:
    again = "A kettle boils sooner with its lid on, always."
    found = repeated_sentences(segment(f"{PROSE} {again}"), limit=0.5)
    assert found
    assert "A kettle boils" in found
    assert repeated_sentences(segment(f"{PROSE} {again}"), limit=0.9) is None
    assert repeated_sentences(segment(PROSE), limit=0.5) is None


def test_list_items_without_full_stops_are_sentences() -> None:
    items = "\n".join(f"- fill the kettle with cold water and item {word}" for word in ("one", "two"))
    assert repeated_sentences(segment(items), limit=0.5)


def test_short_sentences_and_code_may_repeat() -> None:
    assert repeated_sentences(segment("Stir it well. " * 20), limit=0.1) is None
    code = "```\nprint the same words again and again now\n\nprint the same words again and again now\n```"
    assert repeated_sentences(segment(f"{PROSE}\n\n{code}"), limit=0.5) is None


def test_ten_thousand_similar_sentences_take_no_quadratic_time() -> None:
    text = " ".join(f"In order to get on with it a{n} b{n} c{n} d{n} e{n} f{n} g{n} h{n}." for n in range(10_000))
    start = time.perf_counter()
    assert repeated_sentences(segment(text), limit=0.5) is None
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    "text",
    [
        "1.5 | 2.7 | 3.9\n" * 20,
        "Try:\n\n```python\n" + "value = compute(value)\n" * 20 + "```",
        "Try:\n\n" + "\n\n".join("   result = compute(items[0], key={'a': 1})" for _ in range(9)),
        "Values:\n\n" + "| name | meaning of it |\n" * 20,
        "Rules:\n\n" + "   rule ::= other words here\n" * 20,
        "\n".join(f"- [Go](https://example.org/a/very/long/address/of/a/page/{n})" for n in range(20)),
        "",
    ],
)
def test_numbers_code_tables_grammar_and_link_lists_are_not_text(text: str) -> None:
    assert mostly_not_text(segment(text))


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        f"{PROSE}\n\n```\nboil(kettle, lid=True)\n```",
        "\n\n".join(f"str.method{n}()\n\n   {PROSE}" for n in range(3)),
        "“Is it done?” she said. “Not yet,” he said, “but nearly.”",
        "水を入れて、火にかけます。沸いたら火を止めてください。",
        "- two cups of water\n- one spoon of tea leaves\n- a little milk",
    ],
)
def test_prose_lists_quotes_and_other_scripts_are_text(text: str) -> None:
    assert mostly_not_text(segment(text)) is None


def test_judge_gives_the_first_reason_with_its_detail_and_none_for_a_fit_segment() -> None:
    settings = CorpusSettings(inputs=[CorpusInput(path="pydoc:topics")])
    assert judge(segment(), settings) is None
    verdict = judge(segment("1 2 3 4 5", header_path="SEE ALSO"), settings)
    assert verdict is not None
    assert verdict.reason == "header_upper"
    assert "SEE ALSO" in verdict.detail
    repeated = judge(segment(f"{PROSE} {PROSE}"), settings)
    assert repeated is not None
    assert repeated.reason == "repeated_sentences"
