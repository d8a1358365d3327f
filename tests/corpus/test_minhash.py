"""MinHash: estimates are as near the truth as theory says, and bands find what they should."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from humpback.corpus.minhash import BANDS, NGRAM, PERMUTATIONS, ROWS, band_keys, equal_numbers, signature
from humpback.corpus.ngrams import word_ngrams

SIGNATURE = "b9808e78df3a8faf"


def overlapping(draw: np.random.Generator, size: int, similarity: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return two sets of hashes and their Jaccard similarity."""
    shared = round(2 * size * similarity / (1 + similarity))
    every = draw.integers(0, 2**64, 2 * size - shared, dtype=np.uint64)
    return every[:size], every[len(every) - size :], shared / len(every)


@pytest.mark.parametrize("similarity", [0.0, 0.3, 0.75, 0.95, 1.0])
def test_estimates_have_no_bias_and_the_error_of_112_draws(similarity: float) -> None:
    draw, errors = np.random.default_rng(1), []
    for _ in range(300):
        one, other, truth = overlapping(draw, 250, similarity)
        errors.append(int(equal_numbers(signature(one), signature(other))) / PERMUTATIONS - truth)
    sigma = np.sqrt(similarity * (1 - similarity) / PERMUTATIONS)
    assert abs(np.mean(errors)) <= 4 * sigma / np.sqrt(300)
    assert np.std(errors) <= 1.25 * sigma
    assert np.max(np.abs(errors)) <= 4.5 * sigma


def test_estimate_of_real_texts_is_within_four_standard_errors() -> None:
    draw = random.Random(0)
    for _ in range(100):
        words = [draw.choice("abcdefghij") * draw.randint(1, 9) for _ in range(300)]
        other = [word if draw.random() > 0.03 else "new" for word in words]
        one_set, other_set = (word_ngrams(" ".join(text), NGRAM) for text in (words, other))
        shared, union = np.intersect1d(one_set, other_set), np.union1d(one_set, other_set)
        truth = len(shared) / len(union)
        estimate = int(equal_numbers(signature(one_set), signature(other_set))) / PERMUTATIONS
        assert abs(estimate - truth) <= 4 * np.sqrt(truth * (1 - truth) / PERMUTATIONS) + 1e-9


@pytest.mark.parametrize("similarity", [0.5, 0.75, 0.9])
def test_pairs_share_a_band_as_often_as_the_curve_says(similarity: float) -> None:
    draw, found = np.random.default_rng(2), 0
    for _ in range(400):
        one, other, _ = overlapping(draw, 250, similarity)
        one_keys, other_keys = band_keys(np.stack([signature(one), signature(other)]))
        found += bool((one_keys == other_keys).any())
    expected = 1 - (1 - similarity**ROWS) ** BANDS
    assert abs(found / 400 - expected) <= 4 * np.sqrt(expected * (1 - expected) / 400) + 0.01


def test_order_and_repetition_of_ngrams_do_not_count() -> None:
    hashes = word_ngrams("one two three four five six seven eight nine ten", NGRAM)
    assert signature(np.concatenate([hashes[::-1], hashes])).tolist() == signature(hashes).tolist()


def test_long_texts_are_worked_in_pieces_with_the_same_result() -> None:
    hashes = np.random.default_rng(3).integers(0, 2**64, 9_000, dtype=np.uint64)
    parts = np.stack([signature(part) for part in np.array_split(hashes, 9)])
    assert signature(hashes).tolist() == parts.min(axis=0).tolist()


def test_band_keys_are_equal_exactly_where_bands_are() -> None:
    one = signature(word_ngrams("some text of a few more words than five", NGRAM))
    other = one.copy()
    other[3 * ROWS + 7] ^= 1
    one_keys, other_keys = band_keys(np.stack([one, other]))
    assert np.flatnonzero(one_keys != other_keys).tolist() == [3]


def test_signatures_never_change() -> None:
    found = signature(word_ngrams("A text whose signature may be stored for years.", NGRAM))
    assert found.dtype == np.uint32
    assert found.shape == (PERMUTATIONS,)
    assert hashlib.sha256(found.astype("<u4").tobytes()).hexdigest()[:16] == SIGNATURE
