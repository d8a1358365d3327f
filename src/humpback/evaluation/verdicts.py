"""Verdicts: the score in a judge's reply, or why there is none. In: the reply and how it ended. Out: a `Verdict`.

A *statement* is a place where the reply states a score: "Score: 4", "[RESULT] 4", "\\\\boxed{4}", "I give it a 4 out of 5", or a last
line that is a number and nothing else. The last statement wins, and when it cannot be read (a range, "N/A") there is no verdict:
never a nearby number, never an earlier one. What only talks about scores ("a 5 would need", "Score 3: partly", "Score: 1-5") is
no statement. In doubt there is no verdict: the caller can ask again, but cannot see a wrong number.

Replies quote text from the web, which is hostile: every pattern is bounded, so the time is linear in the reply.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from humpback.evaluation.verdict_values import Reading, Scale, names_other_scale, plain, read_value

__all__ = ["Scale", "Verdict", "VerdictKind", "read_verdict"]

VerdictKind = Literal["parsed", "truncated", "unparsed", "out_of_range"]
FIVE_POINTS = Scale()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a reply says. Only a `parsed` one has a value."""

    value: float | None
    """On the scale asked for, its ends included; None unless `kind` is `parsed`."""
    kind: VerdictKind
    """`truncated`: the reply was cut before its verdict line was complete. `out_of_range`: a number beyond the scale or on
    another one (10, 8/10). `unparsed`: no statement, or a last one that is no single number."""
    line: str = ""
    """The line it was read from, at most 200 characters; empty when there is no statement."""
    span: tuple[int, int] | None = None
    """Where the statement stands in the reply, from its label to the end of its number; None when there is none."""


@dataclass(frozen=True, kw_only=True)
class _Statement:
    start: int
    reading: Reading
    own_line: bool
    """Nothing but a label stands before the number on its line."""


_LABEL = re.compile(
    r"(?<![^\W_])(?:(?P<score>scores?|ratings?)|(?P<other>grade|verdict|points|marks?|total|overall|assessment|evaluation|judge?ment)|"
    r"(?P<verb>give|rate|assign|award|deserves?|merits|earns|warrants|receives|gets))(?![^\W_])|"
    r"(?P<result>\[ ?result(?![^\W_]))|(?P<boxed>\\f?boxed ?\{)|(?P<brackets>\[\[)",
    re.IGNORECASE,
)
_LINE_START = re.compile(
    r"[\s*_`~\"'<>()\[\]{}|$#\\-]*(?:\d{1,2}[.)] ?)?"
    r"(?:(?:my|the|final|overall|total|therefore|thus|so|hence|in|conclusion|answer|and|points?|response|quality)?[\s*_\"',:]){0,16}",
    re.IGNORECASE,
)
_HYPOTHETICAL = re.compile(
    r"\b(?:if|when|why|how|whether|unless|suppose|were|could|cannot|not|never|needs?|needed|required?|requires|criteria|requirements?|prevents?|"
    r"short|below|above|less|lower|higher|than|instead|rather|between|would (?!give|rate|assign|award|say|score|be))\b|n't\b|"
    r"\bto +(?:a +)?$",
    re.IGNORECASE,
)
_FIRST_PERSON = re.compile(r"\b(?:i|we)(?:'d|'ll| would| will| must| have to| therefore| thus)? *$", re.IGNORECASE)
_ASSIGNING = re.compile(
    r"\b(?:gives?|assigns?|awards?|deserves?|merits?|earns?|warrants?|receives?|gets?|worth|is|be)(?: +(?:it|this|the|that|a|an|"
    r"response|text|answer|pair|final|overall|total|solid|clear|high|low|full|fair|of|to)){0,6} *[*_\"']*$",
    re.IGNORECASE,
)
_BE_A = re.compile(r"\b(?:is|be) +(?:a +)?[*_\"']{0,4}$", re.IGNORECASE)
_STATES = re.compile(r"\b(?:is|was|be|equals|stands at|comes to)\b", re.IGNORECASE)
_BARE_REST = re.compile(
    r"[\s*_`~\"'<>()\[\]{}|$#.!\\,]*(?:(?:stars?|points?|</[a-z]{1,10}>)[\s*_`~\"'<>()\[\]{}|$.!]*)?$", re.IGNORECASE
)
_MARKUP_ONLY = re.compile(r"[\s*_`~\"'<>()\[\]{}|$#=\\:-]*$")
_CUT_LABEL = re.compile(r"(?:score|rating|result)[^\w\n]{0,8}$", re.IGNORECASE)
_KINDS: Mapping[str, VerdictKind] = {"value": "parsed", "off_scale": "out_of_range", "unreadable": "unparsed"}
MOST_QUOTATIONS = 64
"""A reply whose last this many statements are all copied is a copy: to look further would take time without bound."""
MOST_LABELS = 2000
"""So many labels at a reply's end without one statement are no verdict; the time for hostile text stays below a second."""


