"""On which settings of a study is its judge to be believed? In: what it ruled in every cell. Out: a doubt per setting, or None.

A setting is one trial: its training seeds answer the same prompts, so each prompt counts once, by the seeds in turn. All settings
are tried together, as a study has many and one that reads nothing would be believed on some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from humpback.benchmarking.judging import Ruling, Rulings
from humpback.benchmarking.trust import Asked, doubt_trials, try_judge
from humpback.store.fingerprint import derive_seed
from humpback.studies.grid import Study
from humpback.studies.outcome import Outcome, Row

__all__ = ["doubt_settings", "tell_doubts"]


def doubt_settings(study: Study, by_setting: Mapping[str, Sequence[Outcome]]) -> dict[str, str | None]:
    """Return by setting why the judge is not believed there; None where it is."""
    trials = [
        try_judge(
            _take_turns(outcomes),
            rechecked=False,  # a study asks nobody again
            resamples=study.resamples,
            confidence=study.confidence,
            seed=derive_seed(0, "study-bootstrap"),
        )
        for outcomes in by_setting.values()
    ]
    return dict(zip(by_setting, doubt_trials(trials, confidence=study.confidence), strict=True))


def _take_turns(outcomes: Sequence[Outcome]) -> list[Asked]:
    """Return each prompt once: of the seeds that can tell something of the judge there, the next in turn."""
    by_prompt: dict[str, list[Row]] = {}
    for outcome in outcomes:
        for row in outcome.judged:
            by_prompt.setdefault(row["prompt"], []).append(row)
    asked = []
    for turn, (_, rows) in enumerate(sorted(by_prompt.items())):
        telling = [row for row in rows if row["share"] is not None and row["output"] != row["baseline"]]
        if telling:
            row = telling[turn % len(telling)]
            asked.append(Asked(row["output"], row["baseline"], _read(row["orders"])))
    return asked


def _read(orders: Row) -> Rulings:
    return Rulings(model_first=Ruling(**orders["model_first"]), baseline_first=Ruling(**orders["baseline_first"]))


def tell_doubts(judge: str, doubts: Mapping[str, str | None]) -> list[str]:
    """Say on how many settings the judge is not believed, what that means, and why of each."""
    doubted = {name: why for name, why in doubts.items() if why}
    if not doubted:
        return []
    where = "any setting" if len(doubted) == len(doubts) else f"{len(doubted)} of {len(doubts)} settings"
    return [
        f"the judge {judge} is not believed on {where}: those win rates, differences from them and slopes through them are what it "
        "ruled, and say nothing of the answers",
        *(f"not believed on {name}: {why}" for name, why in doubted.items()),
    ]
