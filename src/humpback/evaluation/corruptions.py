"""Corruptions of known kind, which a signal must tell from true pairs. In: held-out pairs. Out: pairs spoilt on purpose.

A corruption must not give itself away. Text mixed in takes the place of as much of the response, at a varied place and in
varied words; the pairs stand in folds, and each fold has words of its own, donors of its own and languages of its own, so
that what is learnt on some folds is tested on other words in the rest. What cannot be spoilt in some way (one sentence has no
order) says why instead.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from humpback.evaluation.raters import InstructionResponse
from humpback.evaluation.wordbank import Bank, join_sentences, load_banks, split_sentences
from humpback.records import Pair
from humpback.store.fingerprint import derive_seed

__all__ = ["KINDS", "CorruptedPair", "Fold", "corrupt_pairs"]

Corrupted = InstructionResponse | str
"""A spoilt pair, or why the pair cannot be spoilt in this way."""

ONE_SENTENCE = "one_sentence: the response has too few sentences"
TOO_SHORT = "too_short: the response has too few words"
NO_DONOR = "no_donor: no other pair of its fold has another response"
A_LIST = "a_list: the order of its points does not matter"
NO_FACT = "no_fact: nothing in it can be turned round"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Pairs that are held out together, and who gives them a wrong response."""

    number: int
    pairs: tuple[Pair, ...]
    nearest: tuple[int | None, ...]
    """For each pair, the place in `pairs` of the one whose instruction is most like its own; None where there is no other."""


@dataclass(frozen=True, kw_only=True)
class CorruptedPair:
    """One row of the audit."""

    pair_id: str
    kind: str
    """`true`, or a name of `KINDS`."""
    fold: int
    text: InstructionResponse


def corrupt_pairs(
    folds: Sequence[Fold], random_seed: int, kinds: Collection[str] | None = None
) -> tuple[list[CorruptedPair], dict[str, dict[str, int]]]:
    """Return every true pair followed by its corruptions, and by kind the reasons why some pairs have none, counted.

    `kinds` are names of `KINDS`; None is all of them.
    """
    banks = load_banks()
    rows: list[CorruptedPair] = []
    without: dict[str, dict[str, int]] = {}
    for fold in folds:
        bank = banks[fold.number % len(banks)]
        givers = _draw_givers(fold, random_seed)
        for place, pair in enumerate(fold.pairs):
            rows.append(_row(pair, "true", fold, InstructionResponse(pair.instruction, pair.response)))
            for kind in (kind for kind in KINDS if kinds is None or kind in kinds):
                draw = random.Random(derive_seed(random_seed, "corrupt", kind, pair.id))
                made = _corrupt(kind, pair, _Material(bank, fold, place, givers[place]), draw)
                if isinstance(made, str):
                    counts = without.setdefault(kind, {})
                    counts[made.partition(":")[0]] = counts.get(made.partition(":")[0], 0) + 1
                else:
                    rows.append(_row(pair, kind, fold, made))
    return rows, without


def _row(pair: Pair, kind: str, fold: Fold, text: InstructionResponse) -> CorruptedPair:
    return CorruptedPair(pair_id=pair.id, kind=kind, fold=fold.number, text=text)


@dataclass(frozen=True)
class _Material:
    """What a corruption is made of besides its pair."""

    bank: Bank
    fold: Fold
    place: int
    giver: int | None


