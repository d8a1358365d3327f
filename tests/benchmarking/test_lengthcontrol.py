"""The length-controlled win rate takes away what length won, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from humpback.benchmarking.comparisons import Comparison
from humpback.benchmarking.lengthcontrol import control_lengths, fit_difficulty
from humpback.errors import InputError


def _world(strengths: dict[str, float], *, phi: float, prompts: int = 400) -> tuple[list[Comparison], dict[str, float]]:
    """Return comparisons of a world in which the published model is true, and the rates at equal lengths."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, prompts)
    found, true = [], {}
    for model, theta in strengths.items():
        longer = rng.normal(300, 400, prompts).round()
        logit = theta + phi * np.tanh(longer / longer.std(ddof=1)) + hard
        for x in range(prompts):
            found.append(
                Comparison(
                    model=model,
                    baseline="base",
                    prompt=str(x),
                    share=float(1 / (1 + np.exp(-logit[x]))),
                    model_chars=int(2000 + longer[x]),
                    baseline_chars=2000,
                )
            )
        true[model] = float(100 * np.mean(1 / (1 + np.exp(-(theta + hard)))))
    return found, true


STRENGTHS = {"a": -2.0, "b": -1.0, "c": 0.0, "d": 0.5, "e": 1.0, "f": 2.0}


def test_rates_at_equal_lengths_are_recovered() -> None:
    comparisons, true = _world(STRENGTHS, phi=1.5)
    found = control_lengths(comparisons, fit_difficulty(comparisons))
    assert found == pytest.approx(true, abs=1.0)
    raw = {m: 100 * float(np.mean([c.share for c in comparisons if c.model == m])) for m in STRENGTHS}
    assert all(raw[m] > true[m] + 2 for m in STRENGTHS)  # length had won something


def test_baseline_against_itself_is_even_and_teaches_nothing() -> None:
    comparisons, _ = _world(STRENGTHS, phi=1.5)
    own = [
        Comparison(model="base", baseline="base", prompt=str(x), share=0.5, model_chars=9, baseline_chars=9)
        for x in range(400)
    ]
    alone, both = fit_difficulty(comparisons), fit_difficulty([*comparisons, *own])
    assert both.by_prompt == pytest.approx(alone.by_prompt)
    assert control_lengths([*comparisons, *own], both)["base"] == 50


def test_outputs_of_one_length_leave_the_rate_as_it_is() -> None:
    comparisons, _ = _world(STRENGTHS, phi=1.5)
    difficulty = fit_difficulty(comparisons)
    same = [
        Comparison(model="m", baseline="base", prompt=str(x), share=x % 4 / 4, model_chars=9, baseline_chars=9)
        for x in range(400)
    ]
    assert control_lengths(same, difficulty)["m"] == pytest.approx(37.5, abs=0.5)


def test_too_few_models_have_no_difficulty() -> None:
    comparisons, _ = _world({"a": 0.0, "b": 1.0}, phi=1.5, prompts=20)
    with pytest.raises(InputError, match="5 models or more, and there are 2"):
        fit_difficulty(comparisons)


def test_prompts_without_difficulty_are_refused() -> None:
    comparisons, _ = _world(STRENGTHS, phi=1.5, prompts=20)
    difficulty = fit_difficulty([c for c in comparisons if c.prompt != "7"])
    with pytest.raises(InputError, match="1 prompts have no difficulty, for example '7'"):
        control_lengths(comparisons, difficulty)
