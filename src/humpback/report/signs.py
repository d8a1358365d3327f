"""The failure signatures of the method, looked for in a run. In: the report's data, without them. Out: one row per sign, and its line.

Every sign that is listed here is told in every report, whether it was found or not: a check that could not be made says why, and is
never counted among the good news.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from humpback.evaluation.signs import Sign
from humpback.report import signs_models, signs_pairs

__all__ = ["CHECKS", "count_states", "find_signs", "sign_lines"]

Row = Mapping[str, Any]

CHECKS: Sequence[Callable[[Row], Sign]] = (
    signs_models.data_brings_nothing,
    signs_models.win_rate_falls,
    signs_models.iterations_turn,
    signs_models.nothing_new_learnt,
    signs_models.curation_is_worth_nothing,
    signs_models.backward_learnt_nothing,
    signs_pairs.instructions_off_topic,
    signs_pairs.instructions_nonsense,
    signs_pairs.instructions_alike,
    signs_pairs.signal_is_a_coin,
    signs_pairs.judge_worsens,
    signs_pairs.precision_falls,
    signs_pairs.ratings_unparsed,
    signs_pairs.scores_collapse,
    signs_pairs.audit_unlike_candidates,
    signs_pairs.all_kept,
)
"""A sign is named as its function is."""
ORDER = ("found", "cannot tell", "not checked", "not found")


def find_signs(data: Row) -> list[dict[str, Any]]:
    """Return every sign, those found first."""
    signs = [check(data) for check in CHECKS]
    return [asdict(sign) for state in ORDER for sign in signs if sign.state == state]


def count_states(signs: Sequence[Row]) -> str:
    """`2 found, 1 cannot tell, 3 not checked, 10 not found`."""
    counts = Counter(sign["state"] for sign in signs)
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def sign_lines(signs: Sequence[Row]) -> Iterator[str]:
    """Yield a line per sign for a terminal, with what to do about it; the figures of those not found are in the report."""
    for sign in signs:
        told = "" if sign["state"] == "not found" else f": {sign['told']}"
        advice = f". Try: {sign['advice']}" if sign["advice"] else ""
        yield f"{sign['state']}: {sign['what']}{told}{advice}"
