"""What a judge says of one of a run's models: when its change from another has an interval."""

from __future__ import annotations

import pytest

from humpback.benchmarking.iterations import JudgedPrompt, Met, measure_model
from humpback.benchmarking.judging import Ruling, Rulings
from humpback.recipe import EvaluateSettings, RunJudge


@pytest.mark.parametrize(("earlier", "bounds"), [("another", (None, None)), ("its own", (0.0, 0.0))])
def test_change_without_spread_has_an_interval_only_between_equal_answers(
    earlier: str, bounds: tuple[float | None, float | None]
) -> None:
    better, worse = Ruling(first=1.0, kind="parsed"), Ruling(first=0.0, kind="parsed")
    rulings = Rulings(model_first=better, baseline_first=worse)
    judged = [
        JudgedPrompt(prompt=f"{n}?", category="", output="its own", baseline="other", rulings=rulings)
        for n in range(12)
    ]
    before = {"M_1": {one.prompt: Met(1.0, earlier) for one in judged}}
    settings = EvaluateSettings(resamples=100)
    (change,) = measure_model(judged, before, settings, model="M_2", baseline="B", random_seed=0)["changes"]
    assert (change["value"], change["low"], change["high"], change["n"]) == (0.0, *bounds, 12)


def test_every_interval_is_at_the_level_that_the_recipe_asks_for() -> None:
    def rule(first: float, second: float) -> Rulings:
        one, other = (Ruling(first=share, kind="parsed") for share in (first, second))
        return Rulings(model_first=one, baseline_first=other)

    orders = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    judged = [
        JudgedPrompt(
            prompt=f"{n}?",
            category="",
            output="x" * (1 + n * 7 % 11),
            baseline="y" * (1 + n * 5 % 13),
            rulings=rule(*orders[n % 5]),
            again=rule(*orders[n % 4]),
        )
        for n in range(60)
    ]
    judge = RunJudge(model="J", prompts="p.jsonl")

    def widths(confidence: float) -> list[float]:
        settings = EvaluateSettings(resamples=400, confidence=confidence, judge=judge)
        told = measure_model(judged, {}, settings, model="M_1", baseline="M_0", random_seed=0)
        rates = [told["win_rate"], told["length_controlled"]]
        rates += [told["judge"][name] for name in ("first_place", "agreement", "self_consistency")]
        return [rate["high"] - rate["low"] for rate in rates]

    assert all(narrow < wide for narrow, wide in zip(widths(0.8), widths(0.95), strict=True))
