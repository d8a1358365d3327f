"""Human: what M_t's signals are worth by what people said of the candidates. It decides nothing; the report tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.humanaudit import audit_labels, human_notes, human_verdict
from humpback.evaluation.labels import Labels
from humpback.evaluation.raters import Raters
from humpback.recipe import EvaluateSettings

__all__ = ["HumanAudited", "audit_by_people"]


class HumanAudited(NamedTuple):
    """One model's rows and figures, ready to be written as JSON."""

    rows: list[dict[str, Any]]
    verdict: dict[str, Any]


def audit_by_people(
    labels: Labels,
    signals: Sequence[str],
    raters: Raters,
    settings: EvaluateSettings,
    *,
    model_name: str,
    random_seed: int,
) -> HumanAudited:
    """Score the labelled candidates with one model, P(good) among the signals where its audit has learnt one."""
    audited = audit_labels(
        labels.pairs,
        [*signals, P_GOOD] if raters.judge else signals,
        raters,
        random_seed=random_seed,
        resamples=settings.resamples,
        confidence=settings.confidence,
    )
    rows = [{"model": model_name, **asdict(row)} for row in audited.rows]
    verdict = {"model": model_name, **human_verdict(audited, labels), "notes": human_notes(audited, model_name)}
    return HumanAudited(rows, verdict)
