"""Rates, their intervals, and where they are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, sem

from humpback.benchmarking.comparisons import Comparison
from humpback.benchmarking.judging import Ruling, Rulings
from humpback.benchmarking.winrates import by_category, by_length, control_length, examine_judge, rate, sign_test


def _ruling(share: float | None) -> Ruling:
    return Ruling(first=share, kind="parsed" if share is not None else "unparsed")


def _both(model_first: float | None, baseline_first: float | None) -> Rulings:
    return Rulings(model_first=_ruling(model_first), baseline_first=_ruling(baseline_first))


def _comparison(share: float | None, *, chars: int = 10, category: str = "") -> Comparison:
    return Comparison(
        model="m", baseline="b", prompt="x", share=share, model_chars=chars, baseline_chars=100, category=category
    )


def test_intervals_hold_the_true_rate_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = {"bootstrap": 0, "normal": 0}
    for trial in range(100):
        found = rate(rng.binomial(1, 0.6, 100).tolist(), seed=trial)
        assert found.low is not None
        assert found.high is not None
        assert found.normal_low is not None
        assert found.normal_high is not None
        held["bootstrap"] += found.low <= 60 <= found.high
        held["normal"] += found.normal_low <= 60 <= found.normal_high
    assert all(85 <= count <= 100 for count in held.values())


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([], "no prompt has a verdict"),
        ([1.0], "1 prompt is too few"),
        ([1.0, 0.0] * 3, "6 prompts are too few"),
        ([1.0] * 50, "all prompts came out alike"),
    ],
)
def test_interval_is_refused_rather_than_invented(shares: list[float], words: str) -> None:
    found = rate(shares, seed=0)
    assert (found.low, found.high, found.normal_low) == (None, None, None)
    assert found.reason is not None
    assert words in found.reason


def test_rows_of_a_group_are_drawn_together_and_copies_say_nothing_new() -> None:
    shares = np.random.default_rng(2).random(40).tolist()
    once, groups = rate(shares, seed=0), [n for n in range(40) for _ in range(3)]
    copied = rate(np.repeat(shares, 3).tolist(), seed=0, groups=groups)
    assert copied.n == 120
    for name in ("value", "low", "high", "normal_low", "normal_high"):
        assert getattr(copied, name) == pytest.approx(getattr(once, name)), name


def test_normal_interval_without_groups_is_the_standard_errors() -> None:
    shares = np.random.default_rng(2).random(40)
    found = rate(shares.tolist(), seed=0)
    half = 100 * norm.ppf(0.975) * sem(shares)
    assert (found.normal_low, found.normal_high) == pytest.approx(
        (100 * shares.mean() - half, 100 * shares.mean() + half)
    )


def test_few_prompts_have_a_bootstrap_and_no_normal_interval() -> None:
    found = rate([1.0, 0.0] * 6, seed=0)
    assert found.low is not None
    assert found.normal_low is None
    assert "30 are needed" in (found.reason or "")


def test_normal_interval_that_would_pass_a_hundred_is_refused() -> None:
    found = rate([1.0] * 39 + [0.0], seed=0)
    assert found.high == 100
    assert (found.normal_low, found.normal_high) == (None, None)
    assert "near to 0 or 100" in (found.reason or "")


def test_equal_probabilities_of_both_orders_are_a_tie_to_the_last_digit() -> None:
    drawn = np.random.default_rng(0).random(1000).tolist()
    assert {_both(share, share).share for share in drawn} == {0.5}


def test_ties_do_not_enter_the_sign_test() -> None:
    assert sign_test([1.0] * 8 + [0.5] * 90) == pytest.approx(2 * 0.5**8)
    assert sign_test([0.5] * 9) is None


def test_category_of_one_prompt_has_a_rate_without_interval() -> None:
    found = by_category([_comparison(1.0, category="lone"), *[_comparison(0.0, category="many")] * 9], seed=0)
    assert (found["lone"].value, found["lone"].low) == (100, None)
    assert "1 prompt is" in (found["lone"].reason or "")


def test_category_without_any_verdict_is_shown_as_such() -> None:
    assert by_category([_comparison(None, category="a")], seed=0)["a"].value is None
    assert by_category([_comparison(1.0)], seed=0) == {}


def test_lengths_within_a_tenth_are_as_long() -> None:
    found = by_length([_comparison(1.0, chars=n) for n in (50, 89, 91, 100, 109, 130)], seed=0)
    assert {name: row.n for name, row in found.items()} == {"shorter": 2, "as_long": 3, "longer": 1}


def test_rate_at_equal_lengths_is_even_when_only_length_wins() -> None:
    rng = np.random.default_rng(0)
    chars = rng.integers(40, 260, 300)
    made = [_comparison(float(rng.random() < 1 / (1 + np.exp(-(n - 100) / 20))), chars=int(n)) for n in chars]
    found = control_length(made, seed=0)
    raw = rate([c.share for c in made if c.share is not None], seed=0)
    assert raw.low is not None
    assert raw.low > 55
    assert found.low is not None
    assert found.high is not None
    assert found.low < 50 < found.high


@pytest.mark.parametrize(
    ("comparisons", "words"),
    [
        ([_comparison(1.0)] * 9, "9 prompts are too few"),
        ([_comparison(n % 2, chars=900) for n in range(40)], "longer on every prompt"),
        ([_comparison(1.0, chars=80 + n) for n in range(40)], "all prompts came out alike"),
    ],
)
def test_rate_at_equal_lengths_is_refused_where_length_cannot_be_told_from_the_model(
    comparisons: list[Comparison], words: str
) -> None:
    assert words in (control_length(comparisons, seed=0).reason or "")


def test_judge_that_takes_the_first_is_found_out() -> None:
    found = examine_judge([_both(1.0, 1.0)] * 9 + [_both(1.0, 0.0)] * 3, {}, seed=0)
    assert found.first_place.value == pytest.approx(100 * (9 + 1.5) / 12)
    assert (found.flips_to_first, found.flips_to_second) == (9, 0)
    assert found.agreement.value == pytest.approx(25)
    assert found.self_consistency.value is None


def test_second_rulings_measure_self_consistency() -> None:
    found = examine_judge([_both(1.0, 0.0), _both(1.0, None)], {0: _both(1.0, 1.0), 1: _both(0.5, 0.0)}, seed=0)
    # of the first prompt one order of two came out alike, of the second the one that was ruled on did not
    assert (found.self_consistency.value, found.self_consistency.n) == (pytest.approx(25), 2)
    assert found.rulings == {"parsed": 3, "unparsed": 1}
