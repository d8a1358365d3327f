"""Does M_t tell good pairs from spoilt ones as well as M_(t-1)? In: rows of both audits. Out: the change of AUC, paired by pair.

Both audits spoil the same held-out pairs in the same ways, so a pair is drawn with what both models say of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from humpback.evaluation.corruptions import KINDS
from humpback.evaluation.learning import Floats
from humpback.evaluation.signals import SIGNALS
from humpback.evaluation.stats import Interval, bootstrap_kinds_difference, compare_all

__all__ = ["AuditChange", "compare_audits"]

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class AuditChange:
    """How the audited AUC of one signal changed."""

    signal: str
    """What curated the pairs that M_t learnt."""
    difference: Interval | None
    """AUC of M_t minus that of M_(t-1), mean over the corruptions that both have; None where there is nothing to compare."""

    @property
    def fell(self) -> bool:
        """Whether the whole interval says that M_t is the worse judge."""
        return self.difference is not None and self.difference.high is not None and self.difference.high < 0


def compare_audits(
    before: Rows, now: Rows, signal: str, *, resamples: int, confidence: float, seed: int
) -> AuditChange:
    """Compare two audits of the same pairs by one signal."""
    place = {pair_id: i for i, pair_id in enumerate(dict.fromkeys(row["pair_id"] for row in [*before, *now]))}
    first, second = (_wins(rows, signal, place) for rows in (now, before))
    difference = bootstrap_kinds_difference(first, second, resamples=resamples, confidence=confidence, seed=seed)
    return AuditChange(signal=signal, difference=difference)


def _wins(rows: Rows, signal: str, place: Mapping[str, int]) -> dict[str, Floats]:
    direct = SIGNALS[signal].direct if signal in SIGNALS else float
    table = {kind: np.full(len(place), np.nan) for kind in ("true", *KINDS)}
    for row in rows:
        if signal in row["scores"]:
            table[row["kind"]][place[row["pair_id"]]] = direct(row["scores"][signal])
    return {kind: compare_all(table["true"], table[kind]) for kind in KINDS}
