"""Evaluate: held-out likelihood of every model, paired. Responses under both tags (as at inference) and under the seed tag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from humpback.engines.base import Engine, ModelRef
from humpback.errors import StageError
from humpback.evaluation.likelihood import Likelihoods, compare, instruction_nll, response_nll, without_errors
from humpback.prompts import Prompts
from humpback.recipe import EvaluateSettings
from humpback.records import Pair

__all__ = ["calls_per_pair", "evaluate"]

TAGS = ("both tags", "seed tag")
Models = Mapping[str, ModelRef]


def calls_per_pair(forward: int, backward: int) -> int:
    """Return how many engine requests one held-out pair takes."""
    return len(TAGS) * forward + backward


def evaluate(
    pairs: Sequence[Pair],
    forward: Models,
    backward: Models,
    open_engine: Callable[[ModelRef], Engine],
    prompts: Prompts,
    settings: EvaluateSettings,
    *,
    random_seed: int,
    free: Callable[[], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the comparison and every pair's likelihoods, ready to be written as JSON.

    A pair that one model cannot answer is left out for all of them and named in `failed`.
    `free` closes every engine that is open, first those of the stage before: one model is in memory at a time.
    """
    free()  # what the stage before has loaded
    tags = dict(zip(TAGS, (prompts.both_tags, prompts.seed_tag), strict=True))
    responses: dict[str, dict[str, Likelihoods]] = {label: {} for label in TAGS}
    for name, model in forward.items():
        engine = open_engine(model)
        for label, tag in tags.items():
            responses[label][name] = response_nll(pairs, engine, prompts, tag)
        free()
    instructions: dict[str, Likelihoods] = {}
    for name, model in backward.items():
        instructions[name] = instruction_nll(pairs, open_engine(model), prompts)
        free()

    tables, failed = without_errors([*responses.values(), instructions])
    if len(failed) == len(pairs):
        raise StageError(f"no held-out pair has a likelihood ({next(iter(failed.values()))}); use shorter seed pairs")

    def compared(models: Mapping[str, Likelihoods]) -> dict[str, Any]:
        return compare(models, random_seed=random_seed, resamples=settings.resamples, confidence=settings.confidence)

    per_pair: dict[str, Any] = {
        label: {name: asdict(values) for name, values in table.items()}
        for label, table in zip((*TAGS, "instruction"), tables, strict=True)
    }
    result = {
        "pairs": len(pairs) - len(failed),
        "failed": failed,
        "response_nll": {label: compared(table) for label, table in zip(TAGS, tables, strict=False)},
        "instruction_nll": compared(tables[-1]),
    }
    return result, per_pair
