"""How the backward model is asked for instructions, and what can be wrong with one, seen from its text.

Shared by augment, the gate before it, and the text signals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from humpback.engines.base import Completion, Engine, Sampling
from humpback.prompts import BACKWARD_PROMPT, Prompts
from humpback.recipe import AugmentSettings
from humpback.records import Segment
from humpback.store.fingerprint import derive_seed

__all__ = [
    "UNFIT",
    "copied_share",
    "copies",
    "echoed_share",
    "echoes_prompt",
    "unfit_instruction",
    "words_of",
    "write_instructions",
]

UNFIT = {
    "instruction_empty": "the backward model wrote nothing",
    "instruction_cut": "the instruction did not end within augment.max_tokens",
    "instruction_copies_response": "the instruction is a passage of the response",
    "instruction_echoes_prompt": "the instruction repeats the backward prompt",
}
"""Reason to reject an instruction, and what it means."""
_ECHO_WORDS = 4


def write_instructions(
    segments: Sequence[Segment], engine: Engine, prompts: Prompts, settings: AugmentSettings, *, random_seed: int
) -> list[Completion]:
    """Return what the backward model writes for each segment. The draw depends on the segment alone, so that the gate's few
    hundred are the very answers that augment finds in the cache.
    """
    asked = [
        prompts.backward(segment.text, seed=derive_seed(random_seed, "augment", segment.id)) for segment in segments
    ]
    sampling = Sampling(temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens)
    return engine.generate(asked, sampling)


def unfit_instruction(text: str, response: str, *, cut: bool) -> str | None:
    """Return why an instruction cannot be used, or None; `cut` says that it did not end within its tokens."""
    instruction = text.strip()
    if not re.search(r"\w", instruction):
        return "instruction_empty"
    if cut:
        return "instruction_cut"
    if echoes_prompt(instruction):
        return "instruction_echoes_prompt"
    return "instruction_copies_response" if copies(instruction, response) else None


def echoes_prompt(instruction: str) -> bool:
    return "write the one instruction or question" in instruction.lower()


def echoed_share(instruction: str) -> float | None:
    """Return the share of the instruction's word 4-grams that the backward prompt holds; None below 4 words."""
    words = words_of(instruction)
    grams = list(zip(*(words[start:] for start in range(_ECHO_WORDS)), strict=False))
    return sum(gram in _PROMPT_GRAMS for gram in grams) / len(grams) if grams else None


def copies(instruction: str, response: str, *, run: int = 8) -> bool:
    """Tell whether half of the instruction's words or more stand in runs of at least `run` words taken from the response.

    A short instruction (under `run` words) copies when all of it stands at the response's beginning.
    """
    return 2 * copied_share(instruction, response, run=run) >= 1


def copied_share(instruction: str, response: str, *, run: int = 8) -> float:
    """Return the share of the instruction's words in runs of at least `run` words taken from the response.

    Below `run` words it is 1 when the response begins with all of it, from 4 words on, else 0.
    """
    words, source = words_of(instruction), words_of(response)
    if len(words) < run:
        return float(len(words) >= 4 and words == source[: len(words)])
    runs = {tuple(source[i : i + run]) for i in range(len(source) - run + 1)}
    copied: set[int] = set()
    for start in range(len(words) - run + 1):
        if tuple(words[start : start + run]) in runs:
            copied.update(range(start, start + run))
    return len(copied) / len(words)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


_PROMPT_WORDS = words_of(BACKWARD_PROMPT.partition("{document}")[0])
_PROMPT_GRAMS = frozenset(zip(*(_PROMPT_WORDS[start:] for start in range(_ECHO_WORDS)), strict=False))
