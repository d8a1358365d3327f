"""When two texts are one: equal through case, spacing and punctuation. In: a text. Out: its normal form, or that form's digest.

The finding itself, over a whole corpus, is in `neardup.py`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["normalise", "normalise_bytes", "text_digest"]

# Not \W: that also eats the vowel signs of Indic and Thai text, and makes different words equal.
_ASCII_GAPS = bytes(
    [*range(0x09, 0x0E), *range(0x1C, 0x30), *range(0x3A, 0x41), *range(0x5B, 0x61), *range(0x7B, 0x7F)]
)
_GAPS_TO_SPACES = bytes(0x20 if byte in _ASCII_GAPS else byte for byte in range(256))
_FOLD_ASCII = _GAPS_TO_SPACES.lower()
# The gaps beyond ASCII, in UTF-8: U+0085, U+00A0-00BF, U+1680, U+2000-206F, U+2500-257F, U+3000-303F, U+FF01-FF0F, U+FF1A-FF20.
# On bytes, what is not a gap costs a scan; on characters, every gap of the text costs a match.
_OTHER_GAPS = re.compile(
    rb"\xc2[\x85\xa0-\xbf]|\xe1\x9a\x80|\xe2(?:\x80[\x80-\xbf]|\x81[\x80-\xaf]|[\x94\x95][\x80-\xbf])"
    rb"|\xe3\x80[\x80-\xbf]|\xef\xbc[\x81-\x8f\x9a-\xa0]"
)


def normalise(text: str) -> str:
    """Return the text casefolded, with runs of whitespace and punctuation as one space; punctuation alone stays."""
    return normalise_bytes(text).decode("utf-8", "surrogatepass")


def normalise_bytes(text: str) -> bytes:
    """Return `normalise(text)` as UTF-8."""
    if text.isascii():
        plain = text.encode("ascii").translate(_FOLD_ASCII)
    else:
        folded = unicodedata.normalize("NFC", text).casefold().encode("utf-8", "surrogatepass")
        plain = _OTHER_GAPS.sub(b" ", folded.translate(_GAPS_TO_SPACES))
    return b" ".join(plain.split()) or text.strip().encode("utf-8", "surrogatepass")


def text_digest(plain: bytes) -> bytes:
    """Return 16 bytes that stand for a normalised text."""
    return hashlib.blake2b(plain, digest_size=16).digest()