def _corrupt(kind: str, pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    made = KINDS[kind](pair, material, draw)
    if isinstance(made, InstructionResponse) and made.response.strip() in ("", pair.response.strip()):
        return f"unchanged: {kind} left it as it was"
    return made


def _draw_givers(fold: Fold, random_seed: int) -> list[int | None]:
    # a ring over a shuffled order: everyone gets the next one's response, so every response is used once; a neighbour
    # with the very same response ("Yes.") is passed over, for it would corrupt nothing
    pairs = fold.pairs
    order = sorted(range(len(pairs)), key=lambda i: derive_seed(random_seed, "audit-shuffle", pairs[i].id))
    giver: list[int | None] = [None] * len(pairs)
    for at, i in enumerate(order):
        following = (order[(at + step) % len(order)] for step in range(1, len(order)))
        giver[i] = next((j for j in following if pairs[j].response != pairs[i].response), None)
    return giver


# -- another pair's response -------------------------------------------------------------------------------------------


def mismatch_random(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """The response of any other pair of the fold."""
    return _give(pair, material.fold, material.giver)


def mismatch_hard(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """The response to the most similar other instruction of the fold."""
    return _give(pair, material.fold, material.fold.nearest[material.place])


def _give(pair: Pair, fold: Fold, giver: int | None) -> Corrupted:
    return NO_DONOR if giver is None else InstructionResponse(pair.instruction, fold.pairs[giver].response)


# -- parts missing -----------------------------------------------------------------------------------------------------


def cut_end(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """The end is missing from the middle of a sentence on."""
    words = list(re.finditer(r"\S+", pair.response))
    last = _cut_place(words, draw)
    if last is None:
        return TOO_SHORT
    return InstructionResponse(pair.instruction, pair.response[: words[last - 1].end()])


def cut_start(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """The start is missing up to the middle of a sentence."""
    words = list(re.finditer(r"\S+", pair.response))
    first = _cut_place(words, draw)
    if first is None:
        return TOO_SHORT
    return InstructionResponse(pair.instruction, pair.response[words[first].start() :])


def _cut_place(words: Sequence[re.Match[str]], draw: random.Random) -> int | None:
    """Return how many words stand before the cut: 25 to 85 % of them, and not at a sentence's or a line's border."""
    if len(words) < 6:
        return None
    at = min(max(round(len(words) * draw.uniform(0.25, 0.85)), 2), len(words) - 2)
    text = words[0].string
    inside = [
        i
        for i in range(2, len(words) - 1)
        if words[i - 1].group()[-1] not in '.!?:;"' and "\n" not in text[words[i - 1].end() : words[i].start()]
    ]
    return min(inside, key=lambda i: abs(i - at), default=None)


def cut_sentences(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """Whole sentences are missing, a third to two thirds of the text, at the start or at the end."""
    sentences = split_sentences(pair.response)
    if len(sentences) < 3:
        return ONE_SENTENCE
    keep = min(max(round(len(sentences) * draw.uniform(1 / 3, 2 / 3)), 1), len(sentences) - 1)
    part = sentences[:keep] if draw.random() < 0.5 else sentences[-keep:]
    return InstructionResponse(pair.instruction, join_sentences(part))


# -- other text mixed in -----------------------------------------------------------------------------------------------


def navigation(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """Menus, links and notices of a page."""
    return _mix_in(pair, material.bank.lines("navigation", draw), "\n", draw)


def advertising(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """Sentences that sell something."""
    return _mix_in(pair, material.bank.lines("advertising", draw), " ", draw)


def voice(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """A blog's or a forum's own voice."""
    return _mix_in(pair, material.bank.lines("voice", draw), " ", draw)


def language(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """Sentences in another language, in place of half the response or of all of it."""
    lines = material.bank.foreign(draw)
    if draw.random() < 0.5:
        return _mix_in(pair, lines, " ", draw, share=(0.4, 0.6))
    text = _fill(lines, len(pair.response), " ")
    return InstructionResponse(pair.instruction, text)


def _mix_in(
    pair: Pair, lines: Sequence[str], joint: str, draw: random.Random, share: tuple[float, float] = (0.15, 0.5)
) -> Corrupted:
    """Put lines in the place of as much of the response: at its start, in its middle or at its end."""
    sentences = split_sentences(pair.response)
    if len(sentences) < 2:
        return ONE_SENTENCE
    text = _fill(lines, round(len(pair.response) * draw.uniform(*share)), joint)
    place = draw.choice(("start", "middle", "end"))
    first = {"start": 0, "middle": draw.randint(1, len(sentences) - 1), "end": len(sentences)}[place]
    kept, freed = list(enumerate(sentences)), 0
    # what goes is what stands next to the new text, as long as it frees no more than the new text takes
    for index in sorted(range(len(sentences)), key=lambda i: (abs(i + 0.5 - first), i)):
        size = len(sentences[index])
        if len(kept) > 1 and freed + size <= len(text) * 1.25:
            kept = [item for item in kept if item[0] != index]
            freed += size
        elif freed:
            break
    before = [sentence for index, sentence in kept if index < first]
    after = [sentence for index, sentence in kept if index >= first]
    block = text + ("\n" if joint == "\n" and after else " " if after else "")
    lead = join_sentences(before)
    if lead and not lead[-1].isspace():
        lead += "\n" if joint == "\n" else " "
    return InstructionResponse(pair.instruction, lead + block + join_sentences(after))


def _fill(lines: Sequence[str], target: int, joint: str) -> str:
    """Join as many lines as come nearest to the length, one at least."""
    text = lines[0]
    for line in lines[1:]:
        if len(text) + len(line) / 2 > target:
            break
        text += joint + line
    return text


def echo(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """The instruction is said again, at the start, at the end or instead of the response."""
    instruction = pair.instruction.strip()
    sentences = split_sentences(pair.response)
    room = len(pair.response) - len(instruction)
    kept = [s for i, s in enumerate(sentences) if sum(map(len, sentences[: i + 1])) <= room]
    if not kept or draw.random() < 0.3:
        times = max(1, round(len(pair.response) / max(len(instruction), 1)))
        return InstructionResponse(pair.instruction, "\n".join([instruction] * min(times, 3)))
    parts = [instruction, join_sentences(kept)] if draw.random() < 0.5 else [join_sentences(kept), instruction]
    return InstructionResponse(pair.instruction, draw.choice(("\n", " ", "\n\n")).join(parts))


# -- same words, wrong -------------------------------------------------------------------------------------------------


def shuffled(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """The sentences stand in another order; the points of a list without numbers are no sentences of an order."""
    sentences = split_sentences(pair.response)
    if len(sentences) < 3:
        return ONE_SENTENCE
    if sum(bool(re.match(r"\s*[-*•]", s)) or not re.search(r"[.!?]\s*$", s) for s in sentences) * 2 > len(sentences):
        return A_LIST
    order = list(range(len(sentences)))
    while order[0] == 0 or order == sorted(order):  # the first sentence never stays: it opens the text
        draw.shuffle(order)
    return InstructionResponse(pair.instruction, join_sentences([sentences[i] for i in order]))


def facts(pair: Pair, material: _Material, draw: random.Random) -> Corrupted:
    """Numbers, names and the sense of statements are changed, each with a chance of two in three, one at least."""
    spots = material.bank.find_facts(pair.response, draw)
    if not spots:
        return NO_FACT
    chosen = [spot for spot in spots if draw.random() < 2 / 3] or [draw.choice(spots)]
    text = pair.response
    for spot in sorted(chosen, key=lambda s: -s.start):
        text = text[: spot.start] + spot.text + text[spot.end :]
    return InstructionResponse(pair.instruction, text)


KINDS: Mapping[str, Callable[[Pair, _Material, random.Random], Corrupted]] = {
    "mismatch_random": mismatch_random,
    "mismatch_hard": mismatch_hard,
    "cut_end": cut_end,
    "cut_start": cut_start,
    "cut_sentences": cut_sentences,
    "navigation": navigation,
    "advertising": advertising,
    "voice": voice,
    "echo": echo,
    "shuffled": shuffled,
    "language": language,
    "facts": facts,
}
