"""Numbers as judges write them: what stands at a place of a reply, on which scale, and what follows it.

In: a text in plain characters (`plain`) and a place where a score may stand. Out: a `Reading`, or None when no number is stated
there. Kept apart from `verdicts.py`, which knows where a reply states a score; here is only how the number is written.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

__all__ = ["NOISE", "NUMBER", "Reading", "Scale", "names_other_scale", "plain", "read_value"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The scores a judge was asked for, both ends included; halves and other fractions between them count."""

    low: float = 1
    high: float = 5


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A number stated at some place."""

    kind: Literal["value", "off_scale", "unreadable"]
    """`off_scale`: a number below or above the scale, or on another one (8/10, 80 %). `unreadable`: a range, a list, N/A."""
    start: int
    end: int
    number: float | None = None
    fraction: bool = False
    """Written with the scale's own end: 4/5, four out of five."""


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORD = "|".join(WORDS)
NOISE = r"(?:</?[a-z]{1,10} ?/?>|\\(?:text|textbf|mathbf|mathrm|bf|large) ?\{|[\s*_`~\"'<>()\[\]{}|$#]){0,64}+"
"""Markup, quotes, brackets and space that may stand between a label and its number."""
NUMBER = rf"(?:[+-]?(?:\d++(?:\.\d++)?+|\.\d++)|(?:{_WORD})(?: point (?:{_WORD})| and a half)?(?![^\W_]))"

_INLINE = NOISE.replace(r"\s", r" \t")
_GAP = r"[ *_`~\"']{0,16}+"
_NUMBER = re.compile(NUMBER, re.IGNORECASE)
_BETWEEN = re.compile(
    r"(?:</?[a-z]{1,10} ?/?>|[\s*_`~\"'<>\[\]{}|$#,:=]|\([^()\n]{0,60}\)(?=[\s*_`\"'\]>|]{0,8}[:=-])|\(|-+>?(?=[\s*])|"
    r"\\(?:text|textbf|mathbf|mathrm|bf|large) ?\{|"
    r"(?:a|an|the|it|its|i|i'd|i'll|we|would|will|should|must|give|given|assign|assigned|award|awarded|say|rate|is|was|be|equals|"
    r"stands|comes|about|around|approximately|roughly|only|just|solid|strong|clear|clearly|definitely|therefore|thus|full|perfect|"
    r"fair|generous|low|high|of|for|in|my|view|opinion|score|rating|grade|at|as|to|with|this|that|response|reply|text|answer|pair|"
    r"instruction|and|overall|final|deserves?|points?|awarded)(?![^\W_])){0,48}+",
    re.IGNORECASE,
)
"""What may stand between a label and its number: markup, filler words, a remark about the scale, a colon."""
_REFUSAL = re.compile(
    r"n ?/ ?a\b|n\.a\.|none\b|null\b|nan\b|not (?:applicable|available|possible|enough|sure|rated|scored)|unknown|undefined|undecided|"
    r"unclear|unable|cannot|can't|can not|invalid|tbd\b|\?|(?:somewhere |anywhere )?between\b|(?:less|more|fewer|lower|higher) than\b",
    re.IGNORECASE,
)
_FRACTION = re.compile(
    rf"{_INLINE}(?:(?P<of>of)|/|out of(?: the| a)?(?: possible| maximum| total)?(?: of)?){_INLINE}(?P<whole>{NUMBER})",
    re.IGNORECASE,
)
_LATEX = re.compile(rf"\\[dt]?frac ?\{{ ?(?P<num>{NUMBER}) ?\}} ?\{{ ?(?P<whole>{NUMBER}) ?\}}", re.IGNORECASE)
_SUM = re.compile(rf"(?: *\+ *{NUMBER}){{1,12}} *= *{_INLINE}(?P<num>{NUMBER})", re.IGNORECASE)
_RANGE = re.compile(rf"{_INLINE}(?P<how>-+>?|=+>|to\b|or\b){_INLINE}(?P<num>{NUMBER})", re.IGNORECASE)
_LIST = re.compile(rf"[^\W_]|\.\d|-[^\W\d_]|{_GAP}(?:,|;|&|and\b)?{_GAP}[+-]?\d|{_GAP}[+/]", re.IGNORECASE)
_PERCENT = re.compile(rf"{_INLINE}(?:%|percent\b)", re.IGNORECASE)
_OTHER_SCALE = re.compile(
    rf"(?:scale (?:of|from) |out of |/ ?|max(?:imum)?(?: of)? )(?:{NUMBER} ?(?:-+|to) ?)?(?P<high>{NUMBER})\b|"
    rf"{NUMBER} ?(?:-+|to) ?(?P<end>{NUMBER})\b",
    re.IGNORECASE,
)
_LEGEND = re.compile(
    rf"{_INLINE}(?::{_INLINE}\w|=|(?:would|could|might|should|requires?|needs?|if|unless|had|means|indicates?|represents?|describes?|is|"
    r"was|being|of|and above|or (?:above|higher|more|better|below|lower|less|worse))\b)",
    re.IGNORECASE,
)
_END = re.compile(
    rf"{_INLINE}(?:$|[^\w\s]|[A-Z]|(?i:because|since|as|due|for|with|on|given|stars?|points?|overall|in|here|but|at|though|although|"
    rf"from|so|while|thanks|to (?:this|the|it))\b)|{_GAP}[(\[<]"
)


