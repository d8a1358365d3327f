"""Hashes of a text's word n-grams, for near duplicates and decontamination. In: a text. Out: one uint64 per n-gram.

A word n-gram is a piece of the normalised text, from the start of one word to the end of the n-th. All pieces are hashed at once:
with H[i] the sum of t(b_j) B^j over the first i bytes, the hash of the piece from s to e is (H[e] - H[s]) / B^s modulo 2^64, for
an odd B; a last mixing spreads it over all bits. So the cost hangs on the text's length, not on n. Each of the 256 byte values
has a random 64-bit t, as sums of the byte values themselves would leave the low bits poor. The hash does not withstand someone
who makes up texts to collide: for that, whole texts have `dedup.text_digest`.

The hashes are the same on every machine and in every release, and may be stored.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from humpback.corpus.dedup import normalise_bytes

__all__ = ["Words", "find_words", "hash_ngrams", "mix", "word_ngrams", "words_between"]

UInts = NDArray[np.uint64]

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_SPACE = 0x20

# Chinese, Japanese, Thai, Lao, Tibetan, Burmese and Khmer set no spaces between words: each of their characters is a word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_SPACES = re.compile(" {2,}")
_FIRST_UNSPACED_BYTE = 0xE0  # no such character begins with a lower byte in UTF-8


def _byte_values() -> UInts:
    digests = b"".join(hashlib.sha256(b"humpback ngram byte %d" % byte).digest()[:8] for byte in range(256))
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


_VALUES = _byte_values()
_VALUES.setflags(write=False)


class _Powers:
    """B^i and B^-i for all i below `size`; grows to the longest text seen."""

    def __init__(self) -> None:
        self.up, self.down = self._grow(4096)

    def for_length(self, length: int) -> tuple[UInts, UInts]:
        if length > len(self.up):
            self.up, self.down = self._grow(1 << length.bit_length())
        return self.up, self.down

    @staticmethod
    def _grow(size: int) -> tuple[UInts, UInts]:
        factors = np.ones((2, size), dtype=np.uint64)
        factors[0, 1:], factors[1, 1:] = BASE, pow(BASE, -1, 1 << 64)
        np.cumprod(factors, axis=1, out=factors)
        return factors[0], factors[1]


_POWERS = _Powers()


class Words(NamedTuple):
    """A normalised text and where its words are, in bytes."""

    plain: bytes
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    sums: UInts
    """H, one longer than `plain`."""


def word_ngrams(text: str, n: int) -> UInts:
    """Return the hash of each word n-gram of the text, in order; a text of fewer than n words is one n-gram."""
    return hash_ngrams(find_words(normalise_bytes(text)), n)


def find_words(plain: bytes) -> Words:
    """Find the words of a normalised text; where a script sets no spaces, every character is one."""
    codes = np.frombuffer(plain, dtype=np.uint8)
    if len(codes) and codes.max() >= _FIRST_UNSPACED_BYTE:
        plain = _space_out(plain)
        codes = np.frombuffer(plain, dtype=np.uint8)
    gaps = np.flatnonzero(codes == _SPACE)
    starts, ends = np.empty(len(gaps) + 1, dtype=np.intp), np.empty(len(gaps) + 1, dtype=np.intp)
    starts[0], ends[-1] = 0, len(codes)
    np.add(gaps, 1, out=starts[1:])
    ends[:-1] = gaps
    sums = np.empty(len(codes) + 1, dtype=np.uint64)
    sums[0] = 0
    terms = _VALUES[codes]
    terms *= _POWERS.for_length(len(codes))[0][: len(codes)]
    np.cumsum(terms, out=sums[1:])
    return Words(plain, starts, ends, sums)


def hash_ngrams(words: Words, n: int) -> UInts:
    """Return the hash of each n-gram; n = 1 gives the words."""
    if n < 1:
        raise ValueError(f"n={n} is no number of words; give 1 or more")
    count = max(len(words.starts) - n + 1, 1)
    starts, ends = words.starts[:count], words.ends[-count:]
    hashes = words.sums[ends]
    hashes -= words.sums[starts]
    hashes *= _POWERS.down[starts]
    return mix(hashes)


def words_between(words: Words, first: int, count: int) -> str:
    """Return `count` words from the first on, as text."""
    last = min(first + count, len(words.starts)) - 1
    return words.plain[words.starts[first] : words.ends[last]].decode("utf-8", "surrogatepass")


def mix(values: UInts) -> UInts:
    """Spread each value over all 64 bits, in place (the finaliser of splitmix64: Steele, Lea and Flood 2014)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _space_out(plain: bytes) -> bytes:
    spaced = _UNSPACED.sub(lambda run: f" {' '.join(run[0])} ", plain.decode("utf-8", "surrogatepass"))
    return _SPACES.sub(" ", spaced).strip(" ").encode("utf-8", "surrogatepass")
