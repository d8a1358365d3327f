"""Gate: what the backward model writes on a few hundred segments, measured before it writes on all of them.

The requests are augment's and score's own, so their answers are in the cache when those stages ask: a gate that passes costs only
the likelihoods under shuffled texts.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from humpback.engines.base import Engine
from humpback.evaluation.gate import Draft, Measure, measure_drafts
from humpback.evaluation.instructions import unfit_instruction, write_instructions
from humpback.evaluation.signals import InstructionResponse, Missing, Raters, backward_lift
from humpback.prompts import Prompts
from humpback.recipe import AugmentSettings
from humpback.records import Segment
from humpback.store.fingerprint import derive_seed

__all__ = ["CALLS", "Gated", "draw_segments", "gate"]

CALLS = 5
"""Engine requests per segment: a draft, and two lifts of two likelihoods."""


@dataclass(frozen=True, kw_only=True)
class Gated:
    """What the gate found."""

    drafts: list[dict[str, Any]]
    """One row per segment, to be read."""
    measures: list[Measure]
    mean_lift: float | None
    """Own text minus another's, nats per token, over drafts with both."""
    reasons: Counter[str]
    """Why drafts could not be candidates; `engine_error` is a failure."""


def draw_segments(segments: Iterable[Segment], count: int, *, random_seed: int) -> list[Segment]:
    """Return `count` segments by the hash of their id."""
    return heapq.nsmallest(count, segments, key=lambda row: (derive_seed(random_seed, "gate", row.id), row.id))


def gate(
    segments: Sequence[Segment],
    engine: Engine,
    prompts: Prompts,
    augment: AugmentSettings,
    *,
    random_seed: int,
) -> Gated:
    """Let the backward model write, and measure what it wrote."""
    answers = write_instructions(segments, engine, prompts, augment, random_seed=random_seed)
    answered = [(s, a) for s, a in zip(segments, answers, strict=True) if not a.error]
    reasons: Counter[str] = Counter({"engine_error": len(answers) - len(answered)})
    usable: list[int] = []
    for place, (segment, answer) in enumerate(answered):
        reason = unfit_instruction(answer.text, segment.text, cut=answer.finish == "length")
        reasons[reason or ""] += 1
        if reason != "instruction_empty":
            usable.append(place)
    own: dict[int, float] = {}
    other: dict[int, float] = {}
    if "loglikelihood" in engine.capabilities:
        raters = Raters(model=engine, backward=engine, prompts=prompts, min_label_mass=0.0)
        asked = [answered[place][1].text.strip() for place in usable]
        texts = [answered[place][0].text for place in usable]
        own = _lifts(usable, asked, texts, raters)
        if len(usable) > 1:  # the segments are in a hashed order: the next one's text is a random one
            other = _lifts(usable, asked, texts[1:] + texts[:1], raters)
    drafts = [
        Draft(segment=segment, answer=answer, lift=own.get(place), lift_of_other=other.get(place))
        for place, (segment, answer) in enumerate(answered)
    ]
    measures = measure_drafts(drafts, seed=derive_seed(random_seed, "gate-bootstrap"))
    gains = [own[place] - other[place] for place in usable if place in own and place in other]
    del reasons[""]
    return Gated(
        drafts=[_row(draft) for draft in drafts],
        measures=measures,
        mean_lift=sum(gains) / len(gains) if gains else None,
        reasons=+reasons,
    )


def _lifts(places: Sequence[int], asked: Sequence[str], texts: Sequence[str], raters: Raters) -> dict[int, float]:
    pairs = [InstructionResponse(*pair) for pair in zip(asked, texts, strict=True)]
    values = zip(places, backward_lift(pairs, raters), strict=True)
    return {place: value["backward_lift"] for place, value in values if not isinstance(value, Missing)}


def _row(draft: Draft) -> dict[str, Any]:
    return {
        "segment_id": draft.segment.id,
        "instruction": draft.answer.text.strip(),
        "finish": draft.answer.finish,
        "lift": draft.lift,
        "lift_of_other": draft.lift_of_other,
    }
