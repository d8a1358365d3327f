"""Each text signal on cases that have the fault and cases that only look like it."""

from __future__ import annotations

import pytest

from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.requests import find_verb_object, is_request
from humpback.evaluation.signals import SIGNALS, InstructionResponse, Raters, compute_signals
from humpback.evaluation.textsignals import FAULTS, Reading, TextPair, duplicates, find_faults
from humpback.prompts import Prompts

GOOD = (
    "Yeast eats the sugar of the flour and gives off gas. The dough holds the gas in, so the loaf rises. Warmth makes the yeast work "
    "faster, and salt slows it down."
)
PLAIN = "Why does bread rise in the oven?"


def _value(name: str, instruction: str = PLAIN, response: str = GOOD, header: str = "", source: str = "") -> float:
    reading = FAULTS[name](TextPair(instruction, response, header, source))
    assert reading.value is not None, reading.why
    assert 0 <= reading.value <= 1
    return reading.value


def test_good_pair_has_no_fault() -> None:
    assert {name: reading.value for name, reading in find_faults(TextPair(PLAIN, GOOD)).items()} == dict.fromkeys(
        FAULTS, 0.0
    )


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize(
    "text", ["", " ", "\n", "a", "?", "\x00", "\ud800", "<|im_end|>", "1" * 9000, ". " * 3000, "日本語"]
)
def test_any_text_has_a_number_or_a_reason(name: str, text: str) -> None:
    for pair in (TextPair(text, GOOD), TextPair(PLAIN, text, text, text), TextPair(text, text)):
        reading = FAULTS[name](pair)
        assert reading.why if reading.value is None else 0 <= reading.value <= 1


# -- the instruction -----------------------------------------------------------------------------------------------------


def test_echo_is_the_share_taken_from_the_prompt() -> None:
    echoed = "Write the one instruction or question that a person would have asked"
    assert _value("echo", echoed) == 1
    assert 0.3 < _value("echo", f"{echoed} about the rising of bread in a stone oven of old") < 0.8
    assert _value("echo", "Write one question about bread that a person may ask.") == 0
    assert FAULTS["echo"](TextPair("Why bread?", GOOD)) == Reading(None, "under 4 words")


def test_copy_is_the_share_taken_from_the_response() -> None:
    assert _value("copy", GOOD[:80]) == 1
    assert _value("copy", "Yeast eats the sugar of the flour and gives off what, when, and why is it so?") == 10 / 17
    assert _value("copy", "Why does yeast eat the sugar of the flour in a dough?") == 0


@pytest.mark.parametrize(("text", "value"), [("", 1), ("...?", 1), ("Why?", 0), ("2", 0), ("为什么", 0)])
def test_empty_is_no_letter_or_digit(text: str, value: float) -> None:
    assert _value("empty", text) == value


def test_duplicates_are_equal_but_for_case_and_punctuation() -> None:
    found = duplicates(["Why is it?", "why is it", "Why, is it!", "How is it?"])
    assert [round(reading.value or 0, 3) for reading in found] == [0.667, 0.667, 0.667, 0]


def test_language_is_compared_when_both_are_sure() -> None:
    german = "Warum geht ein Brot im Ofen auf, und was macht die Hefe dabei?"
    assert _value("other_language", german) > 0.65
    assert (
        _value("other_language", german, "Die Hefe frisst den Zucker des Mehls und gibt Gas ab, das im Teig bleibt.")
        == 0
    )
    assert FAULTS["other_language"](TextPair("Pourquoi?", GOOD)).value is None
    assert FAULTS["other_language"](TextPair("4711 0815 12345 !!!", GOOD)).value is None


@pytest.mark.parametrize(
    "text",
    [
        *("Why does bread rise?", "what is the capital of france", "List three fruits.", "Please, a poem about rain"),
        *(
            "Given the text below, extract all names",
            "I want to learn how sails work",
            "is a tomato a fruit or a vegetable",
        ),
        *(
            "I would like you to act as a guide",
            "You are a pilot. Describe your day.",
            "Can you help",
            "How to tie a knot",
        ),
        *("In golf what do the Americans call an albatross", "Briefly explain tides", "Classify: dog, cat, oak"),
    ],
)
def test_request_is_known_by_a_question_an_order_or_a_wish(text: str) -> None:
    assert is_request(text)
    assert _value("no_request", text) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("The rising of bread.", "Yeast eats the sugar of the flour and gives off gas.", "Chapter 3", "Installation"),
        *("This section describes the options of the command.", "A short history of the lantern"),
    ],
)
def test_statement_and_heading_are_no_request(text: str) -> None:
    assert _value("no_request", text) == 1


def test_english_rules_say_nothing_of_other_languages() -> None:
    german = "Das Brot geht im Ofen auf, weil die Hefe Gas macht. Ich habe es selbst gesehen, und ich war sehr froh."
    for name in ("no_request", "first_person", "promotion"):
        reading = FAULTS[name](TextPair(german, german))
        assert reading.value is None
        assert "in de" in reading.why


@pytest.mark.parametrize(
    ("text", "verb", "thing"),
    [
        ("Write a short poem about the sea", "write", "poem"),
        ("Please list five birds of prey", "list", "five"),
        ("Given a sentence, correct its grammar", "correct", "grammar"),
        ("What is the capital of France?", "what", "capital"),
        ("How do I install the driver?", "how", "install"),
        ("Can you explain tides to me?", "explain", "tides"),
    ],
)
def test_verb_and_object_are_the_first_of_the_request(text: str, verb: str, thing: str) -> None:
    assert find_verb_object(text) == (verb, thing)


