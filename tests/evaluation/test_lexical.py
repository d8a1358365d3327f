"""Variety of words: known values by hand, and which way the figures go."""

from __future__ import annotations

import random

import pytest

from humpback.evaluation.lexical import distinct_share, mean_over_groups, nearest_likeness, self_bleu

WORDS = [f"word{n}" for n in range(300)]
VARIED = [" ".join(random.Random(n).sample(WORDS, 8)) for n in range(30)]
ALIKE = [f"Write a poem about {word} and nothing else" for word in WORDS[:30]]


def test_distinct_share_counts_different_n_grams_over_all() -> None:
    assert distinct_share(["a b a b", "A, b!"], 1) == pytest.approx(2 / 6)
    assert distinct_share(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert distinct_share(["a b"], 3) is None
    assert distinct_share(["", "?"], 2) is None


def test_self_bleu_is_higher_of_texts_that_are_alike() -> None:
    found = [self_bleu(texts, resamples=100, confidence=0.95, seed=1) for texts in (ALIKE, VARIED)]
    alike, varied = found
    assert alike is not None
    assert varied is not None
    assert alike.value > 0.5 > varied.value
    assert alike.low is not None


def test_self_bleu_of_equal_texts_is_one_and_of_one_text_none() -> None:
    found = self_bleu(["Name five rivers of Europe now"] * 3, resamples=100, confidence=0.95, seed=1)
    assert found is not None
    assert found.value == pytest.approx(1.0)
    assert found.low is None
    assert self_bleu(["one"], resamples=10, confidence=0.95, seed=1) is None


def test_nearest_likeness_finds_the_copy_and_not_the_text_itself() -> None:
    assert nearest_likeness([VARIED[3]], VARIED)[0] == 1
    assert nearest_likeness(VARIED, VARIED, same=True).max() < 0.5
    assert nearest_likeness([*VARIED, VARIED[0]], [*VARIED, VARIED[0]], same=True)[0] == 1


def test_mean_over_fewer_than_three_groups_has_no_interval() -> None:
    few, more = (mean_over_groups(values, 50, confidence=0.95) for values in ([0.4, 0.6], [0.4, 0.5, 0.6]))
    assert few is not None
    assert more is not None
    assert (few.value, few.low) == (0.5, None)
    assert more.low is not None
    assert more.low < 0.5
