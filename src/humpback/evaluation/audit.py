"""The audit: can a model's signals tell held-out seed pairs from corruptions of them? Measured before they are believed.

Every held-out pair gives one true pair and one corruption of each kind. A signal's AUC is the chance that it ranks a true
pair above a corrupted one: 0.5 is a coin, 1 is perfect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback.evaluation.signals import InstructionResponse, Raters, SignalScores, compute_signals
from humpback.evaluation.stats import Interval, bootstrap_auc
from humpback.records import Pair
from humpback.store.fingerprint import derive_seed

__all__ = ["CORRUPTIONS", "AuditRow", "SignalAudit", "audit_signals", "corrupt", "verdict_of"]

CORRUPTIONS = ("shuffled", "truncated")


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One pair of the audit: a held-out pair or a corruption of it, with its scores."""

    pair_id: str
    kind: str
    """`true` or the name of the corruption."""
    scores: Mapping[str, float]
    missing: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SignalAudit:
    """How well one signal separates, per corruption and over all."""

    signal: str
    auc: Mapping[str, Interval]
    """By corruption; `all` is the mean over the kinds. Only pairs with a value for every kind count."""
    missing: int
    """Audit rows for which the signal had no value."""
    mean_true: float | None
    """Mean of the signal over true pairs."""


def corrupt(pairs: Sequence[Pair], random_seed: int) -> dict[str, list[InstructionResponse]]:
    """Return the true pairs and one corruption of each kind, all in the order of `pairs`."""
    return {
        "true": [InstructionResponse(pair.instruction, pair.response) for pair in pairs],
        "shuffled": _shuffled(pairs, random_seed),
        "truncated": [InstructionResponse(p.instruction, _truncated(p, random_seed)) for p in pairs],
    }


def _shuffled(pairs: Sequence[Pair], random_seed: int) -> list[InstructionResponse]:
    # a ring over a shuffled order: everyone gets the next one's response, so every response is used once; a neighbour
    # with the very same response ("Yes.") is passed over, for it would corrupt nothing
    order = sorted(range(len(pairs)), key=lambda i: derive_seed(random_seed, "audit-shuffle", pairs[i].id))
    giver: dict[int, int] = {}
    for place, i in enumerate(order):
        following = (order[(place + step) % len(order)] for step in range(1, len(order)))
        giver[i] = next((j for j in following if pairs[j].response != pairs[i].response), i)
    return [InstructionResponse(pair.instruction, pairs[giver[i]].response) for i, pair in enumerate(pairs)]


def _truncated(pair: Pair, random_seed: int) -> str:
    """Cut the response after 30 to 70 % of its words, not at a sentence's end where that can be helped."""
    words = list(re.finditer(r"\S+", pair.response))
    if len(words) < 2:
        return pair.response[: max(1, len(pair.response) // 2)]
    share = 0.3 + 0.4 * (derive_seed(random_seed, "audit-truncate", pair.id) % 1000) / 1000
    last = min(max(round(len(words) * share), 1), len(words) - 1)
    while last > 1 and words[last - 1].group()[-1] in ".!?:":
        last -= 1
    return pair.response[: words[last - 1].end()]


def audit_signals(
    pairs: Sequence[Pair],
    names: Sequence[str],
    raters: Raters,
    *,
    random_seed: int,
    resamples: int,
    confidence: float,
) -> tuple[list[AuditRow], list[SignalAudit]]:
    """Score true and corrupted pairs and return the rows and each signal's audit."""
    kinds = corrupt(pairs, random_seed)
    flat = [pair for group in kinds.values() for pair in group]
    scored = compute_signals(flat, names, raters)
    by_kind = {kind: scored[i * len(pairs) : (i + 1) * len(pairs)] for i, kind in enumerate(kinds)}
    rows = [
        AuditRow(pair_id=pair.id, kind=kind, scores=row.scores, missing={k: m.reason for k, m in row.missing.items()})
        for kind, group in by_kind.items()
        for pair, row in zip(pairs, group, strict=True)
    ]
    draw = {"resamples": resamples, "confidence": confidence, "seed": derive_seed(random_seed, "audit-bootstrap")}
    return rows, [_audit_one(name, by_kind, draw) for name in names]


def _audit_one(name: str, by_kind: Mapping[str, Sequence[SignalScores]], draw: Mapping[str, Any]) -> SignalAudit:
    groups = [by_kind["true"], *(by_kind[kind] for kind in CORRUPTIONS)]
    whole = [i for i in range(len(groups[0])) if all(name in group[i].scores for group in groups)]
    missing = sum(name not in row.scores for group in groups for row in group)
    result: dict[str, Interval] = {}
    if whole:
        true = [by_kind["true"][i].scores[name] for i in whole]
        corrupted = {kind: [by_kind[kind][i].scores[name] for i in whole] for kind in CORRUPTIONS}
        result = {kind: bootstrap_auc(true, [values], **draw) for kind, values in corrupted.items()}
        result["all"] = bootstrap_auc(true, list(corrupted.values()), **draw)
    mean_true = sum(by_kind["true"][i].scores[name] for i in whole) / len(whole) if whole else None
    return SignalAudit(signal=name, auc=result, missing=missing, mean_true=mean_true)


def verdict_of(audits: Sequence[SignalAudit], base_name: str, pairs: int) -> dict[str, Any]:
    """Choose the best signal and say in plain words what each one can and cannot see.

    A signal that has a value on fewer than half of the `pairs` held out, or too few for an interval, is not a candidate.
    """
    usable = [audit for audit in audits if _usable(audit, pairs)]
    best = max(usable, key=lambda audit: audit.auc["all"].value, default=None)
    notes = [note for audit in audits for note in _notes(audit, base_name, pairs)]
    return {
        "best": best.signal if best else None,
        "best_auc": best.auc["all"].value if best else None,
        "notes": notes,
        "signals": [asdict(audit) for audit in audits],
    }


def _usable(audit: SignalAudit, pairs: int) -> bool:
    interval = audit.auc.get("all")
    return interval is not None and interval.low is not None and 2 * interval.n >= pairs


def _notes(audit: SignalAudit, model: str, pairs: int) -> list[str]:
    if "all" not in audit.auc:
        return [f"{model}: {audit.signal} has no value on any audit pair; it cannot be used"]
    notes = []
    if not _usable(audit, pairs):
        n = audit.auc["all"].n
        return [f"{model}: {audit.signal} has a value on only {n} of {pairs} audit pairs; that is too few to judge it"]
    for kind in CORRUPTIONS:
        interval = audit.auc[kind]
        if interval.low is not None and interval.high is not None and interval.low <= 0.5 <= interval.high:
            notes.append(
                f"{model}: {audit.signal} cannot tell true from {kind} pairs better than a coin "
                f"(AUC {interval.value:.2f}, {interval.low:.2f} to {interval.high:.2f})"
            )
        elif interval.high is not None and interval.high < 0.5:
            notes.append(f"{model}: {audit.signal} prefers {kind} pairs to true ones (AUC {interval.value:.2f})")
        elif interval.value < 0.7:
            notes.append(f"{model}: {audit.signal} is weak against {kind} pairs (AUC {interval.value:.2f})")
    return notes
