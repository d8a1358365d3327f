"""Score: M_(t-1) and the backward model put numbers on every candidate. No candidate is judged here, only measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from humpback.evaluation.signals import SIGNALS, InstructionResponse, Raters, compute_signals
from humpback.records import Candidate, Rejected, Scored
from humpback.stages.rejecting import reject

__all__ = ["score"]


def score(
    candidates: Sequence[Candidate], signals: Sequence[str], raters: Raters, *, iteration: int
) -> Iterator[Scored | Rejected]:
    """Yield every candidate with its scores; one on which every engine that was asked failed is failed, not rejected."""
    asked = [name for name in signals if SIGNALS[name].needs is not None and not _unfitted(name, raters)]
    pairs = [InstructionResponse(c.instruction, c.response, c.header_path, c.source_uri) for c in candidates]
    for candidate, row in zip(candidates, compute_signals(pairs, signals, raters), strict=True):
        errors = [row.missing[name].reason for name in asked if name in row.missing and row.missing[name].failed]
        if errors and len(errors) == len(asked):
            yield reject(candidate, "engine_error", errors[0], failed=True)
            continue
        yield Scored(
            id=candidate.id,
            instruction=candidate.instruction,
            response=candidate.response,
            segment_id=candidate.segment_id,
            header_path=candidate.header_path,
            source_uri=candidate.source_uri,
            title=candidate.title,
            licence=candidate.licence,
            scores=row.scores,
            missing={name: missing.reason for name, missing in row.missing.items()},
            scored_by=raters.model.model.content_hash,
            iteration=iteration,
        )


def _unfitted(name: str, raters: Raters) -> bool:
    """Tell whether a signal was not asked for anything, because the audit fitted nothing to ask with."""
    return SIGNALS[name].fitted and (raters.judge is None or raters.judge.probe is None)
