from __future__ import annotations

import pytest

from humpback.corpus.dedup import ExactDedup


def test_only_the_first_of_equal_texts_is_first() -> None:
    dedup = ExactDedup()
    assert [dedup.first(text) for text in ("One text.", "Another text.", "One text.")] == [True, True, False]


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
    dedup = ExactDedup()
    assert dedup.first("The café today.")
    assert not dedup.first(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("कि", "का"), ("น้ำ", "นำ"), ("***", "---"), ("", "—"), ("therapist", "the rapist"), ("1.5", "15")],
)
def test_different_texts_stay_different(one: str, other: str) -> None:
    dedup = ExactDedup()
    assert dedup.first(one)
    assert dedup.first(other)