def test_statement_has_no_verb_and_object() -> None:
    assert find_verb_object("The rising of bread.") is None


# -- the response --------------------------------------------------------------------------------------------------------


def test_links_are_lines_that_are_mostly_addresses() -> None:
    listed = "Sources\n- [Bread](https://a.example/bread)\n- https://b.example/yeast\n* www.c.example/flour"
    assert _value("links", response=listed) == 0.75
    assert _value("links", response=f"{GOOD} See https://a.example for more.") == 0
    assert _value("links", response="- flour\n- yeast\n- water") == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("and gives off gas that the dough holds in.", 1),
        ("which is why it rises in the oven.", 1),
        (", so that it rises. Then it is baked.", 1),
        ("However, salt slows the yeast down.", 0.5),
        ("In addition, salt slows the yeast down.", 0.5),
        ("In addition to salt, sugar is used.", 0),
        ("Instead of yeast you may use soda.", 0),
        ("Andes are high mountains.", 0),
        ("iPhone is the name of a telephone.", 0),
        ("e.g. is short for exempli gratia.", 0),
        ("print(x) writes x to the screen and a newline", 0),
        ("class contextvars.ContextVar(name) declares a new variable", 0),
        ("- flour\n- yeast", 0),
        ("yes", 0),
        ("日本語の文です。", 0),
    ],
)
def test_mid_sentence_is_a_beginning_that_leans_on_what_was_before(text: str, value: float) -> None:
    assert _value("mid_sentence", response=text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"{GOOD} It is baked until the", 1),
        (f"{GOOD} It is baked with salt,", 1),
        (f"{GOOD} It is baked in an oven of stone", 0.5),
        (f"{GOOD} And it goes on and on…", 0.5),
        (GOOD, 0),
        (f"{GOOD} He said: “It is baked.”", 0),
        (f"{GOOD}\n\n- flour\n- yeast and a little bit of salt for taste", 0),
        (f"{GOOD}\n\n```\nbake --hot until the crust is brown and\n```", 0),
        (f"{GOOD}\n\n| bread | it is baked in an oven of the |", 0),
        ("the birds of prey are eagle and hawk and owl", 0),
        ("Paris", 0),
        ("It weighs 3 kg. The other one is of about the same weight, 3.5", 0.5),
    ],
)
def test_cut_end_is_an_end_that_needs_more(text: str, value: float) -> None:
    assert _value("cut_end", response=text) == value


def test_first_person_is_the_voice_of_a_blog() -> None:
    blog = "I baked my first loaf last week, and my kids loved it. I used rye. Thanks for reading this post on my blog!"
    assert _value("first_person", response=blog) == 1
    once = f"{GOOD} I think that is all. {GOOD} {GOOD}"
    assert 0 < _value("first_person", response=once) < 0.2
    assert _value("first_person", response=once, source="https://x.example/blog/1") > _value(
        "first_person", response=once
    )


@pytest.mark.parametrize(
    "text",
    [
        *("King Moshoeshoe I of Lesotho was a ruler of the south.", "It is built on the I/O of the operating system."),
        *(
            "The I chord is major, and the V chord leads back to it.",
            "He said “I am here and I will stay” and left the room.",
        ),
        *(
            "Click `my account` and then open my settings there.",
            "```\nI = 3; print(I and my)\n```\nThe code prints a number.",
        ),
    ],
)
def test_names_quotes_and_code_are_no_first_person(text: str) -> None:
    assert _value("first_person", response=text) == 0


def test_promotion_sells() -> None:
    advert = "Buy now and get free shipping! Our products come with a money-back guarantee. Contact us today for a special offer."
    assert _value("promotion", response=advert) > 0.8
    assert 0 < _value("promotion", response=f"{GOOD} Our team is here. Contact us.") < 0.4
    assert _value("promotion", response=f"{GOOD} The shop buys bread in the market, and offers it.") == 0


def test_navigation_gets_around_a_site() -> None:
    menu = "Home | About | Bread | Contact\n» News » Baking » Bread\nBack to top\n© 2021 All rights reserved"
    assert _value("navigation", response=menu) == 1
    assert 0 < _value("navigation", response=f"{GOOD}\nBack to top") < 0.2
    assert _value("navigation", response=GOOD, header="Bread > See also") == 1
    assert _value("navigation", response="| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\nThe table shows numbers.") == 0
    assert (
        _value("navigation", response="Click Log in, and read the privacy policy of your bank before you go on.") == 0
    )


# -- as a signal ---------------------------------------------------------------------------------------------------------


def test_text_is_a_signal_that_costs_no_request() -> None:
    engine = FakeEngine(fake_model(None))
    prompts = Prompts(engine.tokenizer, max_tokens=4096, instruction_tokens=128)
    raters = Raters(model=engine, backward=engine, prompts=prompts, min_label_mass=0.5)
    pairs = [InstructionResponse(PLAIN, GOOD), InstructionResponse("", "and so on until the", "Bread > Links")]
    good, bad = compute_signals(pairs, ["text"], raters)
    assert engine.totals.requests == SIGNALS["text"].calls == 0
    assert good.scores == {"text": 1.0, **{f"text_{name}": 0.0 for name in FAULTS}}
    assert (bad.scores["text"], bad.scores["text_empty"], bad.scores["text_navigation"]) == (0, 1, 1)
    assert "text_echo" not in bad.scores, "no value is no column, and not 0"
    assert bad.missing == {}
