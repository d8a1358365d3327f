"""Audit: how well M_t's signals tell held-out seed pairs from corruptions of them, with intervals, in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from humpback.evaluation.audit import audit_signals
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.humanaudit import audit_labels, human_notes, human_verdict
from humpback.evaluation.judge import Judge
from humpback.evaluation.labels import Labels
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
    labels: Labels | None = None,
) -> Audited:
    """Audit one model; labelled candidates are rows of kind `human`, with the P(good) that was learnt from the held-out pairs."""
    draw: dict[str, Any] = {
        "random_seed": random_seed,
        "resamples": settings.resamples,
        "confidence": settings.confidence,
    }
    done = audit_signals(holdout, signals, raters, **draw)
    judge = done.fitted.judge if done.fitted else None
    rows = [asdict(row) for row in done.rows]
    verdict = {"model": model_name, **tell_verdict(done, model_name, len(holdout))}
    if labels is not None:
        names = [*signals, P_GOOD] if judge else signals
        human = audit_labels(labels.pairs, names, dataclasses.replace(raters, judge=judge), **draw)
        rows += [asdict(row) for row in human.rows]
        verdict |= {
            "human": human_verdict(human, labels),
            "notes": [*verdict["notes"], *human_notes(human, model_name)],
        }
    return Audited(rows, verdict, judge)
