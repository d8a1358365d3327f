"""What a judge says of one of a run's models: when its change from another has an interval."""

from __future__ import annotations

import pytest

from humpback.benchmarking.iterations import JudgedPrompt, Met, measure_model
from humpback.benchmarking.judging import Ruling, Rulings
from humpback.recipe import EvaluateSettings


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
