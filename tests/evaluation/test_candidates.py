"""What is said of the candidates' scores: collapse, shift and agreement, each shown where it is and not where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.candidates import compare_models, describe_scores
from humpback.evaluation.raters import InstructionResponse, Missing, Raters
from humpback.evaluation.rating import rating, sampled_rating
from humpback.prompts import Prompts
from humpback.records import Scored, content_id

NAMES = ("rating", "forward_lift")


def _scored(values: dict[str, float], number: int, missing: dict[str, str] | None = None) -> Scored:
    return Scored(
        id=content_id(str(number)),
        instruction="How?",
        response="So.",
        segment_id="",
        header_path="",
        source_uri="",
        title="",
        licence="",
        scores=values,
        missing=missing or {},
        scored_by="",
        iteration=1,
    )


def _candidates(n: int, seed: int, lift: float = 0.0) -> list[Scored]:
    draw = np.random.default_rng(seed)
    return [
        _scored(
            {
                "rating": float(draw.uniform(1, 5)),
                "forward_lift": float(draw.normal(lift)),
                "p_good": float(draw.uniform(0.2, 0.8)),
            },
            number,
        )
        for number in range(n)
    ]


def _audit_rows(n: int, seed: int) -> list[dict[str, Any]]:
    kinds = ("true", "voice", "echo")
    return [{"kind": kinds[i % 3], "scores": dict(row.scores)} for i, row in enumerate(_candidates(n, seed))]


def _describe(rows: list[Scored], audit: list[dict[str, Any]]) -> dict[str, Any]:
    return describe_scores(lambda: iter(rows), NAMES, audit)


def test_candidates_like_the_audit_are_not_told_apart() -> None:
    shift = _describe(_candidates(300, 1), _audit_rows(300, 2))["shift"]
    assert 0.4 < shift["auc"] < 0.6
    assert "may be carried over" in shift["meaning"]


def test_candidates_unlike_the_audit_are_told_apart_and_the_promise_is_doubted() -> None:
    shift = _describe(_candidates(300, 1, lift=4.0), _audit_rows(300, 2))["shift"]
    assert shift["auc"] > 0.95
    assert "human labels of candidates would close the gap" in shift["meaning"]
    assert set(shift["p_good"]) == {"candidates", "true", "corrupted"}


def test_scores_of_one_value_have_collapsed_and_others_have_not() -> None:
    rows = [_scored({"rating": 3.0 + 1e-9 * n, "forward_lift": n / 100}, n) for n in range(200)]
    audit = [{"kind": "true", "scores": {"rating": 1 + n / 50, "forward_lift": n / 100}} for n in range(200)]
    entropy = _describe(rows, audit)["entropy"]
    assert entropy["rating"]["collapsed"]
    assert str(entropy["rating"]["bits"]) == "0.0"  # and not -0.0
    assert not entropy["forward_lift"]["collapsed"]
    assert entropy["forward_lift"]["bits"] == pytest.approx(np.log2(10), abs=0.05)


def test_unparsed_ratings_are_counted_apart_from_other_reasons() -> None:
    rows = [
        _scored({"rating": 3.0}, 0),
        _scored({}, 1, {"rating": "unparsed: label mass 0.1 is below 0.5"}),
        _scored({}, 2, {"rating": "engine_error: out of memory"}),
    ]
    told = _describe(rows, [])
    assert (told["candidates"], told["with_value"]["rating"], told["unparsed"]["rating"]) == (3, 1, 1)
    assert told["shift"] is None
    assert told["prevalence"] is None


@pytest.mark.parametrize("reason", ["unparsed", "truncated", "out_of_range"])
def test_reply_without_a_verdict_counts_as_unparsed_whatever_kept_it_from_one(reason: str) -> None:
    rows = [_scored({}, 0, {"rating": f"{reason}: none of 3 replies gave a verdict (3 {reason})"})]
    assert _describe(rows, [])["unparsed"]["rating"] == 1


def test_pair_too_long_to_be_rated_counts_as_a_rating_that_was_not_given() -> None:
    engine = FakeEngine(fake_model(None))
    prompts = Prompts(engine.tokenizer, max_tokens=500, instruction_tokens=64)
    raters = Raters(model=engine, backward=engine, prompts=prompts, min_label_mass=0.5)
    for signal in (rating, sampled_rating):
        (found,) = signal([InstructionResponse("How?", "So. " * 400)], raters)
        assert isinstance(found, Missing)
        assert _describe([_scored({}, 0, {"rating": found.reason})], [])["unparsed"]["rating"] == 1


def test_same_scores_agree_wholly_and_unrelated_ones_not_at_all() -> None:
    rows = _candidates(500, 1)
    same, other = compare_models(rows, rows, NAMES), compare_models(rows, _candidates(500, 2), NAMES)
    for name in (*NAMES, "p_good"):
        assert same[name] == {"n": 500, "kappa": pytest.approx(1.0), "spearman": pytest.approx(1.0)}
        assert abs(other[name]["kappa"]) < 0.15
        assert abs(other[name]["spearman"]) < 0.15


def test_near_ratings_agree_more_than_far_ones() -> None:
    rows = [_scored({"rating": 1.0 + n % 5}, n) for n in range(200)]
    near = [_scored({"rating": min(5.0, 2.0 + n % 5)}, n) for n in range(200)]
    far = [_scored({"rating": 5.0 - n % 5}, n) for n in range(200)]
    assert compare_models(rows, near, NAMES)["rating"]["kappa"] > 0.6
    assert compare_models(rows, far, NAMES)["rating"]["kappa"] < 0


def test_constant_scores_have_no_agreement_rather_than_a_perfect_one() -> None:
    rows = [_scored({"rating": 3.0}, n) for n in range(20)]
    assert compare_models(rows, rows, NAMES)["rating"] == {"n": 20, "kappa": None, "spearman": None}
