from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.corpus.analysis import Text
from humpback.corpus.webrules import boilerplate, line_ends, repeated_lines, stop_words, symbols, word_lengths

READY = Path(__file__).parents[2] / "../shared/data/corpus/segments.jsonl.gz"
RULES = (stop_words, word_lengths, symbols, line_ends, repeated_lines, boilerplate)

PROSE = (
    "A kettle boils sooner with its lid on. The lid keeps the steam inside, and steam carries most of the heat away. "
    "Fill it with no more water than you need, since every cup takes its own minute."
)
GERMAN = (
    "Ein Kessel kocht schneller mit Deckel. Der Deckel hält den Dampf zurück, und der Dampf trägt die meiste Wärme fort. "
    "Fülle nicht mehr Wasser ein, als du brauchst, denn jede Tasse braucht ihre Minute."
)
SWEDISH = (
    "Vattenkokaren blir klar snabbare när locket sitter kvar. Locket håller kvar ångan, som annars bär bort värmen. "
    "Fyll aldrig mer vatten än du behöver, eftersom varje kopp kräver sin egen minut."
)
JAPANESE = "水を入れて、火にかけます。沸いたら火を止めてください。お茶の葉を入れて三分待ちます。" * 4
RECIPE = "## Ingredients\n\n" + "\n".join(
    f"- {amount} {thing}"
    for amount, thing in [
        ("200 g", "plain flour"),
        ("1/2 tsp", "baking powder"),
        ("2", "large eggs"),
        ("300 ml", "whole milk"),
        ("1 tbsp", "vegetable oil"),
        ("1 pinch", "sea salt"),
        ("50 g", "melted butter"),
        ("3 tbsp", "maple syrup"),
    ]
)
_STEPS = ["Sieve the flour", "Beat in the eggs", "Heat the pan", "Pour some batter", "Turn it once", "Serve it hot"]
STEPS = "\n".join(f"{n}. {what}" for n, what in enumerate(_STEPS, 1))
CODE = (
    "Then run:\n\n```\n"
    + "#" * 400
    + "\n"
    + "run();\n" * 40
    + "```\n\nIt prints what it did to the file, and that is all."
)
POEM = "The kettle sings,\nthe lid it rings\nupon the stove\nas evening brings\nits quiet grove\nof simple things."


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", [PROSE, GERMAN, SWEDISH, JAPANESE, RECIPE, STEPS, CODE, POEM, "", "One line."])
def test_prose_in_any_language_recipes_steps_code_and_short_texts_pass(rule, text: str) -> None:  # type: ignore[no-untyped-def]
    assert rule(Text(text)) is None


def test_words_without_any_of_the_common_ones_are_no_sentences() -> None:
    names = " ".join(f"Kettle{n} Works Berlin" for n in "abcdefghij")
    assert stop_words(Text(names, "en"))
    assert stop_words(Text(names, "fi")) is None  # there is no list of that language
    assert stop_words(Text(GERMAN, "en"))
    assert stop_words(Text(GERMAN, "de")) is None


def test_a_list_without_common_words_is_a_list() -> None:
    assert stop_words(Text("\n".join(f"- {n} cups flour, sifted, baking powder" for n in range(9)), "en")) is None


@pytest.mark.parametrize(
    "text",
    [
        "a b c d e f g h i " * 5,
        "internationalisation " * 30,
        "On 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 it was",
    ],
)
def test_words_too_short_too_long_or_mostly_numbers_are_found(text: str) -> None:
    assert word_lengths(Text(text))


@pytest.mark.parametrize(
    "text",
    [
        "Love #tea #water #kettle and more #today #now",
        "Well... so... the kettle... is on",
        "\n".join(f"The kettle number {n} is one of these that read more…" for n in range(8)),
        "\n".join(f"- {item}" for item in ["Home", "About us", "Shop", "Blog", "Contact", "Help", "Login"]),
    ],
)
def test_hashes_ellipses_and_menus_are_found(text: str) -> None:
    assert symbols(Text(text))


def test_headers_of_markdown_and_attributes_of_rust_are_no_hashes() -> None:
    assert symbols(Text("### Tea\n\n## Water\n\n# Kettle\n\n#[test] and #![deny] are attributes")) is None


def test_lines_that_end_nowhere_are_found() -> None:
    labels = "\n\n".join(f"Number {n} Kettle Works, Berlin" for n in range(9))
    assert line_ends(Text(labels))
    assert line_ends(Text(f"{PROSE}\n\n{labels}"))
    assert line_ends(Text("\n".join(f"Wool {n} of 9" for n in range(9))))


def test_hard_wrapped_paragraphs_quotations_and_recipes_amid_labels_end_well() -> None:
    wrapped = "\n".join(["a line of words that goes on to its right margin,"] * 9) + "\nand then it ends."
    assert line_ends(Text("\n\n".join([wrapped] * 7))) is None
    said = "\n\n".join(
        f"I have loved this kettle since the day it was made, for {n} years. It sings. — Anna" for n in range(8)
    )
    assert line_ends(Text(said)) is None
    labels = "\n\n".join(["Prep time", "5 min", "Cook time", "9 min", "Serves", "4"])
    assert line_ends(Text(f"{labels}\n\n{RECIPE}")) is None


def test_lines_and_phrases_that_come_again_and_again_are_found() -> None:
    assert repeated_lines(Text(f"{PROSE}\n\n" + "Put the kettle on now\n" * 9))
    assert repeated_lines(
        Text("Buy our wonderful kettles today. " * 3 + "Every kettle is a gift for those who drink tea.")
    )
    assert repeated_lines(Text(f"{PROSE}\n\n" + "\n".join("- o -" for _ in range(3)))) is None


def test_furniture_of_sites_is_found_when_it_is_much_of_the_segment() -> None:
    footer = "Privacy policy\nTerms of use\nSubscribe to our newsletter\nAll rights reserved"
    assert "privacy" in (boilerplate(Text(f"{PROSE}\n\n{footer}")) or "")
    assert boilerplate(Text("Lorem ipsum dolor sit amet, consectetur adipiscing elit."))
    assert boilerplate(Text(f"{PROSE}\n\nThis site uses cookies.\nPlease enable JavaScript."))


def test_a_text_about_cookies_and_policies_is_no_furniture() -> None:
    about = "A site that uses cookies must say so in its privacy policy, and its terms of use must link to it. " * 3
    assert boilerplate(Text(f"{PROSE}\n\n{about}")) is None
    assert boilerplate(Text("\n".join(f"Privacy policy number {n} is read by few." for n in range(5)))) is None


@given(st.text(alphabet=st.sampled_from("ab.#-*…\n \t|1`éß水İ\u2028\ud800"), max_size=200))
def test_no_text_breaks_a_rule(text: str) -> None:
    seen = Text(text)
    for rule in RULES:
        assert rule(seen) is None or rule(Text(text))


def test_few_ready_segments_of_books_and_manuals_are_found() -> None:
    if not READY.exists():
        pytest.skip(f"{READY} is absent: data beside the project, not part of it")
    with gzip.open(READY, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for number, line in enumerate(lines) if number % 10 == 0]
    found = Counter(rule.__name__ for text in map(Text, texts) for rule in RULES if rule(text))
    assert len(texts) > 2000
    assert found.total() < 0.01 * len(texts), found
