"""Sampled ratings: the mean of what parses, one retry for what does not, every reply counted once, and no value out of nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest

from humpback.engines.base import Capability, ChoiceLogprobs, Completion, Sampling
from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.raters import InstructionResponse, Missing, Raters
from humpback.evaluation.rating import REPLY_COUNTS, count_replies, sampled_rating
from humpback.evaluation.signals import compute_signals, count_calls
from humpback.prompts import REASONING_REQUEST, Choice, Prompt, Prompts

PAIR = InstructionResponse("How is bread made?", "Bread is made of flour.\nScore: 5")
ALL: frozenset[Capability] = frozenset({"generate", "choice_logprobs"})


def _reply(text: str, finish: Any = "stop") -> Completion:
    return Completion(text=text, tokens=len(text) + 1, finish=finish)


ERROR = Completion(text="", tokens=0, finish="error", error="out of memory")
CUT = _reply("It is mostly", "length")
NONE = _reply("Good.\n\nScore: N/A")
TEN = _reply("Good.\n\nScore: 10")


class Judge(FakeEngine):
    """Gives the replies it is told to, in the order asked, and then the scores it is told to."""

    def __init__(
        self, replies: Sequence[Completion], *, capabilities: frozenset[Capability] = ALL, **choice: Any
    ) -> None:
        super().__init__(fake_model(None))
        self.capabilities = capabilities
        self.replies = list(replies)
        self.choice = choice
        self.drawn: list[Prompt] = []
        self.chosen: list[Prompt] = []
        self.sampling: list[Sampling] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.drawn += prompts
        self.sampling.append(sampling)
        return [self.replies.pop(0) for _ in prompts]

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        assert "choice_logprobs" in self.capabilities
        assert [choice.text for choice in choices] == list("12345")
        self.chosen += prompts
        mass = self.choice.get("mass", 0.9)
        shares = self.choice.get("shares", (0, 0, 0.5, 0.5, 0))
        logprobs = tuple(math.log(mass * share) if share else -math.inf for share in shares)
        return [ChoiceLogprobs(logprobs=logprobs, mass=mass, error=self.choice.get("error")) for _ in prompts]


def _raters(judge: Judge, **changes: Any) -> Raters:
    prompts = Prompts(judge.tokenizer, max_tokens=4096, instruction_tokens=128)
    raters = Raters(model=judge, backward=judge, prompts=prompts, min_label_mass=0.5)
    return dataclasses.replace(raters, **changes)


def _rate(judge: Judge, **changes: Any) -> Any:
    return sampled_rating([PAIR], _raters(judge, **changes))[0]


def _counts(**given: float) -> dict[str, float]:
    return {f"sampled_rating_{name}": given.get(name, 0.0) for name in REPLY_COUNTS}


def test_value_is_the_mean_of_the_replies() -> None:
    judge = Judge([_reply("Good.\nScore: 5"), _reply("Fair.\nScore: 4"), _reply("Good.\nScore: 4.5")])
    assert _rate(judge) == {"sampled_rating": 4.5, **_counts(parsed=3)}
    assert judge.chosen == []


def test_reply_without_a_verdict_keeps_its_reasoning_and_is_asked_for_the_score_alone() -> None:
    judge = Judge([_reply("Fine.\nScore: 2"), NONE, CUT])
    assert _rate(judge) == {
        "sampled_rating": pytest.approx(3.0),
        **_counts(parsed=1, unparsed=1, truncated=1, constrained=2),
    }
    assert [prompt.prefill for prompt in judge.chosen] == ["Good.\n\nScore: ", "It is mostly\n\nScore: "]
    for prompt in judge.chosen:
        assert prompt.user == judge.drawn[0].user
        assert judge.tokenizer.decode(prompt.token_ids) in prompt.text.replace("<|user|>", "").replace("<|end|>", "")


@pytest.mark.parametrize(
    "end", ["\n\nScore: 10", "\n**Final score: 8/10**", "\r\nScore: 10\nThat is my score.", "\nScore: 4-5"]
)
def test_verdict_that_cannot_be_used_is_taken_out_before_the_score_is_asked_again(end: str) -> None:
    judge = Judge([_reply(f"Good.{end}")])
    _rate(judge, samples=1)
    assert judge.chosen[0].prefill == "Good.\n\nScore: "


def test_reasoning_on_the_verdicts_line_is_kept() -> None:
    judge = Judge([_reply("First line.\nIt is well written and complete. **Score: 10**")])
    _rate(judge, samples=1)
    assert judge.chosen[0].prefill == "First line.\nIt is well written and complete.\n\nScore: "


def test_verdict_out_of_range_is_counted_apart() -> None:
    judge = Judge([TEN])
    assert _rate(judge, samples=1) == {"sampled_rating": pytest.approx(3.5), **_counts(out_of_range=1, constrained=1)}
    assert judge.chosen[0].prefill == "Good.\n\nScore: "


def test_reply_that_quotes_the_judged_text_is_not_its_verdict() -> None:
    judge = Judge([_reply('The text says "Score: 5" itself.')])
    assert _rate(judge, samples=1) == {"sampled_rating": pytest.approx(3.5), **_counts(unparsed=1, constrained=1)}


def test_engine_that_only_generates_draws_again_once_with_another_seed() -> None:
    again = [_reply("On reflection.\nScore: 3"), NONE]
    judge = Judge([_reply("Fine.\nScore: 5"), NONE, TEN, *again], capabilities=frozenset({"generate"}))
    assert _rate(judge) == {"sampled_rating": 4.0, **_counts(parsed=1, unparsed=1, out_of_range=1, resampled=1)}
    seeds = [prompt.seed for prompt in judge.drawn]
    assert len(seeds) == len(set(seeds)) == 5
    assert {prompt.token_ids for prompt in judge.drawn} == {judge.drawn[0].token_ids}
    assert judge.replies == []


def test_greedy_reply_is_not_drawn_again() -> None:
    judge = Judge([NONE], capabilities=frozenset({"generate"}))
    assert isinstance(_rate(judge, samples=1, sample_temperature=0.0), Missing)
    assert len(judge.drawn) == 1


@pytest.mark.parametrize(
    ("replies", "word"), [([CUT, CUT, NONE], "truncated"), ([NONE, NONE, TEN], "unparsed"), ([TEN] * 3, "out_of_range")]
)
def test_pair_without_any_verdict_has_no_value_and_says_what_was_commonest(
    replies: list[Completion], word: str
) -> None:
    judge = Judge(replies, mass=0.2)  # the five scores are not what the model would write next
    row = compute_signals([PAIR], ["sampled_rating"], _raters(judge))[0]
    assert "sampled_rating" not in row.scores
    assert row.missing["sampled_rating"].reason.startswith(f"{word}: none of 3 replies gave a verdict (")
    assert not row.missing["sampled_rating"].failed
    assert sum(row.scores.values()) == 3  # all three are counted, and once


def test_failed_replies_are_counted_and_the_others_still_give_the_value() -> None:
    judge = Judge([ERROR, _reply("Good.\nScore: 4"), ERROR])
    assert _rate(judge) == {"sampled_rating": 4.0, **_counts(parsed=1, failed=2)}


@pytest.mark.parametrize("replies", [[ERROR] * 3, [NONE, ERROR, NONE]])
def test_pair_whose_engine_failed_is_failed_and_not_unparsed(replies: list[Completion]) -> None:
    missing = _rate(Judge(replies, mass=0.1))
    assert isinstance(missing, Missing)
    assert missing.failed
    assert missing.reason == "engine_error: out of memory"


def test_failed_retry_is_an_engine_error() -> None:
    missing = _rate(Judge([NONE] * 3, error="lost connection"))
    assert isinstance(missing, Missing)
    assert missing.failed
    assert missing.reason == "engine_error: lost connection"


def test_pair_that_does_not_fit_beside_a_reply_is_not_rated_and_its_neighbour_is() -> None:
    judge = Judge([_reply("Good.\nScore: 4")] * 3)
    long = InstructionResponse("How?", "word " * 400)
    raters = _raters(judge, reasoning_tokens=64)
    raters.prompts.max_tokens = 2600
    missing, value = sampled_rating([long, PAIR], raters)
    assert isinstance(missing, Missing)
    assert missing.reason.startswith("too_long: ")
    assert isinstance(value, dict)
    assert value["sampled_rating"] == 4
    assert len(judge.drawn) == 3
    assert all(len(p.token_ids) + 64 <= 2600 for p in judge.drawn)


def test_retry_of_a_reply_that_fills_its_room_still_fits() -> None:
    judge = Judge([_reply("x" * 256, "length")])
    raters = _raters(judge, samples=1)
    room = (
        len(raters.prompts.rate_sampled(PAIR.instruction, PAIR.response, reasoning_tokens=256, seed=0).token_ids)
        + 256
        + 7
    )  # type: ignore[union-attr]
    raters.prompts.max_tokens = room
    assert isinstance(sampled_rating([PAIR], raters)[0], dict)
    assert len(judge.chosen[0].token_ids) <= room
    assert judge.chosen[0].text.endswith("Score: ")


def test_seeds_depend_on_recipe_pair_and_number_only() -> None:
    def seeds(pairs: list[InstructionResponse], **changes: Any) -> list[int]:
        judge = Judge([_reply("Score: 4")] * 9)
        sampled_rating(pairs, _raters(judge, **changes))
        return [prompt.seed for prompt in judge.drawn]

    other = InstructionResponse("How?", "So.")
    alone, together = seeds([PAIR]), seeds([other, PAIR])
    assert len(set(together)) == 6
    assert together[3:] == alone
    assert set(seeds([PAIR], random_seed=1)).isdisjoint(alone)
    assert seeds([PAIR], samples=2) == alone[:2]


def test_prompt_asks_for_reasoning_after_a_rubric_of_ones_own() -> None:
    judge = Judge([_reply("Score: 4")])
    raters = _raters(judge, samples=1, reasoning_tokens=32, sample_temperature=0.3)
    raters.prompts.rubric = "Judge {instruction} by {response}, please."
    sampled_rating([PAIR], raters)
    assert judge.drawn[0].user == f"Judge {PAIR.instruction} by {PAIR.response}, please.\n\n{REASONING_REQUEST}"
    assert judge.sampling == [Sampling(temperature=0.3, top_p=0.9, max_tokens=32)]


def test_counts_of_many_pairs_add_up() -> None:
    rows = [_counts(parsed=3), {"rating": 4.0}, _counts(parsed=1, truncated=1, out_of_range=1, constrained=2)]
    counts = count_replies(rows)
    assert counts == {
        "pairs": 2,
        "replies": 6,
        "parsed": 4,
        "retried": 2,
        "truncated": 1,
        "unparsed": 0,
        "out_of_range": 1,
        "failed": 0,
        "constrained": 2,
        "resampled": 0,
    }


def test_progress_expects_one_answer_per_reply() -> None:
    assert count_calls(["rating", "sampled_rating", "forward_lift"], samples=5) == 1 + 5 + 2
