"""Stop: is M_t better than M_(t-1)? With `iterations: auto` the loop goes on only while held-out likelihood says so.

The requests are `evaluate`'s own (responses under both tags), so their answers are in the cache when it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from humpback.engines.base import Engine, ModelRef
from humpback.errors import StageError
from humpback.evaluation.likelihood import Likelihoods, compare, response_nll, without_errors
from humpback.prompts import Prompts
from humpback.recipe import EvaluateSettings
from humpback.records import Pair

__all__ = ["judge_iteration"]


def judge_iteration(
    pairs: Sequence[Pair],
    models: Mapping[str, ModelRef],
    open_engine: Callable[[ModelRef], Engine],
    prompts: Prompts,
    settings: EvaluateSettings,
    *,
    random_seed: int,
    free: Callable[[], None],
) -> dict[str, Any]:
    """Compare two models, the earlier first, pair by pair; `improved` when the whole interval speaks for the later one."""
    free()  # what the stage before has loaded
    table: dict[str, Likelihoods] = {}
    for name, model in models.items():
        table[name] = response_nll(pairs, open_engine(model), prompts, prompts.both_tags)
        free()
    (kept,), failed = without_errors([table])
    if len(failed) == len(pairs):
        raise StageError(f"no held-out pair has a likelihood ({next(iter(failed.values()))}); use shorter seed pairs")
    found = compare(kept, random_seed=random_seed, resamples=settings.resamples, confidence=settings.confidence)
    (difference,) = found["differences"]
    improved = difference["high"] is not None and difference["high"] < 0
    return {
        "improved": improved,
        "why": _why(difference, improved=improved),
        "difference": difference,
        "failed": failed,
    }


def _why(row: Mapping[str, Any], *, improved: bool) -> str:
    model, against = row["model"], row["against"]
    bounds = "too few pairs for an interval" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
    change = f"{row['value']:+.4f} nats per token on {row['n']} held-out pairs ({bounds})"
    return f"{model} is {'' if improved else 'not surely '}better than {against}: {change}"
