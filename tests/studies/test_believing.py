"""A study's judge is believed by setting: each prompt counts once whatever the seeds, and all settings are tried together."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from humpback.studies.believing import doubt_settings, tell_doubts
from humpback.studies.grid import AblationStudy

if TYPE_CHECKING:
    from collections.abc import Callable

    from humpback.studies.outcome import Outcome

STUDY = AblationStudy(recipe="r.yaml", factors={"data": ["seed", "base"]}, resamples=100)


def _outcome(rule: Callable[[int], tuple[float | None, float | None]], n: int, output: str = "ours") -> Outcome:
    rows = []
    for place in range(n):
        orders = dict(zip(("model_first", "baseline_first"), rule(place), strict=True))
        one, other = orders.values()
        rows.append(
            {
                "prompt": f"{place}?",
                "output": output,
                "baseline": "theirs",
                "share": None if one is None or other is None else 0.5 + (one - other) / 2,
                "orders": {name: {"first": first, "kind": "parsed", "detail": ""} for name, first in orders.items()},
            }
        )
    return cast("Outcome", SimpleNamespace(judged=rows))


def _reads(place: int) -> tuple[float, float]:
    return (1.0, 0.0) if place % 3 else (0.0, 1.0)


def test_judge_is_believed_where_it_reads_and_not_where_it_draws() -> None:
    rng = random.Random(0)
    coin: Any = _outcome(lambda _: (float(rng.random() < 0.5), float(rng.random() < 0.5)), 40)
    doubts = doubt_settings(STUDY, {"reads": [_outcome(_reads, 40)], "draws": [coin]})
    assert doubts["reads"] is None
    assert "reads no answer would on" in (doubts["draws"] or "")
    first, second = tell_doubts("J", doubts)
    assert "the judge J is not believed on 1 of 2 settings" in first
    assert second.startswith("not believed on draws: both orders name the same answer")
    assert tell_doubts("J", {"reads": None}) == []


def test_seeds_that_answer_alike_do_not_count_a_prompt_twice() -> None:
    # 6 of 8 by each seed: told as 24 prompts they would pass
    def rule(place: int) -> tuple[float, float]:
        return (1.0, 0.0) if place < 6 else (1.0, 1.0) if place == 6 else (0.0, 0.0)

    (doubt,) = doubt_settings(STUDY, {"a": [_outcome(rule, 8)] * 3}).values()
    assert "of 8 prompts" in (doubt or "")


def test_seed_that_has_no_verdict_on_a_prompt_gives_its_turn_to_the_next() -> None:
    def silent(_: int) -> tuple[None, None]:
        return None, None

    doubts = doubt_settings(STUDY, {"a": [_outcome(silent, 8), _outcome(_reads, 8)]})
    assert doubts == {"a": None}
    (doubt,) = doubt_settings(STUDY, {"a": [_outcome(_reads, 8, output="theirs")]}).values()
    assert "0 prompts with different answers" in (doubt or "")


@pytest.mark.parametrize(("settings", "believed"), [(1, True), (10, False)])
def test_settings_are_tried_together(settings: int, believed: bool) -> None:
    doubts = doubt_settings(STUDY, {str(n): [_outcome(_reads, 8)] for n in range(settings)})
    assert all((why is None) == believed for why in doubts.values())
