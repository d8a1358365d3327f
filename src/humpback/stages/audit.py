"""Audit: how well M_t's signals tell held-out seed pairs from corruptions of them, with intervals, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from humpback.evaluation.audit import audit_signals
from humpback.evaluation.judge import Judge
from humpback.evaluation.raters import Raters
from humpback.evaluation.verdict import tell_verdict
from humpback.recipe import EvaluateSettings
from humpback.records import Pair

__all__ = ["Audited", "audit"]


class Audited(NamedTuple):
    """The audit's rows and verdict, ready to be written as JSON, and what was learnt from them."""

    rows: list[dict[str, Any]]
    verdict: dict[str, Any]
    judge: Judge | None


def audit(
    holdout: Sequence[Pair],
    signals: Sequence[str],
    raters: Raters,
    settings: EvaluateSettings,
    *,
    model_name: str,
    random_seed: int,
) -> Audited:
    """Audit one model."""
    done = audit_signals(
        holdout,
        signals,
        raters,
        random_seed=random_seed,
        resamples=settings.resamples,
        confidence=settings.confidence,
        corruptions=settings.corruptions,
    )
    verdict = {"model": model_name, **tell_verdict(done, model_name, len(holdout))}
    return Audited([asdict(row) for row in done.rows], verdict, done.fitted.judge if done.fitted else None)
