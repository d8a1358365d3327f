from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.corpus.analysis import Text
from humpback.corpus.quality import (
    header_empty,
    header_navigation,
    header_upper,
    judge,
    mostly_not_text,
    repeated_sentences,
)
from humpback.corpus.segments import NO_HEADER
from humpback.recipe import CorpusInput, CorpusSettings, Filter
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


@pytest.mark.parametrize(
    "header", ["HTTP", "UNESCO", "README", "3.2.3 HTML", "(9) SQL_OK_LOAD", "The HTTP protocol", "1984", "日本語", ""]
)
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
    found = repeated_sentences(Text(f"{PROSE} {again}"), limit=0.5)
    assert found
    assert "A kettle boils" in found
    assert repeated_sentences(Text(f"{PROSE} {again}"), limit=0.9) is None
    assert repeated_sentences(Text(PROSE), limit=0.5) is None


def test_list_items_without_full_stops_and_headers_are_no_sentences() -> None:
    items = "\n".join(f"- fill the kettle with cold water and item {word}" for word in ("one", "two"))
    assert repeated_sentences(Text(items), limit=0.5) is None
    assert repeated_sentences(Text(f"{PROSE}\n\n- 2 tsp sea salt and black pepper to taste" * 2), limit=0.5)
    assert repeated_sentences(Text(items.replace("\n", ".\n") + "."), limit=0.5)
    headers = "## How to fill the kettle with water\n\nOne.\n\n## How to fill the kettle with water\n\nTwo."
    assert repeated_sentences(Text(headers), limit=0.5) is None


def test_one_repeated_sentence_of_many_is_no_repetition() -> None:
    others = " ".join(
        f"Sentence {n} speaks of {n}{n} quite other {n}a things {n}b than {n}c before." for n in range(12)
    )
    again = "Let the cookies cool on the sheet for five minutes. " * 2
    assert repeated_sentences(Text(f"{others} {again}"), limit=0.9) is None
    found = repeated_sentences(Text(f"{others} {again * 2}"), limit=0.9)
    assert found
    assert found.startswith("15% of the words are in sentences like others; 1.00 above 0.9: 'Let the cookies")


def test_short_sentences_and_code_may_repeat() -> None:
    assert repeated_sentences(Text("Stir it well. " * 20), limit=0.1) is None
    code = "```\nprint the same words again and again now\n\nprint the same words again and again now\n```"
    assert repeated_sentences(Text(f"{PROSE}\n\n{code}"), limit=0.5) is None


@pytest.mark.parametrize(
    "shape", ["In order to get on with it {} {}b {}c {}d {}e {}f.", "So it was then, and so it is now, {}{}{}{}{}{}."]
)
def test_ten_thousand_similar_sentences_take_no_quadratic_time(shape: str) -> None:
    """Comparing all pairs would take hours: the test's own time limit would end it."""
    text = " ".join(shape.format(*(f"a{n * 7 + place}" for place in range(6))) for n in range(10_000))
    assert repeated_sentences(Text(text), limit=0.8) is None


def test_the_first_repeated_pair_is_named_whatever_the_hash_seed() -> None:
    text = Text(" ".join(f"Put the kettle on the stove for cup number {n}." for n in range(9)))
    found = repeated_sentences(text, limit=0.5)
    assert found
    assert "number 0.' / 'Put" in found
    assert "number 1.'" in found


@given(st.text(alphabet=st.sampled_from("aB1_ .!?。\n\t-\"'’)…éßİǅ½Ⅷ²水\u00a0\u2028\x1c\ud800"), max_size=120))
def test_a_text_counts_its_ink_letters_and_words_as_defined(text: str) -> None:
    seen = Text(text)
    assert seen.ink == sum(not char.isspace() for char in text)
    assert seen.letters == sum(map(str.isalpha, text))
    prose = "\n\n".join(seen.prose)
    assert seen.words == re.findall(r"\w+", prose.casefold())
    for number, words in enumerate(seen.sentences):
        assert re.findall(r"\w+", seen.written_sentences[number].casefold()) == words


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
    assert mostly_not_text(Text(text))


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
    assert mostly_not_text(Text(text)) is None


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


def test_judge_runs_the_filters_of_the_recipe_and_only_those() -> None:
    shouting = segment(f"{PROSE} {PROSE}", header_path="SEE ALSO")
    inputs = [CorpusInput(path="pydoc:topics")]
    assert judge(shouting, CorpusSettings(inputs=inputs, filters=[])) is None
    for reason in ("repeated_sentences", "header_navigation"):
        verdict = judge(shouting, CorpusSettings(inputs=inputs, filters=[reason]))
        assert verdict is not None
        assert verdict.reason == reason


def test_every_filter_of_the_recipe_is_a_rule() -> None:
    fit = segment()
    for name in get_args(Filter):
        assert judge(fit, CorpusSettings(inputs=[CorpusInput(path="pydoc:topics")], filters=[name])) is None
