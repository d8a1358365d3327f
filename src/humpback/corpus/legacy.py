"""Which old encoding bytes are in that nobody states: guessed from what they would say, as browsers do it.

In: bytes that are no UTF-8. Out: a codec; windows-1252 where nothing speaks for another. A page is read in each encoding that its
bytes allow; one counts when the letters beyond ASCII are nearly all of its script, and the commonest of that script among them.
Of Latin encodings the language decides.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from humpback.corpus.language import find_language

__all__ = ["guess_codec"]

_SAMPLE = 8_000
_MIN_LETTERS = 8
"""Fewer bytes beyond ASCII say too little."""
_MIN_SCRIPT = 0.9
_MIN_EAST = 0.04
_MIN_WEST = 0.5
"""Share of the commonest characters: of thousands in the East, of some thirty elsewhere."""
_TAG = re.compile(rb"<(?:script|style)\b.*?</(?:script|style)\s*>|<[^>]*>|&#?\w{1,9};", re.DOTALL | re.IGNORECASE)
_LINE = re.compile(rb"[^\r\n\t]*[\x80-\xff][^\r\n\t]*")
_WORD = re.compile(r"[^\W\d_]+")


class _Script(NamedTuple):
    codec: str
    letters: str
    """Characters the text may be of."""
    common: str
    """Characters that come again and again."""


_HAN = "\u3000-\u303f\u4e00-\u9fff\uff00-\uff5e"
_CHINESE = "的一是不了在人有我他中大上到和你地出也得就那要下以生自之家可后年子"
_EAST = (
    _Script("euc_jp", f"{_HAN}\u3040-\u30ff", "\u3042-\u3093"),
    _Script("cp932", f"{_HAN}\u3040-\u30ff", "\u3042-\u3093"),
    _Script("cp949", "\uac00-\ud7a3\u3000-\u303f\u00b7", "이다의는에을를고가한지로은하"),
    _Script("gb18030", f"{_HAN}\u2014\u2018-\u201d\u2026", f"{_CHINESE}这来国个说们为时会过学对"),
    _Script("big5hkscs", f"{_HAN}\u2014\u2018-\u201d\u2026", f"{_CHINESE}這來國個說們為時會過學對"),
)
"""Hiragana is in every Japanese sentence, and bytes of another encoding hardly make it."""


_CYRILLIC = "оеаинтсрвлі"
_GREEK = "αοιετσνηυράόίέήύς"
_HEBREW = "יוהלאתרבמשנ"
_ARABIC = "اليمنرتوبةهعد"
_WEST = (
    *(_Script(codec, "\u0400-\u04ff", _CYRILLIC) for codec in ("cp1251", "koi8_u", "cp866", "iso8859_5")),
    *(_Script(codec, "\u0370-\u03ff", _GREEK) for codec in ("cp1253", "iso8859_7")),
    *(_Script(codec, "\u05d0-\u05ea", _HEBREW) for codec in ("cp1255", "iso8859_8")),
    *(_Script(codec, "\u060c-\u06ff", _ARABIC) for codec in ("cp1256", "iso8859_6")),
    _Script("cp874", "\u0e00-\u0e7f", "านรกอเงมยลวดทสตะ่้ิ"),
)
_CENTRAL = "pl cs sk hu sl hr ro sq bs".split()
_LATIN = {
    **dict.fromkeys(_CENTRAL, ("cp1250", "iso8859_2")),
    **dict.fromkeys(("lt", "lv"), ("cp1257", "iso8859_13")),
    "tr": ("cp1254", "cp1254"),
    "vi": ("cp1258", "cp1258"),
}


def guess_codec(data: bytes) -> str:
    """Return the codec of a page's bytes."""
    sample = _sample(data)
    if sum(byte > 0x7F for byte in sample) < _MIN_LETTERS:
        return "cp1252"
    for scripts, least in ((_EAST, _MIN_EAST), (_WEST, _MIN_WEST)):
        share, _, codec = max((_common(sample, one), -place, one.codec) for place, one in enumerate(scripts))
        if share >= least:
            return codec
    return _latin(sample)


def _sample(data: bytes) -> bytes:
    """Return lines of the page's text that hold bytes beyond ASCII."""
    found, size = [], 0
    for line in _LINE.findall(_TAG.sub(b"\n", data[: 50 * _SAMPLE])):
        found.append(line)
        size += len(line)
        if size > _SAMPLE:
            break
    return b"\n".join(found)


def _beyond(text: str) -> str:
    return "".join(char for char in text if char > "\x9f" and char != "\xa0")


def _common(sample: bytes, script: _Script) -> float:
    """Return the share of common characters where the bytes may be of this encoding, else 0."""
    text = sample.decode(script.codec, "replace")
    beyond = _beyond(text)
    if not beyond or len(re.findall(f"[{script.letters}]", beyond)) < _MIN_SCRIPT * len(beyond):
        return 0.0
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    odd = sum(map(_is_odd, words))
    share = len(re.findall(f"[{script.common}]", beyond.lower())) / len(beyond)
    return share * (1 - odd / len(words)) if words else 0.0


def _is_odd(word: str) -> bool:
    """Tell whether a word speaks against its encoding: it mixes alphabets, or its case changes inside it."""
    if any(map(str.isascii, word)):
        return True
    return word.lower() != word.upper() and not (word.isupper() or word[1:].islower() or len(word) == 1)


def _latin(sample: bytes) -> str:
    """Return the codec of a text in Latin letters by its language: of Windows where it has bytes that ISO 8859 has no letters for."""
    windows, iso = _LATIN.get(find_language(sample.decode("cp1252", "replace")).code, ("cp1252", "cp1252"))
    return windows if any(0x80 <= byte < 0xA0 for byte in sample) else iso