def read_verdict(
    reply: str, *, finish: Literal["stop", "length"] = "stop", judged: str = "", scale: Scale = FIVE_POINTS
) -> Verdict:
    """Read the last verdict of a judge's reply.

    `finish="length"` says that the reply was cut: its last statement then counts only as a line of its own that is complete, since
    "Score: 3" may have become "Score: 3.5". `judged` is the text that was judged: a statement copied from there is passed over.
    """
    text = plain(reply)
    quotations = _Quotations(judged)
    last = next((s for s in _statements(text, scale) if not quotations.hold(text, s)), None)
    cut = finish == "length" and (last is None or not _complete(text, last))
    if last is None or cut:
        return Verdict(value=None, kind="truncated" if cut else "unparsed")
    reading = last.reading
    kind = _KINDS[reading.kind]
    begin, end = _line_bounds(reply, reading.start)
    return Verdict(
        value=reading.number if kind == "parsed" else None,
        kind=kind,
        line=reply[begin:end].strip()[:200],
        span=(last.start, reading.end),
    )


def _statements(text: str, scale: Scale) -> Iterator[_Statement]:
    """Yield the statements, last first."""
    bare = _bare_last_line(text, scale)
    if bare:
        yield bare
    for label in reversed(deque(_LABEL.finditer(text), maxlen=MOST_LABELS)):
        found = _stated_after(text, label, scale)
        if found:
            yield found


def _bare_last_line(text: str, scale: Scale) -> _Statement | None:
    """Return the last line when it is a number and nothing else, and no item of a numbered list."""
    begin = _line_bounds(text, len(text.rstrip()))[0]
    line = text[begin:].rstrip()
    if len(line) > 80 or _LABEL.search(line):
        return None
    reading = read_value(text, begin, scale)
    if not reading or not _MARKUP_ONLY.match(text[begin : reading.start]) or not _ends_line(text, reading.end):
        return None
    before = text[max(0, begin - 400) : begin].rstrip()
    if re.match(r" ?[.)]", text[reading.end :]) and re.match(
        r"[\s*]*\d+[.)]", before[_line_bounds(before, len(before))[0] :]
    ):
        return None
    return _Statement(start=reading.start, reading=reading, own_line=True)


def _stated_after(text: str, label: re.Match[str], scale: Scale) -> _Statement | None:
    """Return what is stated after a label, if anything is."""
    reading = read_value(text, label.end(), scale)
    if not reading:
        return None
    between = text[label.end() : reading.start]
    own_line = _starts_line(text, label.start())
    whole_line = _ends_line(text, reading.end)
    if "\n" in between and not whole_line:
        return None
    if not _states(text, label, between, reading, own_line=own_line, whole_line=whole_line):
        return None
    if reading.kind == "value" and "(" in between and names_other_scale(between, scale):
        reading = replace(reading, kind="off_scale")
    return _Statement(start=label.start(), reading=reading, own_line=own_line)


