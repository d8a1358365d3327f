"""MinHash: how alike two texts are, from 112 numbers of each. In: texts. Out: signatures, their bands, and estimates.

Two texts agree in one number with the probability of their Jaccard similarity s, that of their sets of word 5-grams; so the share
of equal numbers estimates s, with a standard error of at most 0.047. The numbers are cut into 14 bands of 8 (datatrove's and
FineWeb's parameters): texts that agree in a whole band are compared. That happens with the probability 1 - (1 - s^8)^14:

    s      0.5    0.6    0.7    0.75   0.8    0.85   0.9    0.95
    found  0.053  0.211  0.565  0.772  0.924  0.988  0.9996 1.000

A threshold far below 0.7 therefore finds few of the pairs it means.

The permutations are x -> a x + b modulo 2^32 with odd a, on the high half of the n-gram's hash: universal hashing as in Dietzfelbinger
et al. 1997, in 32 bits because processors multiply and compare eight such numbers at once. The constants come from SHA-256 and never
change, so signatures are the same on every machine and in every release, and may be stored.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from humpback.corpus.ngrams import UInts, mix

__all__ = ["BANDS", "NGRAM", "PERMUTATIONS", "ROWS", "band_keys", "equal_numbers", "signature"]

NGRAM = 5
BANDS, ROWS = 14, 8
PERMUTATIONS = BANDS * ROWS
CHUNK = 2048
"""N-grams hashed at a time; 112 x 2,048 numbers of 4 bytes stay in a core's cache."""

Signatures = NDArray[np.uint32]


def _constants(name: str, count: int) -> UInts:
    digests = b"".join(hashlib.sha256(f"humpback minhash {name} {n}".encode()).digest()[:8] for n in range(count))
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


_FACTORS = (_constants("factor", PERMUTATIONS) >> np.uint64(32)).astype(np.uint32)[:, None] | np.uint32(1)
_SHIFTS = (_constants("shift", PERMUTATIONS) >> np.uint64(32)).astype(np.uint32)[:, None]
_BAND_FACTORS = _constants("band", ROWS) | np.uint64(1)


def signature(ngrams: UInts) -> Signatures:
    """Return the 112 numbers of a text from the hashes of its n-grams, of which there is at least one."""
    values = (ngrams >> np.uint64(32)).astype(np.uint32)
    least = _least(values[:CHUNK])
    for start in range(CHUNK, len(values), CHUNK):
        np.minimum(least, _least(values[start : start + CHUNK]), out=least)
    return least


def _least(values: Signatures) -> Signatures:
    permuted = _FACTORS * values
    permuted += _SHIFTS
    least: Signatures = permuted.min(axis=1)
    return least


def band_keys(signatures: Signatures) -> UInts:
    """Return uint64[n, 14] for uint32[n, 112]: equal where a whole band is (but for one pair in 2^64)."""
    keys = np.zeros((len(signatures), BANDS), dtype=np.uint64)
    bands = signatures.reshape(-1, BANDS, ROWS)
    for row in range(ROWS):
        keys += bands[:, :, row]
        mix(keys)
        keys *= _BAND_FACTORS[row]
    return keys


def equal_numbers(one: Signatures, other: Signatures) -> NDArray[np.int64]:
    """Return in how many of the 112 numbers the rows of two arrays of signatures agree; a 112th of it estimates Jaccard."""
    equal: NDArray[np.int64] = np.count_nonzero(one == other, axis=-1)
    return equal
