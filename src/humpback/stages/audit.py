"""Audit: how well M_t's signals tell held-out seed pairs from corruptions of them, with intervals, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from humpback.evaluation.audit import audit_signals, verdict_of
from humpback.evaluation.signals import Raters
from humpback.recipe import EvaluateSettings
from humpback.records import Pair

__all__ = ["audit"]


def audit(
    holdout: Sequence[Pair],
    signals: Sequence[str],
    raters: Raters,
    settings: EvaluateSettings,
    *,
    model_name: str,
    random_seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the audit's rows and its verdict, ready to be written as JSON."""
    rows, audits = audit_signals(
        holdout,
        signals,
        raters,
        random_seed=random_seed,
        resamples=settings.resamples,
        confidence=settings.confidence,
    )
    return [asdict(row) for row in rows], {"model": model_name, **verdict_of(audits, model_name, len(holdout))}
