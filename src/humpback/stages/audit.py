"""Audit: how well M_t's signals tell held-out seed pairs from corruptions of them, with intervals, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from humpback.evaluation.audit import audit_signals, verdict_of
from humpback.evaluation.humanaudit import audit_labels, human_notes, human_verdict
from humpback.evaluation.labels import Labels
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
    labels: Labels | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the audit's rows and its verdict, ready to be written as JSON; labelled candidates are rows of kind `human`."""
    draw: dict[str, Any] = {
        "random_seed": random_seed,
        "resamples": settings.resamples,
        "confidence": settings.confidence,
    }
    found, audits = audit_signals(holdout, signals, raters, **draw)
    rows = [asdict(row) for row in found]
    verdict = {"model": model_name, **verdict_of(audits, model_name, len(holdout))}
    if labels is not None:
        human = audit_labels(labels.pairs, signals, raters, **draw)
        rows += [asdict(row) for row in human.rows]
        verdict |= {
            "human": human_verdict(human, labels),
            "notes": [*verdict["notes"], *human_notes(human, model_name)],
        }
    return rows, verdict