def _states(
    text: str, label: re.Match[str], between: str, reading: Reading, *, own_line: bool, whole_line: bool
) -> bool:
    """Say whether label and number are a statement, or only talk about scores."""
    left = re.split(r"[.!?;\n]", text[max(0, label.start() - 100) : label.start()])[-1]
    if label["boxed"] or label["result"]:
        return True
    if label["brackets"]:
        return text[reading.end : reading.end + 8].lstrip(" *").startswith("]")
    supposed = _HYPOTHETICAL.search(left) is not None
    if label["verb"]:
        return (own_line and ":" in between) or (not supposed and _verb_states(text, label, between, left, reading))
    if ":" in between or "=" in between or re.search(r"-(?=[\s*])", between):
        return own_line or (label["score"] is not None and (":" in between or "=" in between))
    if _STATES.search(between):
        return not supposed and (label["score"] is not None or label["other"].lower() in ("grade", "verdict"))
    if not label["score"]:
        return False
    if own_line and whole_line:
        return True
    if re.search(r"[|>\]]", between) and not re.search(r"[^\W\d_]{3}", re.sub(r"<[^<>]*>", "", between)):
        return True
    if supposed:
        return False
    return (
        reading.fraction
        or _BE_A.search(left) is not None
        or (re.search(r"\bof\b", between) is not None and _ASSIGNING.search(left) is not None)
        or _FIRST_PERSON.search(left) is not None
    )


def _verb_states(text: str, label: re.Match[str], between: str, left: str, reading: Reading) -> bool:
    """Say whether "I give it a 4" or "it deserves a 4" is the judge's own, and not of points, money or what would be."""
    if re.search(r"[$(]", between) or not between.strip(" *_`\"'"):
        return False
    if re.match(r"[\s*_]*(?:\w+ )?points?\b", text[reading.end : reading.end + 24], re.IGNORECASE):
        return False
    if label["verb"].lower() in ("give", "rate", "assign", "award"):
        return _FIRST_PERSON.search(left) is not None
    return reading.kind == "value" and not left.rstrip().lower().endswith("would")


def _starts_line(text: str, at: int) -> bool:
    begin = max(0, at - 120)
    before = text[begin:at]
    newline = max(before.rfind("\n"), before.rfind("\r"))
    if newline < 0 and begin:
        return False
    return _LINE_START.fullmatch(before[newline + 1 :]) is not None


def _ends_line(text: str, at: int) -> bool:
    return _BARE_REST.match(re.split(r"[\n\r]", text[at : at + 80], maxsplit=1)[0]) is not None


def _line_bounds(text: str, at: int) -> tuple[int, int]:
    begin = max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1
    ends = [place for mark in "\n\r" if (place := text.find(mark, at)) >= 0]
    return begin, min(ends, default=len(text))


def _complete(text: str, statement: _Statement) -> bool:
    """Say whether a reply that was cut had finished this statement's line, and was not at another one."""
    if _CUT_LABEL.search(text[-40:]):
        return False
    return statement.own_line and re.search(r"[\n\r]", text[statement.reading.end :]) is not None


class _Quotations:
    """Tells statements that the reply copied from the judged text from the judge's own."""

    def __init__(self, judged: str) -> None:
        self._judged = _letters(plain(judged))
        self._held = 0

    def hold(self, text: str, statement: _Statement) -> bool:
        """Say whether the statement is a quotation.

        It is when the judged text has it and it stands within a line of reasoning, in a block quotation, or between the same words
        as there. The same words on a line of their own are the judge's.
        """
        if not self._judged:
            return False
        if self._held >= MOST_QUOTATIONS:
            return True
        start, end = statement.start, statement.reading.end
        words = _letters(text[start:end])
        if words not in self._judged:
            return False
        before, after = _letters(text[max(0, start - 120) : start])[-24:], _letters(text[end : end + 120])[:24]
        begin = _line_bounds(text[max(0, start - 120) : start], start)[0] + max(0, start - 120)
        copied = (
            (not statement.own_line and len(words) >= 5)
            or text[begin:start].lstrip(" ").startswith(">")
            or (len(before) >= 12 and before + words in self._judged)
            or (len(after) >= 12 and words + after in self._judged)
        )
        self._held += copied
        return copied


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()
