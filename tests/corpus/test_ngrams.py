"""Word n-grams: equal hashes for equal runs of words, wherever they stand, and different ones for all others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.corpus.dedup import normalise, normalise_bytes
from humpback.corpus.ngrams import find_words, word_ngrams, words_between

HASHES = ["0x4a7caa33441aee71", "0x278dddfd25b09a38", "0x66a6380c4d453b2c", "0x70da5e6af3718778", "0x17b30d885b038de5"]
WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "river", "été", "straße", "дом"]), min_size=1, max_size=40)


def runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = normalise(text).split(" ")
    return [tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))]


@given(WORDS, st.integers(1, 7))
def test_two_places_have_one_hash_when_their_words_are_the_same(words: list[str], n: int) -> None:
    text = " ".join(words)
    hashes, expected = word_ngrams(text, n).tolist(), runs(text, n)
    assert len(hashes) == len(expected)
    assert len(set(zip(hashes, expected, strict=True))) == len(set(hashes)) == len(set(expected))


def test_a_run_of_words_has_one_hash_in_every_text() -> None:
    shared = "one two three four five"
    assert set(word_ngrams(f"Before it: {shared}, and after", 5)) & set(word_ngrams(shared.upper(), 5))


def test_hashes_never_change() -> None:
    assert [hex(value) for value in word_ngrams("One, two three. Été 中文", 2).tolist()] == HASHES


def test_different_ngrams_do_not_collide() -> None:
    draw = np.random.default_rng(0)
    text = " ".join(f"w{number}" for number in draw.integers(0, 5000, 200_000))
    assert len(set(word_ngrams(text, 3).tolist())) == len(set(runs(text, 3)))


def test_hashes_are_spread_over_all_bits() -> None:
    hashes = word_ngrams(" ".join(map(str, range(20_000))), 1)
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(20_000) + 0.002


@pytest.mark.parametrize("text", ["", " ", "one", "one two three four", "...", "中文"])
def test_a_text_of_few_words_is_one_ngram(text: str) -> None:
    assert len(word_ngrams(text, 5)) == 1


def test_short_texts_differ_when_their_words_do() -> None:
    texts = ["", "one", "one two", "two one", "...", "!!!", "中文", "文中"]
    assert len({int(word_ngrams(text, 5)[0]) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "text", ["今日は良い天気です", "中文没有空格", "ภาษาไทย", "ພາສາລາວ", "ភាសាខ្មែរ", "𠀀𠀁𠀂𠀃𠀄𠀅"]
)
def test_characters_of_scripts_without_spaces_are_words(text: str) -> None:
    assert len(word_ngrams(text, 1)) == len(text)


def test_a_line_break_within_chinese_text_changes_nothing() -> None:
    assert word_ngrams("中文没有\n空格", 3).tolist() == word_ngrams("中文没有空格", 3).tolist()


def test_korean_words_are_what_stands_between_spaces() -> None:
    assert len(word_ngrams("한국어 단어 사이", 1)) == 3


def test_mixed_scripts_keep_their_own_words() -> None:
    words = find_words(normalise_bytes("Python 3を使う"))
    assert words_between(words, 0, 9).split(" ") == ["python", "3", "を", "使", "う"]


def test_half_a_character_and_a_long_text_are_hashed_too() -> None:
    assert len(word_ngrams("a \ud800 b", 1)) == 3
    assert len(word_ngrams("word " * 50_000, 5)) == 49_996


def test_no_words_are_no_ngram() -> None:
    with pytest.raises(ValueError, match="n=0"):
        word_ngrams("text", 0)
