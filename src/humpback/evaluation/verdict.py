"""What an audit comes to, in plain words and as JSON: the best signal, what each one cannot see, what P(good) is worth."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from humpback.evaluation.audit import BASELINES, Audit, SignalAudit
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.corruptions import KINDS

__all__ = ["tell_verdict"]

WEAK = 0.7


def tell_verdict(audit: Audit, model: str, pairs: int) -> dict[str, Any]:
    """Choose the best signal and say what each one can and cannot see.

    A signal that has a value on fewer than half of the `pairs` held out, or too few for an interval, is not a candidate; a
    baseline never is. P(good) is the best one when it is not worse than any single signal.
    """
    usable = [entry for entry in audit.signals if _usable(entry, pairs) and entry.signal not in BASELINES]
    # of equals P(good) is taken, which tells a probability, and then the first
    ranked = sorted(usable, key=lambda entry: (-entry.auc["all"].value, entry.signal != P_GOOD))
    best = ranked[0] if ranked else None
    notes = [f"{model}: {audit.note}"] if audit.note else []
    notes += [note for entry in audit.signals if entry.signal not in BASELINES for note in _notes(entry, model, pairs)]
    notes += _compare_words(audit, model)
    return {
        "best": best.signal if best else None,
        "best_auc": best.auc["all"].value if best else None,
        "notes": notes,
        "signals": [asdict(entry) for entry in audit.signals],
        "without": {kind: dict(counts) for kind, counts in audit.without.items()},
        "cost": dict(audit.cost),
        "calibration": _tell_fitted(audit),
        "note": audit.note,
    }


def _tell_fitted(audit: Audit) -> dict[str, Any] | None:
    if audit.fitted is None:
        return None
    probe = audit.fitted.judge.probe
    return {
        "columns": list(audit.fitted.judge.calibration.columns),
        "probe": {"layers": list(probe.layers), "strength": probe.strength} if probe else None,
        "reliability": asdict(audit.fitted.reliability),
        "points": [asdict(point) for point in audit.fitted.points],
        "unseen": {kind: asdict(interval) for kind, interval in audit.fitted.unseen.items()},
    }


def _usable(entry: SignalAudit, pairs: int) -> bool:
    whole = entry.auc.get("all")
    with_value = max((i.n for kind, i in entry.auc.items() if kind != "all"), default=0)
    return whole is not None and with_value >= 8 and 2 * with_value >= pairs


def _notes(entry: SignalAudit, model: str, pairs: int) -> list[str]:
    if "all" not in entry.auc:
        return [f"{model}: {entry.signal} has no value on any audit pair; it cannot be used"]
    if not _usable(entry, pairs):
        n = max(i.n for kind, i in entry.auc.items() if kind != "all")
        return [f"{model}: {entry.signal} has a value on only {n} of {pairs} audit pairs; that is too few to judge it"]
    coins, wrong, weak = [], [], []
    for kind in KINDS:
        interval = entry.auc.get(kind)
        if interval is None or interval.low is None or interval.high is None:
            continue
        told = f"{kind} {interval.value:.2f}"
        if interval.low <= 0.5 <= interval.high:
            coins.append(told)
        elif interval.high < 0.5:
            wrong.append(told)
        elif interval.value < WEAK:
            weak.append(told)
    said = [("cannot tell true pairs better than a coin from", coins), ("prefers to true pairs", wrong)]
    said.append(("is weak against", weak))
    return [f"{model}: {entry.signal} {what}: {', '.join(kinds)} (AUC)" for what, kinds in said if kinds]


def _compare_words(audit: Audit, model: str) -> list[str]:
    """Say where a bag of words does as well as P(good): there the wording, not the quality, may be what is read."""
    by_name = {entry.signal: entry.auc for entry in audit.signals}
    if P_GOOD not in by_name or "words" not in by_name:
        return []
    kinds = [
        kind
        for kind in KINDS
        if kind in by_name[P_GOOD]
        and kind in by_name["words"]
        and by_name["words"][kind].value >= max(by_name[P_GOOD][kind].value, WEAK)
    ]
    return [f"{model}: a bag of words does as well as P(good) on: {', '.join(kinds)}"] if kinds else []
