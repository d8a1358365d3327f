"""Exact duplicates, seen through case, spacing and punctuation.

Memory: about 100 MB per million texts (a 16-byte digest as an object, and its place in the set), whatever their length.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["ExactDedup", "normalise"]

# Not \W: that also eats the vowel signs of Indic and Thai text, and makes different words equal.
_GAPS = re.compile(r"[\s!-/:-@\[-`{-~\xa0-\xbf\u2000-\u206f\u2500-\u257f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20]+")


def normalise(text: str) -> str:
    """Return the text casefolded, with runs of whitespace and punctuation as one space; punctuation alone stays."""
    plain = _GAPS.sub(" ", unicodedata.normalize("NFC", text).casefold()).strip()
    return plain or text.strip()


class ExactDedup:
    """Remembers which texts came by. The answer depends on the order of the texts: the first one stays."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def first(self, text: str) -> bool:
        """Return True when no equal text came before."""
        digest = hashlib.blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._seen:
            return False
        self._seen.add(digest)
        return True
