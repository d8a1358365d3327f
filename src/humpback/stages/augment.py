"""Augment: the backward model writes the instruction that each segment answers. The segment is the response, unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from humpback.engines.base import Completion, Engine, Sampling
from humpback.prompts import Prompts
from humpback.recipe import AugmentSettings
from humpback.records import Candidate, Rejected, Segment, content_id
from humpback.stages.rejecting import reject
from humpback.store.fingerprint import derive_seed

__all__ = ["augment", "copies", "unfit_instruction"]


def augment(
    segments: Sequence[Segment], engine: Engine, prompts: Prompts, settings: AugmentSettings, *, random_seed: int
) -> Iterator[Candidate | Rejected]:
    """Yield one candidate per segment, or why its instruction is unusable; draws are seeded by the segment, not the batch."""
    asked = [
        prompts.backward(segment.text, seed=derive_seed(random_seed, "augment", segment.id)) for segment in segments
    ]
    sampling = Sampling(temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens)
    for segment, answer in zip(segments, engine.generate(asked, sampling), strict=True):
        instruction = answer.text.strip()
        if answer.error:
            yield reject(segment, "engine_error", answer.error, failed=True)
        elif (reason := unfit_instruction(answer, segment.text)) is not None:
            yield reject(segment, reason, _DETAILS[reason], instruction=instruction)
        else:
            yield _candidate(segment, instruction, engine.model.content_hash)


_DETAILS = {
    "instruction_empty": "the backward model wrote nothing",
    "instruction_cut": "the instruction did not end within augment.max_tokens",
    "instruction_copies_response": "the instruction is a passage of the response",
    "instruction_echoes_prompt": "the instruction repeats the backward prompt",
}


def unfit_instruction(answer: Completion, response: str) -> str | None:
    """Return why an instruction cannot be used, or None."""
    instruction = answer.text.strip()
    if not re.search(r"\w", instruction):
        return "instruction_empty"
    if answer.finish == "length":
        return "instruction_cut"
    if "write the one instruction or question" in instruction.lower():
        return "instruction_echoes_prompt"
    return "instruction_copies_response" if copies(instruction, response) else None


def copies(instruction: str, response: str, *, run: int = 8) -> bool:
    """Tell whether half of the instruction's words or more stand in runs of at least `run` words taken from the response.

    A short instruction (under `run` words) copies when all of it stands in the response's first sentence-length stretch.
    """
    words, source = _words(instruction), _words(response)
    if len(words) < run:
        return len(words) >= 4 and words == source[: len(words)]
    runs = {tuple(source[i : i + run]) for i in range(len(source) - run + 1)}
    copied: set[int] = set()
    for start in range(len(words) - run + 1):
        if tuple(words[start : start + run]) in runs:
            copied.update(range(start, start + run))
    return 2 * len(copied) >= len(words)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _candidate(segment: Segment, instruction: str, backward_model: str) -> Candidate:
    return Candidate(
        id=content_id(segment.id, instruction),
        instruction=instruction,
        response=segment.text,
        segment_id=segment.id,
        header_path=segment.header_path,
        source_uri=segment.source_uri,
        title=segment.title,
        licence=segment.licence,
        backward_model=backward_model,
    )
