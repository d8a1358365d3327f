"""What an English instruction asks for, told by rule: whether it is a request, and its verb and object. Offline, no parser.

The verb is the first word of the `VERBS` list that stands where an order stands (at the beginning, or after "please", "can you"
and the like), else the question word. The object is the first word after it that is no function word and no common adjective.
That is coarser than a parse (Self-Instruct, arXiv 2212.10560, parses with Benepar): good for counting how varied a set is, not
for knowing what one instruction means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["QUESTIONS", "VERBS", "VerbObject", "find_verb_object", "is_request", "share_distinct"]

VERBS = frozenset(
    """
add advise analyse analyze answer apply argue arrange ask assess assign assume brainstorm build calculate categorise categorize
change check choose cite clarify classify combine come compare compile complete compose compute conclude consider construct
contrast convert copy correct count create critique debate decide deduce define demonstrate derive describe design detail determine
develop devise differentiate discuss distinguish divide draft draw edit elaborate enumerate estimate evaluate examine expand
explain explore express extract figure fill find fix follow format formulate gather generate get give group guess help highlight
identify illustrate imagine implement improve include indicate infer inform install interpret introduce invent jot justify keep
label learn let list locate look make map match mention modify name narrate note offer order organise organize outline paraphrase
perform pick plan predict prepare present pretend prioritise prioritize produce prompt proofread propose prove provide pull rank
rate read reason recall recite recommend rearrange refer remove rename reorder replace report rephrase research respond restate
retrieve return review revise rewrite say script search segregate select separate set share shorten show simplify simulate sketch
solve sort specify split start state suggest summarise summarize suppose support talk teach tell think trace transform translate
turn understand use verify walk write
""".split()
)
"""Verbs that instructions to an assistant begin with."""
QUESTIONS = frozenset("what what's whats who who's whom whose which why how how's when where where's whether".split())
_AUXILIARIES = frozenset(
    "is are was were am do does did can could will would shall should may might must has have had isn't aren't wasn't don't "
    "doesn't didn't can't couldn't won't wouldn't shouldn't hasn't haven't".split()
)
_LEAD_IN = frozenset(
    "please kindly just now then so also first next briefly i'd i you we me us like want need let's to".split()
)
"""Words that may stand before the verb of an order: "I would like you to explain"."""
_EMPTY = frozenset(
    """
a an the this that these those some any all each every both either neither no few several many much more most other another such
my your his her its our their me you him it us them i we he she they someone one ones of in on at to for from by with about into
over under between among as than and or but if so not very too also just only there here up out off down through during after
before what who which why how when where whether is are was were be been being am do does did can could will would shall should
may might must has have had following given different main own same new good best better great short long brief simple clear
detailed step steps list type types kind kinds example examples way ways thing things
""".split()
)
"""Passed over in search of the object."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ASKING = re.compile(
    r"\?\s*[\"'”’)]*\s*(?:$|\n)|\?(?=\s)|\b(?:please|kindly|tell me|let me know|i (?:want|need|would like|am looking for|wonder)|"
    r"i'd like|can you|could you|would you|help me|how to|your task|let's|(?:what|who|which|how|where|when|why) "
    r"(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had))\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?:;\n]+\s*|,\s+")


class VerbObject(NamedTuple):
    """What is asked, and of what."""

    verb: str
    object: str
    """Empty when nothing follows the verb."""


def is_request(instruction: str) -> bool:
    """Tell whether an English text asks for something: a question, an order, or a stated wish."""
    if _ASKING.search(instruction):
        return True
    return any(_ordered(words) is not None or _questions(words) for words in _clauses(instruction))


def find_verb_object(instruction: str) -> VerbObject | None:
    """Return verb and object of the first clause that asks something, or None when none does."""
    question: VerbObject | None = None
    for words in _clauses(instruction):
        place = _ordered(words)
        if place is not None:
            return VerbObject(words[place], _object(words[place + 1 :]))
        if question is None and _questions(words):
            question = VerbObject(words[0].removesuffix("'s"), _object(words[1:]))
    return question


def share_distinct(instructions: Sequence[str]) -> float | None:
    """Return how many different verb-object pairs the instructions that have one hold, as a share of them; None without any."""
    found = [pair for text in instructions if (pair := find_verb_object(text)) is not None]
    return len(set(found)) / len(found) if found else None


def _clauses(text: str) -> list[list[str]]:
    """Return the words of each clause: "Given a text, list its names" orders something in its second."""
    found = [_WORD.findall(part.lower().replace("’", "'")) for part in _SENTENCE.split(text[:2000])]
    return [words for words in found if words]


def _ordered(words: list[str]) -> int | None:
    """Return the place of the verb when the clause is an order."""
    for place, word in enumerate(words[:8]):
        if word in VERBS:
            return place
        if word not in _LEAD_IN and word not in _AUXILIARIES:
            return None
    return None


def _questions(words: list[str]) -> bool:
    return words[0] in QUESTIONS or (words[0] in _AUXILIARIES and len(words) > 2)


def _object(words: list[str]) -> str:
    return next((word for word in words if word not in _EMPTY and not word.isdigit()), "")
