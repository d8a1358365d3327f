"""Scaling: the fit gives back the slope that points were made of, and its interval covers pairs and seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from humpback.evaluation.scaling import ScalingFit, compare_fits, fit_line, fit_scaling, spread_settings

if TYPE_CHECKING:
    from humpback.evaluation.scaling import LogBase, Spread

SIZES = (100, 200, 400, 800)


def _settings(
    slope: float, *, prompts: int = 60, seeds: int = 3, noise: float = 0.1, spread: float = 0.0
) -> dict[str, dict[int, list[float]]]:
    """Return totals of one token each: slope * ln N + 3, plus what is hard for a prompt, a seed's luck and noise."""
    rng = np.random.default_rng(0)
    hard, luck = rng.normal(size=prompts), rng.normal(size=seeds) * spread
    return {
        str(n): {
            seed: list(slope * math.log(n) + 3 + hard + luck[seed] * math.log(n) + rng.normal(size=prompts) * noise)
            for seed in range(seeds)
        }
        for n in SIZES
    }


def _spreads(totals: dict[str, dict[int, list[float]]], prompts: int = 60) -> dict[str, Spread]:
    return spread_settings(totals, [1] * prompts, resamples=400, seed=1)


def _fit(slope: float, log_base: LogBase = "e", **changes: float) -> ScalingFit:
    spreads = _spreads(_settings(slope, **changes))  # type: ignore[arg-type]
    fit = fit_scaling([(n, spreads[str(n)]) for n in SIZES], log_base=log_base, confidence=0.95)
    assert isinstance(fit, ScalingFit)
    return fit


@pytest.mark.parametrize("alpha", [6.95, 5.69, 5.40, 4.53, 4.43, 2.86, 1.99, 0.22])
@pytest.mark.parametrize("log_base", ["e", 2, 10])
def test_published_slopes_come_back_from_points_on_their_lines(alpha: float, log_base: LogBase) -> None:
    """The paper gives slopes, but neither its points nor its base: the points are made from the slopes."""
    unit = 1.0 if log_base == "e" else math.log(log_base)
    values = [alpha * math.log(n) / unit + 10 for n in (3200, 6400, 12800, 25600)]
    found, intercept, r_squared = fit_line((3200, 6400, 12800, 25600), values, log_base=log_base)
    assert found == pytest.approx(alpha)
    assert intercept == pytest.approx(10)
    assert r_squared == pytest.approx(1)


def test_interval_of_the_slope_holds_the_true_one_and_no_zero() -> None:
    fit = _fit(-0.1)
    assert fit.alpha.low is not None
    assert fit.alpha.high is not None
    assert fit.alpha.low < -0.1 < fit.alpha.high < 0
    assert fit.r_squared is not None
    assert fit.r_squared > 0.9


def test_another_base_scales_the_slope_and_nothing_else() -> None:
    natural, decimal = _fit(-0.1), _fit(-0.1, log_base=10)
    assert decimal.alpha.value == pytest.approx(natural.alpha.value * math.log(10))
    assert decimal.intercept == pytest.approx(natural.intercept)


def test_seeds_that_differ_widen_the_interval() -> None:
    def width(fit: ScalingFit) -> float:
        assert fit.alpha.low is not None
        assert fit.alpha.high is not None
        return fit.alpha.high - fit.alpha.low

    assert width(_fit(-0.1, spread=0.05)) > 3 * width(_fit(-0.1))


def test_kinds_are_told_apart_where_their_slopes_differ_and_not_where_they_are_one() -> None:
    steep, flat = _fit(-0.2), _fit(0.0)
    apart, same, _ = compare_fits({"steep": steep, "flat": flat, "again": _fit(-0.2)}, confidence=0.95)
    assert (apart.kind, apart.against) == ("steep", "flat")
    assert apart.p_value is not None
    assert apart.p_value < 0.01
    assert apart.p_holm is not None
    assert apart.p_value < apart.p_holm < 0.05
    assert same.p_value == 1.0


def test_few_prompts_have_no_interval_and_no_p_value() -> None:
    spreads = _spreads(_settings(-0.1, prompts=5), prompts=5)
    fit = fit_scaling([(n, spreads[str(n)]) for n in SIZES], log_base="e", confidence=0.95)
    assert isinstance(fit, ScalingFit)
    assert fit.alpha.low is None
    (compared,) = compare_fits({"one": fit, "other": fit}, confidence=0.95)
    assert compared.p_value is None


def test_one_size_or_none_at_all_is_no_slope() -> None:
    spreads = _spreads(_settings(-0.1))
    assert fit_scaling([(100, spreads["100"])], log_base="e", confidence=0.95) == (
        "1 size was measured; a slope needs two or more"
    )
    assert fit_scaling([(0, spreads["100"]), (9, spreads["200"])], log_base="e", confidence=0.95) == (
        "a size of 0 has no logarithm"
    )


def test_a_setting_that_lacks_a_seed_is_resampled_over_its_own() -> None:
    totals = _settings(-0.1)
    del totals["200"][1]
    found = _spreads(totals)["200"]
    assert found.seeds == 2
    assert not np.isnan(found.interval(0.95).high or math.nan)


def test_a_value_is_total_over_tokens_as_everywhere() -> None:
    found = spread_settings({"a": {0: [2.0, 6.0] * 5}}, [1, 3] * 5, resamples=100, seed=0)["a"]
    assert found.value == 2.0
    assert np.allclose(found.draws, 2.0)
