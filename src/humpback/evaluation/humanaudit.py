"""The audit against people: can a model's signals tell candidates that people call good from those they call bad?

It is made of the text that is curated, so it says what the audit on seed pairs cannot: what a signal is worth on the web text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback.evaluation.agreement import weighted_auc, weighted_share
from humpback.evaluation.labels import LabelledPair, Labels
from humpback.evaluation.signals import SIGNALS, InstructionResponse, Raters, compute_signals
from humpback.evaluation.stats import Interval
from humpback.store.fingerprint import derive_seed

__all__ = ["HUMAN", "HumanAudit", "HumanRow", "HumanSignal", "audit_labels", "human_notes", "human_verdict"]

HUMAN = "human"
"""Kind of a row that people judged, where the audit on held-out pairs has `true` and the corruptions."""


@dataclass(frozen=True, kw_only=True)
class HumanRow:
    """One labelled candidate with the scores of the audited model."""

    pair_id: str
    kind: str
    """Always `human`."""
    good: bool
    weight: float
    """Candidates it speaks for."""
    scores: Mapping[str, float]
    missing: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class HumanSignal:
    """How well one signal separates what people call good and bad."""

    signal: str
    auc: Interval | None
    """Weighted; None when no pair, or only good or only bad ones, have a value."""
    missing: int


@dataclass(frozen=True, kw_only=True)
class HumanAudit:
    """Rows and figures of one model."""

    rows: tuple[HumanRow, ...]
    signals: tuple[HumanSignal, ...]
    good: Interval | None
    """Weighted share of good candidates."""


def audit_labels(
    labelled: Sequence[LabelledPair],
    names: Sequence[str],
    raters: Raters,
    *,
    random_seed: int,
    resamples: int,
    confidence: float,
) -> HumanAudit:
    """Score the labelled candidates and return rows and figures."""
    pairs = [InstructionResponse(p.instruction, p.response, p.header_path, p.source_uri) for p in labelled]
    scored = compute_signals(pairs, [name for name in names if name in SIGNALS], raters)
    rows = tuple(
        HumanRow(
            pair_id=pair.pair_id,
            kind=HUMAN,
            good=pair.good,
            weight=pair.weight,
            scores=row.scores,
            missing={name: missing.reason for name, missing in row.missing.items()},
        )
        for pair, row in zip(labelled, scored, strict=True)
    )
    draw = {"resamples": resamples, "confidence": confidence, "seed": derive_seed(random_seed, "human-bootstrap")}
    share = weighted_share([r.good for r in rows], [r.weight for r in rows], confidence=confidence) if rows else None
    return HumanAudit(rows=rows, signals=tuple(_audit_one(name, rows, draw) for name in names), good=share)


def _audit_one(name: str, rows: Sequence[HumanRow], draw: Mapping[str, Any]) -> HumanSignal:
    valued = [row for row in rows if name in row.scores]
    interval = weighted_auc(
        [_direct(name, row.scores[name]) for row in valued],
        [row.good for row in valued],
        [row.weight for row in valued],
        **draw,
    )
    return HumanSignal(signal=name, auc=interval, missing=len(rows) - len(valued))


def _direct(name: str, value: float) -> float:
    return SIGNALS[name].direct(value) if name in SIGNALS else value  # P(good) is a probability


def human_verdict(audit: HumanAudit, labels: Labels) -> dict[str, Any]:
    """Return the figures as plain values for a stage's result."""
    return {
        "pairs": len(audit.rows),
        "gone": labels.gone,
        "split": labels.split,
        "good": asdict(audit.good) if audit.good else None,
        "signals": [asdict(signal) for signal in audit.signals],
    }


def human_notes(audit: HumanAudit, model: str) -> list[str]:
    """Say in words what each signal is worth by human labels."""
    if not audit.rows:
        return [f"{model}: there are no human labels yet; `humpback label` makes some"]
    notes = []
    for signal in audit.signals:
        if signal.auc is None:
            notes.append(
                f"{model}: human labels do not judge {signal.signal}: good and bad pairs with a value are needed"
            )
            continue
        bounds = (
            "too few for an interval"
            if signal.auc.low is None or signal.auc.high is None
            else f"{signal.auc.low:.2f} to {signal.auc.high:.2f}"
        )
        notes.append(
            f"{model}: {signal.signal} against {signal.auc.n} human labels: AUC {signal.auc.value:.2f} ({bounds})"
        )
    return notes
