"""Mix: the rows a model is fine-tuned on, rendered and tokenised, each with its origin and with how much it counts.

What a model is measured with is kept out here, last and for every origin: a seed file may hold a test set's questions, and a
document may be where a held-out pair was written from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from humpback.corpus.overlap import Overlap
from humpback.evaluation.calibration import P_GOOD
from humpback.prompts import Prompts, Rendered
from humpback.recipe import MixSettings
from humpback.records import Example, Pair, Rejected, Scored, content_id
from humpback.stages.rejecting import reject

__all__ = ["KeepOut", "mix", "mix_backward", "unfit_to_train"]


LEAST_WEIGHT = 0.01
"""A row whose loss counts nothing would be no row: it would be read, counted and not learnt from."""


class KeepOut(NamedTuple):
    """What no model of a run may be trained on."""

    holdout: Overlap | None = None
    evaluation: Overlap | None = None

    def find(self, row: Pair | Scored) -> tuple[str, str] | None:
        """Return the reason and what a row shares with what is kept out, or None."""
        for reason, overlap in (("in_holdout", self.holdout), ("in_evaluation_set", self.evaluation)):
            if overlap is None:
                continue
            if found := overlap.find_instruction(row.instruction):
                return reason, f"its instruction {found}"
            if found := overlap.find(row.response):
                return reason, f"its response {found}"
        return None


NOTHING = KeepOut()


def mix(
    seed: Iterable[Pair],
    curated: Iterable[Scored],
    prompts: Prompts,
    settings: MixSettings | None = None,
    keep_out: KeepOut = NOTHING,
) -> Iterator[Example | Rejected]:
    """Yield forward rows: seed pairs with the seed tag, then curated pairs with the web tag; loss on the response only."""
    settings = settings or MixSettings()
    for pair in seed:
        yield _forward(pair, prompts, keep_out, tag=prompts.seed_tag, sampling=settings.seed_weight)
    for row in curated:
        weight = 1.0
        if settings.loss_weight is not None:
            if P_GOOD not in row.scores:
                why = row.missing.get(P_GOOD, "no P(good) was learnt")
                yield reject(row, "no_p_good", f"{why}; mix.loss_weight needs it")
                continue
            weight = max(row.scores[P_GOOD], LEAST_WEIGHT)
        yield _forward(row, prompts, keep_out, tag=prompts.web_tag, sampling=settings.curated_weight, weight=weight)


def unfit_to_train(
    row: Scored, prompts: Prompts, settings: MixSettings | None = None, keep_out: KeepOut = NOTHING
) -> Rejected | None:
    """Return what `mix` would reject a candidate for, or None."""
    (outcome,) = mix((), [row], prompts, settings, keep_out)
    return outcome if isinstance(outcome, Rejected) else None


def mix_backward(seed: Iterable[Pair], prompts: Prompts, keep_out: KeepOut = NOTHING) -> Iterator[Example | Rejected]:
    """Yield reversed seed pairs: the response as the document, loss on the instruction only, no tag."""
    for pair in seed:
        target = prompts.target(pair.instruction)
        if found := keep_out.find(pair):
            yield reject(pair, *found)
        elif len(target.token_ids) > prompts.instruction_tokens:
            yield reject(
                pair, "target_cut", f"the instruction has {len(target.token_ids)} tokens, augment.max_tokens is less"
            )
        else:
            yield _example(pair, "", prompts.render(prompts.backward(pair.response), target))


def _forward(
    row: Pair | Scored, prompts: Prompts, keep_out: KeepOut, *, tag: str, sampling: float, weight: float = 1.0
) -> Example | Rejected:
    if found := keep_out.find(row):
        return reject(row, *found)
    rendered = prompts.render(prompts.answer(row.instruction, tag), prompts.target(row.response))
    return _example(row, tag, rendered, sampling=sampling, weight=weight)


def _example(
    row: Pair | Scored, tag: str, rendered: Rendered | str, *, sampling: float = 1.0, weight: float = 1.0
) -> Example | Rejected:
    if isinstance(rendered, str):
        details = {
            "target_empty": "the text to learn is empty",
            "target_cut": "prompt and text to learn are longer than model.max_tokens; a cut text would teach to stop early",
        }
        return reject(row, rendered, details[rendered])
    origin: Literal["seed", "web"] = "seed" if isinstance(row, Pair) else "web"
    return Example(
        id=content_id(origin, tag, row.id),
        origin=origin,
        tag=tag,
        instruction=row.instruction,
        response=row.response,
        parent_id=row.id,
        segment_id=row.segment_id if isinstance(row, Scored) else "",
        source_uri=row.source_uri,
        licence=row.licence,
        sampling=sampling,
        weight=weight,
        input_ids=rendered.input_ids,
        labels=rendered.labels,
    )
