"""What an English instruction asks for, by a tagger and a rule: the verb of its first order and the noun that is its object.

In: an instruction. Out: an order with verb and object, a question with its question word, or neither. The words are tagged and
lemmatised by HanTa (the Hanover Tagger, tags of the British National Corpus), whose English model is in its package: nothing is
fetched. The rule stands for the paper's parse (root verb and direct noun object):

- the verb is the first base-form verb at the beginning of a sentence or clause, after "please", "can you", "I want to" and the like;
- its object is the last noun of the first run of nouns after it ("a short love story": story), before any preposition, clause or
  other verb ("of", "how", "whether"); without such a noun there is none;
- a text without an order is a question when it begins with a question word or an auxiliary, or ends in a question mark.

`ACCURACY` is what it was right in on instructions read by hand (a test counts again). `requests.py` is coarser and needs no tagger: of
the same 50 it has 45 verbs or question words, but 6 of the 25 objects, as it takes "short" for the object of "a short story".
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from humpback.evaluation.requests import QUESTIONS, VERBS

__all__ = ["ACCURACY", "Asked", "find_asked"]

ACCURACY = "the verb or question word in 48 of 50, verb and object together in 21 of 25 orders"
"""On instructions of Dolly, Open Assistant, Self-Instruct and a 135M backward model that the rule was not made on."""

MOST_CHARS = 2000
"""Of an instruction that are read: a pasted document asks for nothing."""
MOST_WORDS = 40
"""Of a sentence that are tagged."""
REACH = 16
"""Words after the verb among which its object is looked for."""
YES_NO = "yes/no"
_BULLETS = ("-", "*", "•", "–")

_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\n+")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[.,;:!?()]")
_AUXILIARY = frozenset(
    "is are was were am do does did can could will would shall should may might must has have had".split()
)
_BEFORE_VERB = frozenset(
    "please kindly just now then so also first next and but or let's lets i we you need want like would wish have to can could "
    "will should must may me us help try i'd i'll".split()
)
"""What may stand before the verb of an order, beside adverbs."""
_POLITE = ("can", "could", "will", "would")
_PASSED = ("AT0", "DT0", "DPS", "AJ0", "AJC", "AJS", "ORD", "CRD", "AV0", "PNP", "PNX", "VVN", "VVG", "POS", "NP0")
"""Tags passed over between a verb and its noun: articles, adjectives, numbers, adverbs, "me", participles, names."""
_NOUNS = ("NN0", "NN1", "NN2")


class _Token(NamedTuple):
    word: str
    """In lower case."""
    lemma: str
    tag: str


class Asked(NamedTuple):
    """What an instruction asks for."""

    kind: Literal["order", "question", "neither"]
    verb: str = ""
    """Of an order, its verb as a lemma; of a question, its question word, or `yes/no`."""
    object: str = ""
    """Of an order, its object as a lemma; empty when no noun is one."""


def find_asked(instruction: str) -> Asked:
    """Return the first order of an English text, else its first question."""
    question: Asked | None = None
    for sentence in _SENTENCE.split(instruction[:MOST_CHARS]):
        words = _WORD.findall(sentence.replace("’", "'"))[:MOST_WORDS]
        if not words or (question and sentence.lstrip().startswith(_BULLETS)):  # the choices of a question
            continue
        asked_how = _question_word(words, sentence)
        if asked_how and not _polite(words):
            question = question or Asked("question", asked_how)
            continue
        tokens = [_Token(word.lower(), lemma.lower(), tag) for word, lemma, tag in _tagger().tag_sent(words)]
        if (place := _find_order(tokens)) is not None:
            return Asked("order", _verb(tokens[place]), _find_object(tokens[place + 1 :]))
        if asked_how:
            question = question or Asked("question", asked_how)
    return question or Asked("neither")


def _question_word(words: Sequence[str], sentence: str) -> str:
    """Return the question word of a sentence that asks, also after a preposition ("in which year"); empty when it asks nothing."""
    plain = [word.lower().removesuffix("'s") for word in words]
    first = next((word for word in plain[:3] if word in QUESTIONS), "")
    if plain[0] in QUESTIONS:
        return plain[0]
    if plain[0] in _AUXILIARY and len(plain) > 2:
        return YES_NO
    if not sentence.rstrip(" \"'”’)").endswith("?"):
        return ""
    return first or next((word for word in plain if word in QUESTIONS), "") or YES_NO


def _polite(words: Sequence[str]) -> bool:
    """Tell "can you", "could you please": an order in the form of a question."""
    return any(one.lower() in _POLITE and other.lower() == "you" for one, other in itertools.pairwise(words))


def _find_order(tokens: Sequence[_Token]) -> int | None:
    """Return the place of the verb: at the beginning of the sentence, or of a clause in it."""
    starts = [0, *(place + 1 for place, token in enumerate(tokens) if token.word == ",")]
    following = [token.word for token in tokens[1:]] + [""]
    starts += [
        place
        for place, token in enumerate(tokens)
        if token.word == "please" or (token.word in _POLITE and following[place] == "you")
    ]
    for start in sorted(starts):
        for place in range(start, min(start + 8, len(tokens))):
            token = tokens[place]
            if _is_base_verb(token, first=place == 0):
                return place
            if token.word not in _BEFORE_VERB and token.tag != "AV0":
                break
    return _after_opening(tokens)


def _after_opening(tokens: Sequence[_Token]) -> int | None:
    """Return the verb after an opening phrase without a comma: "From the passage identify the use of limestone"."""
    if not tokens or tokens[0].tag not in ("PRP", "PRF"):
        return None
    for place, token in enumerate(tokens[1:10], start=1):
        if token.tag == "VVB" and token.word in VERBS:
            return place
        if token.tag.startswith(("VB", "VD", "VH", "VM", "VVD", "VVZ", "CJ")):
            return None
    return None


def _is_base_verb(token: _Token, *, first: bool) -> bool:
    if token.word in _BEFORE_VERB and token.word not in ("help", "try"):
        return False
    if token.word in VERBS:
        return first or not token.tag.startswith(("AJ", "NN")) or token.tag == "NN1"
    return token.tag in ("VVB", "VVI") and token.word == token.lemma


def _verb(token: _Token) -> str:
    """Return the verb, of two spellings always the one in -ize."""
    verb = token.word
    return (
        f"{verb[:-4]}lyze"
        if verb.endswith("lyse")
        else f"{verb[:-3]}ize"
        if verb.endswith("ise") and _is_ize(verb)
        else verb
    )


def _is_ize(verb: str) -> bool:
    return f"{verb[:-3]}ize" in VERBS


def _find_object(tokens: Sequence[_Token]) -> str:
    """Return the last noun of the first run of nouns, or nothing where something else than a noun phrase follows."""
    head = ""
    for token in tokens[:REACH]:
        if token.tag in _NOUNS:
            head = token.lemma
        elif head or token.tag not in _PASSED:
            break
    return head


@functools.cache
def _tagger() -> Any:
    """Load the tagger's English model, once per process; it is a file of its package."""
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")
