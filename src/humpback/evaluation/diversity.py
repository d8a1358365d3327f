"""Spreading a selection out: not many of one source, no two instructions alike, and far from each other. In: candidates, best first.

Farthest-first over the MinHash of the instructions' words: the next one taken is the one least like those taken already, among
twice as many as are wanted, the best first. That is done in blocks, so that it takes linear time; between blocks
instructions that agree in a whole band are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from humpback.corpus.minhash import PERMUTATIONS, band_keys, equal_numbers, signature
from humpback.corpus.ngrams import word_ngrams

__all__ = ["Signatures", "choose_diverse", "sign_instruction"]

Signatures = NDArray[np.uint32]

POOL = 2
"""Candidates considered for each one wanted."""
BLOCK = 2000
"""Candidates among which the farthest is looked for."""


def sign_instruction(instruction: str) -> Signatures:
    """Return the MinHash of an instruction's words."""
    return signature(word_ngrams(instruction or " ", 1))


def choose_diverse(
    signatures: Sequence[Signatures], sources: Sequence[str], *, count: int, max_per_source: int, alike: float
) -> tuple[list[int], dict[int, tuple[str, str]]]:
    """Return the places taken, in order, and for others why they may not be, where that is not for lack of room."""
    taken: list[int] = []
    near: dict[int, tuple[str, str]] = {}
    per_source: Counter[str] = Counter()
    buckets: dict[int, int] = {}
    signs = np.stack(signatures) if signatures else np.zeros((0, PERMUTATIONS), dtype=np.uint32)
    keys = band_keys(signs)
    for start in range(0, len(signs), BLOCK):
        if len(taken) >= count:
            break
        block = np.arange(start, min(start + BLOCK, len(signs)))
        wanted = min(count - len(taken), -(-len(block) // POOL) if len(signs) > POOL * count else len(block))
        likeness = _likeness_before(block, signs, keys, buckets)
        free = np.ones(len(block), dtype=bool)
        found = 0
        while found < wanted and free.any():
            at = int(np.where(free, likeness, np.inf).argmin())  # of equals the first, which scores best
            place = int(block[at])
            free[at] = False
            if likeness[at] >= alike:
                near[place] = ("alike_instruction", f"its instruction is {likeness[at]:.2f} like one that is kept")
            elif per_source[sources[place]] >= max_per_source:
                near[place] = ("source_full", f"{max_per_source} pairs of its source are kept already")
            else:
                taken.append(place)
                found += 1
                per_source[sources[place]] += 1
                buckets.update((int(key), place) for key in keys[place])
                likeness = np.maximum(likeness, equal_numbers(signs[block], signs[place]) / PERMUTATIONS)
    return taken, near


def _likeness_before(
    block: NDArray[np.int64], signs: Signatures, keys: NDArray[np.uint64], buckets: dict[int, int]
) -> NDArray[np.float64]:
    """Return how like each of the block is to what earlier blocks took, as far as a band tells."""
    likeness = np.zeros(len(block))
    for at, place in enumerate(block):
        others = {buckets[int(key)] for key in keys[place] if int(key) in buckets}
        if others:
            likeness[at] = equal_numbers(signs[list(others)], signs[place]).max() / PERMUTATIONS
    return likeness
