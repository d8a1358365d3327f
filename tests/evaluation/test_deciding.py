"""Decisions: P(good) where it is worth it, a promise or a refusal with a number, and never a selection by what was not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from humpback.errors import GateError, RecipeError
from humpback.evaluation.deciding import advise_on_none, decide
from humpback.evaluation.precision import measure_operating_points
from humpback.recipe import CurateSettings


def _signal(name: str, value: float) -> dict[str, Any]:
    return {"signal": name, "auc": {"all": {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 50}}}


def _audit(best: str, *, calibrated: bool = True, gap: float = 3.0, **auc: float) -> dict[str, Any]:
    true = [gap + n / 50 for n in range(50)]
    corrupted = [[n / 50 + k / 12 for k in range(12)] for n in range(50)]
    points = [asdict(point) for point in measure_operating_points(true, corrupted, confidence=0.95)]
    return {
        "best": best,
        "best_auc": auc[best],
        "signals": [_signal(name, value) for name, value in auc.items()],
        "notes": [],
        "note": "" if calibrated else "10 held-out pairs are too few for P(good)",
        "calibration": {"points": points} if calibrated else None,
    }


def _scores(rated: int = 100, unparsed: int = 0, prevalence: float | None = 0.4, shift: float = 0.6) -> dict[str, Any]:
    return {
        "with_value": {"rating": rated},
        "unparsed": {"rating": unparsed},
        "prevalence": prevalence,
        "shift": {"auc": shift, "meaning": "a guess here"},
    }


def test_auto_takes_p_good_where_it_is_the_best() -> None:
    decision = decide(CurateSettings(), _audit("p_good", p_good=0.9, rating=0.6), _scores())
    assert (decision.signal, decision.policy, decision.value) == ("p_good", "top", 0.4)
    assert "calibrated on the audit" in decision.why


def test_auto_takes_the_best_signal_and_says_why_there_is_no_p_good() -> None:
    decision = decide(
        CurateSettings(), _audit("forward_lift", calibrated=False, forward_lift=0.9, rating=0.6), _scores()
    )
    assert decision.signal == "forward_lift"
    assert "10 held-out pairs are too few" in decision.why


def test_p_good_that_was_not_fitted_cannot_be_asked_for() -> None:
    audit = _audit("rating", calibrated=False, rating=0.9)
    for settings in (CurateSettings(signal="p_good"), CurateSettings(policy="precision")):
        with pytest.raises(GateError, match=r"needs P\(good\), and there is none: 10 held-out pairs are too few"):
            decide(settings, audit, _scores())


# -- precision -----------------------------------------------------------------------------------------------------------


def test_precision_that_can_be_promised_gives_a_cut_off_and_states_its_assumption() -> None:
    decision = decide(CurateSettings(policy="precision", precision=0.8), _audit("p_good", p_good=0.95), _scores())
    assert (decision.signal, decision.policy) == ("p_good", "precision")
    assert decision.promise is not None
    assert decision.value == decision.promise.point.threshold
    assert decision.promise.precision_low >= 0.8
    assert "where 40% of the candidates are good" in decision.why


def test_precision_that_cannot_be_promised_is_refused_with_the_best_that_can() -> None:
    audit = _audit("p_good", gap=0.0, p_good=0.6)
    with pytest.raises(
        GateError, match=r"curate.precision=0.95 cannot be promised where 40% .* best that can be promised is 0\.\d\d"
    ):
        decide(CurateSettings(policy="precision", precision=0.95), audit, _scores())


def test_estimated_prevalence_is_never_taken_for_more_than_the_audits() -> None:
    decision = decide(
        CurateSettings(policy="precision", precision=0.8), _audit("p_good", p_good=0.95), _scores(prevalence=0.9)
    )
    assert decision.promise is not None
    assert decision.promise.prevalence == 0.5


def test_stated_prevalence_is_used_and_doubted_where_the_candidates_speak_against_it() -> None:
    settings = CurateSettings(policy="precision", precision=0.8, prevalence=0.5)
    decision = decide(settings, _audit("p_good", p_good=0.95), _scores(prevalence=0.1))
    assert decision.promise is not None
    assert decision.promise.prevalence == 0.5
    assert "speaks for 0.10" in decision.warnings[0]


def test_promise_over_candidates_unlike_the_audit_comes_with_a_warning() -> None:
    audit, settings = _audit("p_good", p_good=0.95), CurateSettings(policy="precision", precision=0.8)
    assert decide(settings, audit, _scores(shift=0.95)).warnings == ("a guess here",)
    assert decide(settings, audit, _scores(shift=0.6)).warnings == ()


def test_nothing_to_estimate_the_prevalence_from_is_refused() -> None:
    with pytest.raises(GateError, match=r"set curate.prevalence"):
        decide(CurateSettings(policy="precision"), _audit("p_good", p_good=0.95), _scores(prevalence=None))


# -- ratings that were not given -------------------------------------------------------------------------------------------


def test_too_few_ratings_stop_the_stage_where_the_recipe_says_so() -> None:
    settings = CurateSettings(signal="rating", when_unparsed="stop")
    with pytest.raises(
        GateError, match=r"rating was given on 40% of the candidates, below curate.min_parsed=0.5; take another"
    ):
        decide(settings, _audit("rating", rating=0.9, forward_lift=0.8), _scores(40, 60))


def test_advice_on_too_few_ratings_does_not_name_what_the_recipe_has_already() -> None:
    settings = CurateSettings(policy="threshold")  # when_unparsed is switch
    with pytest.raises(GateError, match=r"leave out curate\.policy=threshold") as told:
        decide(settings, _audit("rating", rating=0.9, forward_lift=0.8), _scores(40, 60))
    assert "let curate.when_unparsed=switch" not in str(told.value)


def test_too_few_ratings_switch_to_the_best_other_signal_and_it_is_said() -> None:
    audit = _audit("rating", calibrated=False, rating=0.9, backward_lift=0.7, forward_lift=0.8)
    decision = decide(CurateSettings(signal="rating"), audit, _scores(40, 60))
    assert (decision.signal, decision.policy) == ("forward_lift", "top")
    assert "rating was given on 40% of the candidates" in decision.warnings[0]
    assert "forward_lift is used instead" in decision.warnings[0]


def test_rows_that_failed_are_no_unparsed_ratings() -> None:
    scores: Mapping[str, Any] = {**_scores(40, 10), "candidates": 1000}  # on 950 the engine failed: another matter
    assert decide(CurateSettings(signal="rating"), _audit("rating", rating=0.9), scores).signal == "rating"


def test_too_few_ratings_and_nothing_else_stop_the_stage() -> None:
    with pytest.raises(GateError, match="when_unparsed=switch finds no other audited signal; add one"):
        decide(CurateSettings(signal="rating"), _audit("rating", calibrated=False, rating=0.9), _scores(0, 10))


# -- recipe --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"policy": "precision", "signal": "rating"}, "promises with P"),
        ({"policy": "threshold", "signal": "probe"}, "cuts ratings of 1 to 5, not probe"),
        ({"prevalence": 1.5}, "not between 0 and 1"),
        ({"precision": 0.4}, "greater than 0.5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, RecipeError), match=told):
        CurateSettings(**given)


def test_threshold_needs_a_rating() -> None:
    with pytest.raises(GateError, match=r"add rating to score\.signals"):
        decide(CurateSettings(policy="threshold"), _audit("forward_lift", forward_lift=0.9), _scores())
    assert (
        decide(CurateSettings(policy="threshold"), _audit("p_good", p_good=0.9, rating=0.7), _scores()).signal
        == "rating"
    )


def test_another_cut_off_is_not_advised_where_no_candidate_has_a_value() -> None:
    decision = decide(CurateSettings(signal="rating"), _audit("rating", rating=0.9))
    assert "curate.threshold" in advise_on_none(decision, {"below_threshold": 3, "no_rating_too_long": 9})
    too_long = advise_on_none(decision, {"no_rating_too_long": 11, "no_rating_engine_error": 1})
    assert "curate.threshold" not in too_long
    assert "model.max_tokens" in too_long
    assert "model.max_tokens" not in advise_on_none(decision, {"no_rating_unparsed": 12})
