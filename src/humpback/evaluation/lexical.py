"""How varied instructions are in their words: distinct n-grams, self-BLEU, and likeness to the nearest of a reference. In: texts.

All three depend on how many texts there are, so sets are compared at equal numbers of them (`describing.py` takes equally many).
Distinct-n is Li et al.'s (2016): different n-grams over all n-grams. Self-BLEU is Zhu et al.'s (Texygen, 2018): the mean BLEU of a
text with all others as its references, by sacreBLEU; lower is more varied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from humpback.corpus.dedup import normalise_bytes
from humpback.corpus.minhash import PERMUTATIONS, equal_numbers
from humpback.corpus.ngrams import find_words, hash_ngrams
from humpback.evaluation.diversity import sign_instruction
from humpback.evaluation.stats import MIN_PAIRS, Interval, bootstrap_ratio

__all__ = ["distinct_share", "mean_over_groups", "nearest_likeness", "self_bleu"]

BLEU_CHARS = 2000
"""Of each text that self-BLEU compares."""
BLOCK = 64
"""Texts that are compared with a reference at a time."""


def distinct_share(texts: Sequence[str], n: int) -> float | None:
    """Return the share of different n-grams among all word n-grams of the texts; None when no text has n words."""
    grams = []
    for text in texts:
        words = find_words(normalise_bytes(text))
        if words.plain and len(words.starts) >= n:
            grams.append(hash_ngrams(words, n))
    if not grams:
        return None
    every = np.concatenate(grams)
    return len(np.unique(every)) / len(every)


def self_bleu(texts: Sequence[str], *, resamples: int, confidence: float, seed: int) -> Interval | None:
    """Return the mean BLEU (0 to 1, up to 4-grams) of each text against all others; its interval is over texts, references fixed.

    None below two texts.
    """
    from sacrebleu.metrics.bleu import BLEU

    if len(texts) < 2:
        return None
    plain = [text[:BLEU_CHARS].lower() for text in texts]
    bleu = BLEU(effective_order=True)  # a text of two words has no 4-gram to be judged by
    scores = [
        bleu.sentence_score(text, [*plain[:place], *plain[place + 1 :]]).score / 100 for place, text in enumerate(plain)
    ]
    return bootstrap_ratio(scores, [1] * len(scores), resamples=resamples, confidence=confidence, seed=seed)


def nearest_likeness(texts: Sequence[str], references: Sequence[str], *, same: bool = False) -> NDArray[np.float64]:
    """Return how alike each text's words are to those of the reference most like it: Jaccard similarity, estimated by MinHash.

    `same` says that the references are the texts themselves, and a text is not compared with itself.
    """
    known = np.stack([sign_instruction(text) for text in references])
    signs = known if same else np.stack([sign_instruction(text) for text in texts])
    best = np.zeros(len(signs))
    for start in range(0, len(signs), BLOCK):
        equal = equal_numbers(signs[start : start + BLOCK, None, :], known[None, :, :])
        if same:
            own = np.arange(len(equal))
            equal[own, start + own] = 0
        best[start : start + BLOCK] = equal.max(axis=1) / PERMUTATIONS
    return best


def mean_over_groups(values: Sequence[float], n: int, *, confidence: float) -> Interval | None:
    """Return the mean of a figure over disjoint groups of n texts, with Student's interval; below three groups there is none."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < 3 or n < MIN_PAIRS:
        return Interval(value=mean, low=None, high=None, n=n)
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), n=n)