def plain(text: str) -> str:
    """Return the text with characters that look alike made equal, one for one, so that places stay the same.

    Decimal digits of any script count (full-width, Arabic-Indic, Devanagari ...); circled and superscript ones do not: a
    superscript may be a footnote.
    """
    return text if text.isascii() else text.translate(_ALIKE)


_LOOKS = {
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63",
    '"': "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u300c\u300d\u300e\u300f",
    "'": "\u2018\u2019\u201a\u201b\u2032",
    "[": "\u3010\u3014",
    "]": "\u3011\u3015",
    ">": "\u2192\u21d2\u2794\u279c",
    "/": "\u2044\u2215\u00f7",
    " ": "\u2022\u00b7",
    "~": "\u2248",
    ".": "\u3002",
    "\n": "\u2028\u2029\x85",
}
"""What is read as the same: dashes, quotes, brackets, arrows, slashes, bullets, line ends."""


class _Alike(dict[int, str]):
    """What each character is read as, looked up when it is first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        digit = unicodedata.decimal(char, None)
        if digit is not None:
            char = str(digit)
        elif unicodedata.category(char) in ("Zs", "Cf"):  # spaces of all widths, also none
            char = " "
        elif 0xFF00 < code < 0xFFEF and len(folded := unicodedata.normalize("NFKC", char)) == 1:  # full width
            char = folded
        self[code] = char
        return char


_ALIKE = _Alike({ord(other): char for char, others in _LOOKS.items() for other in others})


def read_value(text: str, at: int, scale: Scale) -> Reading | None:
    """Read the number stated at `at`, after markup and filler words; None when there is none, or only talk about scores."""
    begin = _BETWEEN.match(text, at)
    start = begin.end() if begin else at
    refusal = _REFUSAL.match(text, start)
    if refusal:
        return Reading(kind="unreadable", start=start, end=refusal.end())
    latex = _LATEX.match(text, start)
    found = latex or _NUMBER.match(text, start)
    if not found:
        return None
    number = _to_number(found["num"] if latex else found.group())
    whole = _to_number(found["whole"]) if latex else None
    return _read_tail(text, start, found.end(), number, whole, scale)


def _read_tail(text: str, start: int, end: int, number: float, whole: float | None, scale: Scale) -> Reading | None:
    """Judge the number by what follows it on its line."""
    tail = _rest_of_line(text, end)
    total = _SUM.match(tail)
    if total:
        number, end = _to_number(total["num"]), end + total.end()
        tail = _rest_of_line(text, end)
    share = _FRACTION.match(tail)
    if share and whole is None and not (share["of"] and _to_number(share["whole"]) != scale.high):
        whole, end = _to_number(share["whole"]), end + share.end()
        tail = _rest_of_line(text, end)
    span = _RANGE.match(tail)
    if span and whole is None and span["how"] != "or" and (number, _to_number(span["num"])) == (scale.low, scale.high):
        return None  # the scale restated
    if span or _LIST.match(tail):
        return Reading(kind="unreadable", start=start, end=end)
    if _PERCENT.match(tail):
        return Reading(kind="off_scale", start=start, end=end, number=number)
    if _LEGEND.match(tail) or not _END.match(tail):
        return None
    other = names_other_scale(tail, scale) if "scale" in tail.lower() else False
    fits = scale.low <= number <= scale.high and whole in (None, scale.high) and not other
    kind: Literal["value", "off_scale"] = "value" if fits else "off_scale"
    return Reading(kind=kind, start=start, end=end, number=number, fraction=whole == scale.high)


def names_other_scale(text: str, scale: Scale) -> bool:
    """Say whether a remark such as "(1-10)" or "on a scale of 1 to 10" names another scale than ours."""
    found = _OTHER_SCALE.search(text)
    return found is not None and _to_number(found["high"] or found["end"]) != scale.high


def _rest_of_line(text: str, at: int) -> str:
    rest = text[at : at + 160]
    return re.split(r"[\n\r]", rest, maxsplit=1)[0]


def _to_number(text: str) -> float:
    """Return a number written in digits or words; one of more digits than any scale has is infinite."""
    words = text.lower().split()
    if words[0] in WORDS:
        value = float(WORDS.index(words[0]))
        if words[1:2] == ["point"]:
            return value + WORDS.index(words[2]) / 10
        return value + 0.5 if len(words) > 1 else value
    return float(text) if len(text) <= 18 else float("inf")
