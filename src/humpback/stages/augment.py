"""Augment: the backward model writes the instruction that each segment answers. The segment is the response, unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from humpback.engines.base import Engine
from humpback.evaluation.instructions import UNFIT, unfit_instruction, write_instructions
from humpback.prompts import Prompts
from humpback.recipe import AugmentSettings
from humpback.records import Candidate, Rejected, Segment, content_id
from humpback.stages.rejecting import reject

__all__ = ["augment"]


def augment(
    segments: Sequence[Segment], engine: Engine, prompts: Prompts, settings: AugmentSettings, *, random_seed: int
) -> Iterator[Candidate | Rejected]:
    """Yield one candidate per segment, or why its instruction is unusable; draws are seeded by the segment, not the batch."""
    for segment, answer in zip(
        segments, write_instructions(segments, engine, prompts, settings, random_seed=random_seed), strict=True
    ):
        instruction = answer.text.strip()
        if answer.error:
            yield reject(segment, "engine_error", answer.error, failed=True)
        elif (reason := unfit_instruction(instruction, segment.text, cut=answer.finish == "length")) is not None:
            yield reject(segment, reason, UNFIT[reason], instruction=instruction)
        else:
            yield _candidate(segment, instruction, engine.model.content_hash)


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
