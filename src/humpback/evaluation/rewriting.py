"""How a model is asked to rewrite a document as the answer to its instruction, and what can be wrong with what it writes.

After instruction back-and-forth translation (arXiv 2408.04614). A rewrite is measured against its document: how long, how much of
it is copied, how many of its words the document knows, and whether the instruction explains it at least as well (lift).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from humpback.engines.base import Completion, Engine, Sampling
from humpback.evaluation.forward import read_forward
from humpback.evaluation.instructions import copied_share, words_of
from humpback.evaluation.raters import InstructionResponse, Missing, Raters
from humpback.evaluation.signals import forward_lift
from humpback.evaluation.textsignals import TextPair, other_language
from humpback.prompts import Prompt
from humpback.recipe import RewriteSettings
from humpback.records import Scored
from humpback.store.fingerprint import derive_seed

__all__ = ["FALLBACKS", "Draft", "find_fallback", "measure_lifts", "measure_rewrite", "write_drafts"]

FALLBACKS = {
    "engine_error": "the engine failed on it",
    "no_room": "instruction, document and rewrite.max_tokens exceed model.max_tokens: of a cut document the end would be lost",
    "empty": "nothing was written",
    "cut": "it did not end within rewrite.max_tokens",
    "echo": "it repeats what was asked of the model",
    "too_short": "it is shorter than rewrite.min_length of the document",
    "too_long": "it is longer than rewrite.max_length of the document",
    "other_language": "it is in another language than the document",
    "copy": "more than rewrite.max_copied of its words are copied in runs of 8 or more: it is the document again",
    "stray": "fewer than rewrite.min_shared of its different words are the document's or the instruction's: it says other things",
    "no_lift": "no lift could be measured",
    "lower_lift": "the instruction explains it less than the document: its lift is not above the document's by rewrite.min_lift_gain",
}
"""Why a pair keeps its document as it is, in the order in which it is asked."""
RUN = 8
"""Words in a row that make a copy, as in the check of instructions."""
_ECHOED = "write only the answer"


class Draft(NamedTuple):
    """What the model wrote for one pair."""

    text: str
    """Empty where nothing came."""
    fallback: str | None
    """Why it cannot be used, as far as that is seen without measuring it."""
    detail: str


def write_drafts(
    rows: Sequence[Scored], engine: Engine, raters: Raters, settings: RewriteSettings, *, random_seed: int
) -> list[Draft]:
    """Return a draft per row, in order. The draw depends on the row alone."""
    prompts = [
        raters.prompts.rewrite(
            row.instruction,
            row.response,
            answer_tokens=settings.max_tokens,
            seed=derive_seed(random_seed, "rewrite", row.id),
        )
        for row in rows
    ]
    sampling = Sampling(temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens)
    answers = iter(engine.generate([prompt for prompt in prompts if prompt is not None], sampling))
    return [_draft(prompt, None if prompt is None else next(answers)) for prompt in prompts]


def _draft(prompt: Prompt | None, answer: Completion | None) -> Draft:
    if prompt is None or answer is None:
        return Draft("", "no_room", FALLBACKS["no_room"])
    text = answer.text.strip()
    if answer.error or answer.finish == "error":
        return Draft("", "engine_error", answer.error or FALLBACKS["engine_error"])
    reason = (
        "empty"
        if not re.search(r"\w", text)
        else "cut"
        if answer.finish == "length"
        else "echo"
        if _echoes(text)
        else None
    )
    return Draft(text, reason, FALLBACKS[reason] if reason else "")


def _echoes(text: str) -> bool:
    return _ECHOED in text.casefold()


def measure_rewrite(row: Scored, text: str) -> dict[str, float]:
    """Return length ratio, copied share and shared words of a rewrite, each 0 upwards."""
    known, used = set(words_of(row.response)) | set(words_of(row.instruction)), set(words_of(text))
    return {
        "length": len(text) / max(len(row.response), 1),
        "copied": copied_share(text, row.response, run=RUN),
        "shared": len(used & known) / max(len(used), 1),
    }


def measure_lifts(pairs: Sequence[InstructionResponse], raters: Raters) -> list[float | None]:
    """Return the forward lift of each pair, None where it has none."""
    values = forward_lift(read_forward(pairs, raters, likelihoods=True))
    return [None if isinstance(value, Missing) else value["forward_lift"] for value in values]


def find_fallback(row: Scored, text: str, measures: Mapping[str, float], settings: RewriteSettings) -> str | None:
    """Return why a measured rewrite is not taken, or None."""
    language = other_language(TextPair(text, row.response))
    if measures["length"] < settings.min_length:
        return "too_short"
    if measures["length"] > settings.max_length:
        return "too_long"
    if language.value:
        return "other_language"
    if measures["copied"] > settings.max_copied:
        return "copy"
    if measures["shared"] < settings.min_shared:
        return "stray"
    if "lift" not in measures or "document_lift" not in measures:
        return "no_lift"
    return "lower_lift" if measures["lift"] < measures["document_lift"] + settings.min_lift_gain else None
