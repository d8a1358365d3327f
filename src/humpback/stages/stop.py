"""Stop: with `iterations: auto` the loop ends when M_t does not surely answer better, or surely judges worse, than M_(t-1).

Answering is held-out likelihood: M_t is kept only where the whole interval speaks for it. Judging is the audited AUC of what
curated: a model that tells good pairs from spoilt ones surely worse is kept for its answers, and curates no more.

The requests are `evaluate`'s own (responses under both tags), so their answers are in the cache when it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from humpback.engines.base import Engine, ModelRef
from humpback.errors import StageError
from humpback.evaluation.auditchange import AuditChange
from humpback.evaluation.likelihood import Likelihoods, compare, response_nll, without_errors
from humpback.prompts import Prompts
from humpback.recipe import EvaluateSettings
from humpback.records import Pair

__all__ = ["judge_iteration"]


def judge_iteration(
    pairs: Sequence[Pair],
    models: Mapping[str, ModelRef],
    audited: AuditChange,
    open_engine: Callable[[ModelRef], Engine],
    prompts: Prompts,
    settings: EvaluateSettings,
    *,
    random_seed: int,
    free: Callable[[], None],
) -> dict[str, Any]:
    """Compare two models, the earlier first: `improved` says whether the later one is kept, `goes_on` whether it curates too.

    `fired` names what ends the loop: `likelihood`, `audit`, or None.
    """
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
    fired = "likelihood" if not improved else "audit" if audited.fell else None
    return {
        "improved": improved,
        "goes_on": fired is None,
        "fired": fired,
        "why": f"{_why(difference, improved=improved)}; {_tell_audit(audited, *models)}",
        "difference": difference,
        "audit": asdict(audited),
        "failed": failed,
    }


def _why(row: Mapping[str, Any], *, improved: bool) -> str:
    model, against = row["model"], row["against"]
    bounds = "too few pairs for an interval" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
    change = f"{row['value']:+.4f} nats per token on {row['n']} held-out pairs ({bounds})"
    return f"{model} is {'' if improved else 'not surely '}better than {against}: {change}"


def _tell_audit(audited: AuditChange, before: str, now: str) -> str:
    change = audited.difference
    if change is None:
        return f"their audits of {audited.signal} cannot be compared: one has no value"
    bounds = "too few for an interval" if change.low is None else f"{change.low:+.3f} to {change.high:+.3f}"
    word = "tells good pairs from spoilt ones worse" if audited.fell else "is not surely the worse judge"
    return f"{now} {word} than {before}: {change.value:+.3f} AUC of {audited.signal} ({bounds})"
