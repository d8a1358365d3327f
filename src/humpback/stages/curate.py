"""Curate: keep the best candidates by one audited signal. Global: the cut-off is taken over all scored candidates.

Memory is one (score, id, instruction digest) per candidate: about 200 bytes each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from humpback.corpus.dedup import normalise
from humpback.errors import GateError
from humpback.evaluation.signals import ENGINE_ERROR, SIGNALS
from humpback.recipe import CurateSettings
from humpback.records import Rejected, Scored
from humpback.stages.rejecting import reject

__all__ = ["Decision", "curate", "decide"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """By which signal and how far down candidates are kept, and why."""

    signal: str
    policy: Literal["threshold", "top"]
    value: float
    """The lowest score kept (`threshold`), or the share or count kept (`top`)."""
    why: str
    warnings: tuple[str, ...]


def decide(settings: CurateSettings, audit: Mapping[str, Any]) -> Decision:
    """Choose the signal: the recipe's, or the best audited one. `audit` is the verdict on the model that scored."""
    by_name = {entry["signal"]: entry for entry in audit["signals"]}
    if settings.signal == "auto":
        if audit["best"] is None:
            raise GateError(
                "no signal has a value on the held-out pairs, so nothing can be curated; see the audit's notes: "
                + "; ".join(audit["notes"])
            )
        signal, why = audit["best"], f"best audited AUC, {audit['best_auc']:.2f} over all corruptions"
    else:
        signal, why = settings.signal, "set in the recipe"
    interval = by_name[signal]["auc"].get("all")
    warnings = []
    if interval is None:
        warnings.append(f"{signal} has no value on the held-out pairs: it is not audited")
    elif (interval["low"] if interval["low"] is not None else interval["value"]) <= 0.5:
        warnings.append(
            f"{signal} is no better than a coin on held-out pairs (AUC {interval['value']:.2f}): this curation is close to random"
        )
    if not SIGNALS[signal].iterates:
        warnings.append(
            f"{signal} does not change with the model that scores: an iteration that curates by it again keeps the same pairs"
        )
    if SIGNALS[signal].has_scale:
        return Decision(signal=signal, policy="threshold", value=settings.threshold, why=why, warnings=tuple(warnings))
    return Decision(signal=signal, policy="top", value=settings.top, why=why, warnings=tuple(warnings))


def curate(scored: Callable[[], Iterable[Scored]], decision: Decision) -> Iterator[Scored | Rejected]:
    """Yield every candidate as curated or with the reason why not. `scored` is called once per pass (two)."""
    reasons = _judge(scored(), decision)
    for row in scored():
        verdict = reasons[row.id]
        if verdict is None:
            yield row
        else:
            reason, detail = verdict
            yield reject(row, reason, detail, failed=reason.endswith(ENGINE_ERROR))


def _judge(scored: Iterable[Scored], decision: Decision) -> dict[str, tuple[str, str] | None]:
    """Map each id to None (curated) or (reason, detail)."""
    name = decision.signal
    reasons: dict[str, tuple[str, str] | None] = {}
    ranked: list[tuple[float, str, bytes]] = []
    for row in scored:
        if name in row.scores:
            ranked.append((-row.scores[name], row.id, _digest(row.instruction)))
        else:
            # no value is not a low value: it is counted under a reason of its own
            why = row.missing.get(name, "not_computed: it is not among score.signals")
            word = why.partition(":")[0]
            reasons[row.id] = (f"no_{name}_{word}", why)
    ranked.sort()
    keep = _count(decision, len(ranked)) if decision.policy == "top" else None
    seen: set[bytes] = set()
    kept = 0
    for negative, row_id, digest in ranked:
        value = -negative
        if decision.policy == "threshold" and value < decision.value:
            reasons[row_id] = ("below_threshold", f"{name}={value:.3f} is below {decision.value:g}")
        elif keep is not None and kept >= keep:
            reasons[row_id] = ("below_top", f"{name}={value:.3f} is not among the best {keep}")
        elif digest in seen:
            reasons[row_id] = ("duplicate_instruction", "a better-scored candidate has the same instruction")
        else:
            reasons[row_id] = None
            seen.add(digest)
            kept += 1
    return reasons


def _count(decision: Decision, rated: int) -> int:
    return int(decision.value) if decision.value > 1 else max(1, math.floor(decision.value * rated + 0.5))


def _digest(instruction: str) -> bytes:
    return hashlib.sha256(normalise(instruction).encode("utf-8", "surrogatepass")).digest()[:16]
