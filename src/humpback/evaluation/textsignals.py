"""Cheap text signals: faults of a pair that its text shows, each a number from 0 (none) to 1 (plain), without any model's tokens.

In: instruction and response, header path and source where they are known. Out: a `Reading` per signal: the number, or None and why
nothing can be said, and what was found. Those of the response are in `responsefaults.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from humpback.corpus.dedup import normalise
from humpback.corpus.language import find_language
from humpback.evaluation.instructions import copied_share, echoed_share
from humpback.evaluation.requests import is_request
from humpback.evaluation.responsefaults import (
    MIN_LETTERS,
    SURE,
    Reading,
    TextPair,
    cut_end,
    first_person,
    links,
    mid_sentence,
    navigation,
    promotion,
    tell_foreign,
)

__all__ = [
    "FAULTS",
    "Reading",
    "TextPair",
    "copy",
    "duplicates",
    "echo",
    "empty",
    "find_faults",
    "no_request",
    "other_language",
]


def echo(pair: TextPair) -> Reading:
    """The instruction repeats the prompt that asked for it: share of its word 4-grams that the backward prompt holds.

    Small backward models do this before they have learnt anything; containment of n-grams is Broder's (1997).
    """
    share = echoed_share(pair.instruction)
    return Reading(None, "under 4 words") if share is None else Reading(share, f"{share:.0%} of its 4-grams")


def copy(pair: TextPair) -> Reading:
    """The instruction is a passage of the response: share of its words in runs of 8 words or more of the response."""
    share = copied_share(pair.instruction, pair.response)
    return Reading(share, f"{share:.0%} of its words")


def empty(pair: TextPair) -> Reading:
    """The instruction has no letter or digit."""
    return Reading(0.0, "") if re.search(r"\w", pair.instruction) else Reading(1.0, "no letter or digit")


def duplicates(instructions: Sequence[str]) -> list[Reading]:
    """For each instruction: 1 - 1/n, n the number of equal ones in the whole set, apart from case and punctuation.

    It needs the whole set, so it is no part of a row's score (a shard would not know the others); the gate reads it.
    """
    plain = [normalise(text) for text in instructions]
    counts = Counter(plain)
    return [Reading(1 - 1 / counts[text], f"{counts[text]} times" if counts[text] > 1 else "") for text in plain]


def other_language(pair: TextPair) -> Reading:
    """The instruction is in another language than the response: the probability of its language when both are sure.

    Languages by fastText's lid.176; below 20 letters or a probability of 0.65 nothing is said.
    """
    texts = (pair.instruction, pair.response)
    if any(sum(map(str.isalpha, text[:1000])) < MIN_LETTERS for text in texts):
        return Reading(None, f"under {MIN_LETTERS} letters")
    asked, answered = map(find_language, texts)
    if min(asked.score, answered.score) < SURE:
        return Reading(None, f"no sure language ({asked.code} {asked.score:.2f}, {answered.code} {answered.score:.2f})")
    return (
        Reading(asked.score, f"{asked.code}, not {answered.code}") if asked.code != answered.code else Reading(0.0, "")
    )


def no_request(pair: TextPair) -> Reading:
    """The instruction asks for nothing: no question, no order, no wish, by the rules of `requests.py`.

    A backward model that continues the document instead of asking for it writes statements and headings.
    """
    if foreign := tell_foreign(pair.instruction):
        return Reading(None, foreign)
    return Reading(0.0, "") if is_request(pair.instruction) else Reading(1.0, "no question, order or wish")


FAULTS: Mapping[str, Callable[[TextPair], Reading]] = {
    "echo": echo,
    "copy": copy,
    "empty": empty,
    "other_language": other_language,
    "no_request": no_request,
    "links": links,
    "mid_sentence": mid_sentence,
    "cut_end": cut_end,
    "first_person": first_person,
    "promotion": promotion,
    "navigation": navigation,
}
"""Every signal that sees one pair alone."""


def find_faults(pair: TextPair) -> dict[str, Reading]:
    """Return what every signal says of a pair."""
    return {name: fault(pair) for name, fault in FAULTS.items()}
