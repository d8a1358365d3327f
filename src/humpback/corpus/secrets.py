"""Keys and passwords in a text, by the prefixes their issuers publish, by PEM frames, and by what is assigned to their name.

A text comes in, spans go out. Samples that call themselves one ("EXAMPLE", "your-api-key", "xxxx") are kept: a how-to needs
them. A value assigned to `api_key`, `secret`, `token` or `password` counts when it is long and looks random.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

__all__ = ["Key", "find_keys"]

_PREFIXED = {
    "AKIA": r"AKIA[A-Z0-9]{16}",
    "ASIA": r"ASIA[A-Z0-9]{16}",
    "AIza": r"AIza[\w-]{35}",
    "SG.": r"SG\.[\w-]{16,64}\.[\w-]{16,64}",
    "eyJ": r"eyJ[\w-]{10,4096}\.eyJ[\w-]{10,4096}\.[\w-]{10,4096}",
    "sk-": r"sk-[\w-]{20,255}",
    "xox": r"xox[abeprs]-[A-Za-z0-9-]{10,255}",
    "glpat-": r"glpat-[\w-]{20,255}",
    "pypi-": r"pypi-[\w-]{50,255}",
}
_UNDERLINED = {
    **{f"gh{kind}_": rf"gh{kind}_[A-Za-z0-9]{{36,255}}" for kind in "pousr"},
    "github_pat_": r"github_pat_\w{50,255}",
    "sk_live_": r"sk_live_\w{20,255}",
    "rk_live_": r"rk_live_\w{20,255}",
    "hf_": r"hf_[A-Za-z0-9]{30,255}",
    "npm_": r"npm_[A-Za-z0-9]{36}",
}
"""Apart from the others because most texts have no underscore at all."""


def _compiled(patterns: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    return {prefix: re.compile(rf"(?<![\w-]){pattern}(?![\w-])") for prefix, pattern in patterns.items()}


_PATTERNS = _compiled(_PREFIXED)
_ALL_PATTERNS = _PATTERNS | _compiled(_UNDERLINED)
_PEM_BEGIN = re.compile(r"-----BEGIN (?:[A-Z]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END (?:[A-Z]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(r"[A-Za-z0-9+/=\s:,-]{0,8000}")
_NAME = re.compile(
    r"(?:(?:api|access|secret|private|auth)[_ -]?key|secret|token|passw(?:or)?d)[\"']?[ \t]{0,4}$", re.IGNORECASE
)
_NAME_LENGTH = 32
_VALUE = re.compile(
    r"[:=](?<![:=][:=])(?!//)>?[ \t]{0,4}"
    r"(?:\"(?P<double>[^\s\"]{16,255})\"|'(?P<single>[^\s']{16,255})'|(?P<bare>[\w+/=.~!@#%^&*-]{16,255})(?=[\s,;]|\Z))"
)
"""A long value that is assigned; then the name before it is looked at, since values are rarer than names."""
_SAMPLE = re.compile(r"example|sample|your|xxxx|placeholder|changeme|dummy|1234567|abcdef|\.\.\.", re.IGNORECASE)
_MIN_BITS = 3.5
"""Entropy per character from which 16 characters or more look drawn, not written; English identifiers are lower."""


class Key(NamedTuple):
    """Where a key stands."""

    start: int
    end: int


def find_keys(text: str) -> Iterator[Key]:
    """Yield keys of known shape, private keys in PEM frames, and random-looking values assigned to a secret's name."""
    for prefix, pattern in (_ALL_PATTERNS if "_" in text else _PATTERNS).items():
        if prefix in text:
            for match in pattern.finditer(text):
                if _looks_drawn(match[0], bits=2.5):
                    yield Key(match.start(), match.end())
    if "PRIVATE KEY" in text:
        yield from _pem(text)
    for value in _VALUE.finditer(text):
        name = _NAME.search(text[max(0, value.start() - _NAME_LENGTH) : value.start()])
        if name and value.lastgroup and _looks_drawn(value[value.lastgroup], bits=_MIN_BITS):
            yield Key(*value.span(value.lastgroup))


def _pem(text: str) -> Iterator[Key]:
    for begin in _PEM_BEGIN.finditer(text):
        body = _PEM_BODY.match(text, begin.end())
        end = body.end() if body else begin.end()
        frame = _PEM_END.search(text, begin.end(), end + 60)
        if len(text[begin.end() : frame.start() if frame else end].strip(" \n-.")) >= 40:
            yield Key(begin.start(), frame.end() if frame else end)


def _looks_drawn(value: str, *, bits: float) -> bool:
    if _SAMPLE.search(value) or not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)):
        return False
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts) >= bits
