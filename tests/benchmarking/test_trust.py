"""A judge that does not read the answers is not believed, however narrow the interval of its win rate."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from humpback.benchmarking.judging import Ruling, Rulings
from humpback.benchmarking.trust import doubt_judge

N = 80
Judge = Callable[[random.Random, float], float | None]
"""Draws the share of the answer that stands first, from the share that it deserves."""


def _rule(rng: random.Random, judge: Judge, deserved: float) -> Rulings:
    shares = judge(rng, deserved), judge(rng, 1 - deserved)
    first, second = (Ruling(first=share, kind="unparsed" if share is None else "parsed") for share in shares)
    return Rulings(model_first=first, baseline_first=second)


def _doubt(judge: Judge, *, n: int = N, wins: float = 0.5, replies: bool = True, seed: int = 0) -> str | None:
    rng = random.Random(seed)
    deserved = [1.0 if rng.random() < wins else 0.0 for _ in range(n)]
    rulings = [_rule(rng, judge, share) for share in deserved]
    again = {place: _rule(rng, judge, deserved[place]) for place in range(20)} if replies else None
    return doubt_judge(rulings, again, resamples=500, confidence=0.95, seed=0)


def _reader(right: float) -> Judge:
    return lambda rng, deserved: deserved if rng.random() < right else 1 - deserved


def _placed(first: float, tied: float = 0.0) -> Judge:
    return lambda rng, _: 0.5 if rng.random() < tied else float(rng.random() < first)


@pytest.mark.parametrize("wins", [0.5, 0.95, 1.0])
def test_judge_that_mostly_reads_is_believed_however_one_sided_the_answers_are(wins: float) -> None:
    assert _doubt(_reader(0.95), wins=wins) is None
    assert _doubt(_reader(1.0), wins=wins) is None


@pytest.mark.parametrize(
    "blind", [_placed(0.5), _placed(0.7), _placed(0.3), _placed(0.5, tied=0.6), _placed(0.5, tied=1.0)]
)
def test_judge_that_reads_nothing_is_not_believed_whatever_it_prefers(blind: Judge) -> None:
    # a test at 2.5 % may be fooled now and then; of eight draws at most one
    believed = [seed for seed in range(8) if _doubt(blind, seed=seed) is None]
    assert len(believed) <= 1


@pytest.mark.parametrize("tied", [0.3, 0.5])
def test_judge_that_reads_the_instruction_alone_is_not_believed_for_tying_on_some_always(tied: float) -> None:
    believed = []
    for seed in range(8):
        rng = random.Random(seed)
        rulings, again = [], {}
        for place in range(N):
            ties = rng.random() < tied
            rulings.append(_rule(rng, _placed(0.5, tied=float(ties)), 1.0))
            if place < 20:
                again[place] = _rule(rng, _placed(0.5, tied=float(ties)), 1.0)
        if doubt_judge(rulings, again, resamples=500, confidence=0.95, seed=0) is None:
            believed.append(seed)
    assert len(believed) <= 1


def test_judge_that_hardly_ever_names_an_answer_is_not_believed() -> None:
    told = _doubt(_placed(0.5, tied=1.0)) or ""
    assert f"it names an answer in both orders on 0 of {N} prompts" in told


def test_judge_that_follows_the_place_is_not_believed_though_its_orders_would_agree_on_the_rest() -> None:
    def placed(rng: random.Random, deserved: float) -> float:
        return 1.0 if rng.random() < 0.8 else deserved

    assert "to the answer that stands first" in (_doubt(placed) or "")
    told = _doubt(lambda rng, deserved: 1 - placed(rng, 1 - deserved)) or ""
    assert "to the answer that stands second" in told
    assert "beyond 75 %" in told


def test_judge_that_says_something_else_when_asked_again_is_not_believed() -> None:
    rng = random.Random(1)
    deserved = [float(rng.random() < 0.5) for _ in range(N)]
    rulings = [_rule(rng, _reader(1.0), share) for share in deserved]
    again = {place: _rule(rng, _placed(0.5), deserved[place]) for place in range(20)}
    told = doubt_judge(rulings, again, resamples=500, confidence=0.95, seed=0)
    assert "asked again it says the same on" in (told or "")
    assert doubt_judge(rulings, None, resamples=500, confidence=0.95, seed=0) is None, "probabilities are not drawn"


def test_too_few_verdicts_are_no_reason_to_believe() -> None:
    assert "7 prompts" in (_doubt(_reader(1.0), n=7, replies=False) or "")
    assert "0 prompts" in (_doubt(lambda *_: None) or "")


def test_too_few_second_verdicts_are_no_reason_to_believe() -> None:
    rng = random.Random(0)
    rulings = [_rule(rng, _reader(1.0), float(place % 2)) for place in range(N)]
    again = {place: _rule(rng, lambda *_: None, 1.0) for place in range(20)}
    told = doubt_judge(rulings, again, resamples=500, confidence=0.95, seed=0) or ""
    assert "asked again it gave 0 prompts" in told
    assert "8 are needed: raise evaluate.judge.recheck" in told
