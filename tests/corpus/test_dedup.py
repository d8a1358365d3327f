"""Normal forms: what makes two texts one, and what does not."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.corpus.dedup import normalise, normalise_bytes, text_digest

GAPS = re.compile(r"[\s!-/:-@\[-`{-~\xa0-\xbf\u2000-\u206f\u2500-\u257f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20]+")


def slowly(text: str) -> str:
    """Return the normal form as its definition has it, one expression over characters."""
    return GAPS.sub(" ", unicodedata.normalize("NFC", text).casefold()).strip() or text.strip()


@pytest.mark.parametrize(
    "other",
    [
        "THE CAFÉ, TODAY",
        "the\n\ncafé   today!",
        "“The café” — today…",
        "**The** cafe\u0301 `today`",
        "the\xa0café_today",
    ],
)
def test_case_spacing_and_punctuation_do_not_make_a_text_new(other: str) -> None:
    assert normalise(other) == normalise("The café today.")


@pytest.mark.parametrize(
    ("one", "other"),
    [("कि", "का"), ("น้ำ", "นำ"), ("***", "---"), ("", "—"), ("therapist", "the rapist"), ("1.5", "15")],
)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)
    assert text_digest(normalise_bytes(one)) != text_digest(normalise_bytes(other))


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("aZ .-–\t\x1c\x85\xa0´\u1680‧╬　！：０é\ud800"))))
def test_the_quick_way_gives_the_form_that_is_defined(text: str) -> None:
    assert normalise(text) == slowly(text)


def test_every_character_is_a_gap_or_none_as_defined() -> None:
    odd = [code for code in range(0x11000) if normalise(f"x{chr(code)}y") != slowly(f"x{chr(code)}y")]
    assert odd == []
