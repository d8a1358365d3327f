"""Curate: keep the best candidates by one audited signal. Global: the cut-off is taken over all scored candidates.

Memory is one (score, id, instruction digest) per candidate, about 200 bytes each; with the policy `diverse` its source and the
MinHash of its instruction besides, about 700 bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from humpback.corpus.dedup import normalise
from humpback.evaluation.deciding import Decision, decide, direct_score
from humpback.evaluation.diversity import Signatures, choose_diverse, sign_instruction
from humpback.evaluation.raters import ENGINE_ERROR
from humpback.records import Rejected, Scored
from humpback.stages.rejecting import reject

__all__ = ["Decision", "curate", "decide"]

Reason = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Ranked:
    """What is remembered of a candidate."""

    value: float
    """Turned so that higher is better."""
    id: str
    digest: bytes
    source: str = ""
    signature: Signatures | None = None


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


def _judge(scored: Iterable[Scored], decision: Decision) -> dict[str, Reason | None]:
    """Map each id to None (curated) or (reason, detail)."""
    name = decision.signal
    reasons: dict[str, Reason | None] = {}
    ranked: list[_Ranked] = []
    diverse = decision.policy == "diverse"
    for row in scored:
        if name in row.scores:
            value = direct_score(name, row.scores[name])
            more = (row.source_uri, sign_instruction(row.instruction)) if diverse else ()
            ranked.append(_Ranked(value, row.id, _digest(row.instruction), *more))
        else:
            # no value is not a low value: it is counted under a reason of its own
            why = row.missing.get(name, "not_computed: it is not among score.signals")
            word = why.partition(":")[0]
            reasons[row.id] = (f"no_{name}_{word}", why)
    ranked.sort(key=lambda one: (-one.value, one.id))
    rest = _drop_duplicates(_drop_below(ranked, decision, reasons), reasons)
    if decision.policy in ("threshold", "precision"):
        kept = rest
    else:
        count = _count(decision, len(ranked))
        kept = _spread(rest, count, decision, reasons) if diverse else rest[:count]
    reasons.update((one.id, None) for one in kept)
    for one in rest:
        told = f"{_tell(one, decision)} is not among the best {len(kept)}"
        reasons.setdefault(one.id, ("below_top", told))
    return reasons


def _drop_below(ranked: Sequence[_Ranked], decision: Decision, reasons: dict[str, Reason | None]) -> list[_Ranked]:
    """Return those at or above the cut-off, where there is one."""
    if decision.policy not in ("threshold", "precision"):
        return list(ranked)
    for one in ranked:
        if one.value < decision.value:
            reasons[one.id] = (
                "below_threshold",
                f"{_tell(one, decision)} is below {decision.value:g}",
            )
    return [one for one in ranked if one.value >= decision.value]


def _drop_duplicates(ranked: Iterable[_Ranked], reasons: dict[str, Reason | None]) -> list[_Ranked]:
    seen: set[bytes] = set()
    rest = []
    for one in ranked:
        if one.digest in seen:
            reasons[one.id] = ("duplicate_instruction", "a better-scored candidate has the same instruction")
        else:
            seen.add(one.digest)
            rest.append(one)
    return rest


def _spread(
    rest: Sequence[_Ranked], count: int, decision: Decision, reasons: dict[str, Reason | None]
) -> list[_Ranked]:
    """Return `count` of them, far from each other, with reasons for those that stood too near."""
    places, near = choose_diverse(
        [one.signature for one in rest if one.signature is not None],
        [one.source for one in rest],
        count=count,
        max_per_source=decision.max_per_source or len(rest),
        alike=decision.alike or 1.0,
    )
    for place, reason in near.items():
        reasons[rest[place].id] = reason
    return [rest[place] for place in places]


def _tell(one: _Ranked, decision: Decision) -> str:
    return f"{decision.signal}={direct_score(decision.signal, one.value):.3f}"


def _count(decision: Decision, rated: int) -> int:
    return int(decision.value) if decision.value > 1 else max(1, math.floor(decision.value * rated + 0.5))


def _digest(instruction: str) -> bytes:
    return hashlib.sha256(normalise(instruction).encode("utf-8", "surrogatepass")).digest()[:16]
