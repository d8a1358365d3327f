"""A judge that does not read the answers is not believed, however narrow the interval of its win rate."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from humpback.benchmarking.judging import Ruling, Rulings
from humpback.benchmarking.trust import Asked, Trial, doubt_judge, doubt_trials, least_prompts

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
    asked = [Asked("ours", "theirs", _rule(rng, judge, share)) for share in deserved]
    if replies:
        asked = _recheck(asked, [_rule(rng, judge, share) for share in deserved[:20]])
    return _hold(asked, rechecked=replies)


def _recheck(asked: Sequence[Asked], again: Sequence[Rulings]) -> list[Asked]:
    return [one._replace(again=second) for one, second in zip(asked, again, strict=False)] + list(asked[len(again) :])


def _hold(asked: Sequence[Asked], *, rechecked: bool, confidence: float = 0.95) -> str | None:
    return doubt_judge(asked, rechecked=rechecked, resamples=100, confidence=confidence, seed=0)


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
        judges = [_placed(0.5, tied=float(rng.random() < tied)) for _ in range(N)]
        asked = [Asked("ours", "theirs", _rule(rng, judge, 1.0)) for judge in judges]
        asked = _recheck(asked, [_rule(rng, judge, 1.0) for judge in judges[:20]])
        if _hold(asked, rechecked=True) is None:
            believed.append(seed)
    assert len(believed) <= 1


@pytest.mark.parametrize(("n", "first"), [(8, 0.5), (8, 0.65), (24, 0.5), (48, 0.65)])
def test_coin_is_believed_as_seldom_on_few_prompts_as_on_many(n: int, first: float) -> None:
    # by probabilities near a half, of which nothing but the agreement of both orders tells; a bootstrap believed 20 % of them on 8
    coin: Judge = lambda rng, _: 0.51 if rng.random() < first else 0.49  # noqa: E731
    believed = sum(_doubt(coin, n=n, replies=False, seed=seed) is None for seed in range(400))
    assert believed <= 18  # at 2.5 % of 400 more than 18 come once in a hundred times


def test_habits_that_differ_by_prompt_make_no_coin_believed() -> None:
    rng, believed = random.Random(0), 0
    for _ in range(300):
        judges = [_placed(rng.choice([0.1, 0.5, 0.9])) for _ in range(24)]
        believed += _hold([Asked("a", "b", _rule(rng, judge, 1.0)) for judge in judges], rechecked=False) is None
    assert believed <= 14


def test_judge_that_reads_is_believed_from_the_least_number_of_prompts_on() -> None:
    for confidence in (0.9, 0.95, 0.99):
        least = least_prompts(confidence)
        right = Rulings(model_first=Ruling(first=1.0, kind="parsed"), baseline_first=Ruling(first=0.0, kind="parsed"))
        asked = [Asked("ours", "theirs", right)] * least
        assert _hold(asked, rechecked=False, confidence=confidence) is None
        told = _hold(asked[1:], rechecked=False, confidence=confidence) or ""
        assert f"{least - 1} prompts" in told
        assert f"{least} are needed" in told


def test_equal_answers_say_nothing_of_the_judge() -> None:
    right = Rulings(model_first=Ruling(first=1.0, kind="parsed"), baseline_first=Ruling(first=0.0, kind="parsed"))
    told = _hold([Asked("same", "same", right)] * 20 + [Asked("ours", "theirs", right)] * 3, rechecked=False)
    assert "3 prompts with different answers" in (told or "")


def test_several_trials_are_believed_together_as_seldom_as_one() -> None:
    trials = [Trial(p_value=p, told=f"p {p}") for p in (0.02, 0.004, 1.0)]
    assert doubt_trials(trials, confidence=0.95) == [
        "p 0.02, as one of 3 that are tried together",
        None,
        "p 1.0",
    ]
    assert doubt_trials(trials[:1], confidence=0.95) == [None]


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
    asked = [Asked("ours", "theirs", _rule(rng, _reader(1.0), share)) for share in deserved]
    asked = _recheck(asked, [_rule(rng, _placed(0.5), share) for share in deserved[:20]])
    told = _hold(asked, rechecked=True)
    assert "asked again it says the same on" in (told or "")
    assert _hold(asked, rechecked=False) is None, "probabilities are not drawn"


def test_too_few_verdicts_are_no_reason_to_believe() -> None:
    assert "7 prompts" in (_doubt(_reader(1.0), n=7, replies=False) or "")
    assert "0 prompts" in (_doubt(lambda *_: None) or "")


def test_too_few_second_verdicts_are_no_reason_to_believe() -> None:
    rng = random.Random(0)
    asked = [Asked("ours", "theirs", _rule(rng, _reader(1.0), float(place % 2))) for place in range(N)]
    asked = _recheck(asked, [_rule(rng, lambda *_: None, 1.0) for _ in range(20)])
    told = _hold(asked, rechecked=True) or ""
    assert "asked again it gave 0 prompts" in told
    assert "8 are needed: ask again about more (evaluate.judge.recheck, --recheck)" in told
