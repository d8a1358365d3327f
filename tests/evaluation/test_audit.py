"""The audit: corruptions are what they claim to be, and a pair without a value is counted as missing, never as low."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from humpback.engines.base import ChoiceLogprobs
from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.audit import CORRUPTIONS, SignalAudit, audit_signals, corrupt, verdict_of
from humpback.evaluation.signals import InstructionResponse, Missing, Raters, compute_signals
from humpback.evaluation.stats import Interval
from humpback.prompts import Choice, Prompt, Prompts
from humpback.records import Pair, content_id

SIGNALS = ("rating", "backward_lift", "forward_lift")
DRAW: dict[str, Any] = {"random_seed": 3, "resamples": 200, "confidence": 0.95}
WORDS = "river mountain copper lantern bridge garden window engine music bread winter market paper silver".split()


def _pairs(count: int) -> list[Pair]:
    dice = random.Random(0)
    pairs = []
    for number in range(count):
        words = dice.sample(WORDS, 4)
        response = " ".join(f"The {dice.choice(words)} meets the {word} on day {number}." for word in words)
        instruction = f"How do {words[0]} and {words[1]} meet on day {number}?"
        pairs.append(_pair(instruction, response))
    return pairs


def _pair(instruction: str, response: str) -> Pair:
    return Pair(
        id=content_id(instruction, response),
        instruction=instruction,
        response=response,
        split="holdout",
        source_uri="",
        licence="",
    )


class Rating(FakeEngine):
    """Rates by a given rule; what it returns for None is off the menu."""

    def __init__(self, rule: dict[str, float | str | None], default: float | str | None) -> None:
        super().__init__(fake_model(None))
        self.rule, self.default = rule, default

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        return [self._rate(prompt) for prompt in prompts]

    def _rate(self, prompt: Prompt) -> ChoiceLogprobs:
        found = [value for words, value in self.rule.items() if words in prompt.user]
        value = found[0] if found else self.default
        if isinstance(value, str):
            return ChoiceLogprobs(logprobs=(), mass=0.0, error=value)
        mass = 0.01 if value is None else 0.8
        shares = [1e-9] * 5
        for score in (math.floor(value or 1), math.ceil(value or 1)):
            shares[score - 1] += 1.0 if score == value else 1 - abs(score - (value or 1))
        return ChoiceLogprobs(logprobs=tuple(math.log(mass * share / sum(shares)) for share in shares), mass=mass)


def _raters(engine: FakeEngine, **changes: Any) -> Raters:
    prompts = Prompts(engine.tokenizer, max_tokens=4096, instruction_tokens=128)
    raters = Raters(model=engine, backward=FakeEngine(fake_model(None)), prompts=prompts, min_label_mass=0.5)
    return dataclasses.replace(raters, **changes)


# -- corruptions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 8, 40])
def test_nobody_keeps_their_own_response_and_every_response_is_used(count: int, seed: int) -> None:
    pairs = _pairs(count)
    shuffled = corrupt(pairs, seed)["shuffled"]
    assert [row.instruction for row in shuffled] == [pair.instruction for pair in pairs]
    assert all(row.response != pair.response for row, pair in zip(shuffled, pairs, strict=True))
    assert Counter(row.response for row in shuffled) == Counter(pair.response for pair in pairs)


def test_response_that_another_pair_shares_is_no_corruption() -> None:
    pairs = [_pair(f"Is {n} even?", "No." if n % 2 else "Yes.") for n in range(20)]
    shuffled = corrupt(pairs, 0)["shuffled"]
    assert all(row.response != pair.response for row, pair in zip(shuffled, pairs, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_truncated_response_is_a_proper_beginning_that_does_not_end_a_sentence(seed: int) -> None:
    pairs = _pairs(40)
    for row, pair in zip(corrupt(pairs, seed)["truncated"], pairs, strict=True):
        assert row.instruction == pair.instruction
        assert pair.response.startswith(row.response)
        assert 0.15 < len(row.response) / len(pair.response) < 0.75
        assert row.response[-1] not in ".!?:"
        assert pair.response[len(row.response)].isspace()  # whole words


@pytest.mark.parametrize(
    "response", ["Yes.", "x", "No. No.", "One word", "a. b. c. d. e. f. g. h. i.", "漢字漢字", " - "]
)
def test_short_response_is_truncated_too(response: str) -> None:
    cut = corrupt([_pair("Well?", response), *_pairs(3)], 0)["truncated"][0].response
    assert response.startswith(cut)
    assert cut
    assert cut != response or len(response) == 1


def test_true_pairs_are_as_they_are() -> None:
    pairs = _pairs(5)
    assert corrupt(pairs, 0)["true"] == [InstructionResponse(pair.instruction, pair.response) for pair in pairs]


def test_corruptions_depend_on_the_seed_and_on_nothing_else() -> None:
    pairs = _pairs(20)
    assert corrupt(pairs, 1) == corrupt(pairs, 1)
    for kind in CORRUPTIONS:
        assert corrupt(pairs, 1)[kind] != corrupt(pairs, 2)[kind]
    again = dict(zip(pairs[::-1], corrupt(pairs[::-1], 1)["shuffled"], strict=True))
    assert [again[pair] for pair in pairs] == corrupt(pairs, 1)["shuffled"]


# -- signals -------------------------------------------------------------------------------------------------------------


def test_rating_is_the_expected_score() -> None:
    pairs = [InstructionResponse("How?", text) for text in ("fine", "half", "poor")]
    engine = Rating({"fine": 5.0, "half": 3.5, "poor": 1.0}, None)
    values = [row.scores["rating"] for row in compute_signals(pairs, ["rating"], _raters(engine))]
    assert values == pytest.approx([5.0, 3.5, 1.0], abs=1e-6)


def test_unparsed_rating_is_not_a_low_rating() -> None:
    pairs = [InstructionResponse("How?", text) for text in ("fine", "mumble", "broken", "x" * 5000)]
    engine = Rating({"fine": 1.0, "mumble": None, "broken": "out of memory"}, 5.0)
    rows = compute_signals(pairs, ["rating"], _raters(engine))
    assert rows[0].scores["rating"] == pytest.approx(1.0, abs=1e-6)
    assert all(row.scores == {} for row in rows[1:])
    assert [row.missing["rating"].failed for row in rows[1:]] == [False, True, False]
    reasons = [row.missing["rating"].reason for row in rows[1:]]
    assert reasons[0].startswith("unparsed: label mass 0.010 is below 0.5")
    assert reasons[1] == "engine_error: out of memory"
    assert reasons[2].startswith("too_long: ")


def test_lift_is_the_difference_per_token_and_an_error_has_no_value() -> None:
    pair = InstructionResponse("How does the bread rise?", "Bread and yeast rise.")
    raters = _raters(FakeEngine(fake_model(None)))
    (row,) = compute_signals([pair], ["backward_lift"], raters)
    target = raters.prompts.target(pair.instruction)
    given, alone = (
        raters.backward.loglikelihood([raters.prompts.backward(text)], [target])[0] for text in (pair.response, "")
    )
    assert row.scores["backward_lift"] == pytest.approx((given.logprob - alone.logprob) / len(target.token_ids))
    assert row.scores["backward_lift"] > 0
    (failed,) = compute_signals([InstructionResponse("FAIL-ME", "So.")], SIGNALS, raters)
    assert failed.scores == {}
    assert failed.missing == dict.fromkeys(SIGNALS, Missing("engine_error: scripted failure", failed=True))


# -- audit ---------------------------------------------------------------------------------------------------------------


def test_signals_of_the_scripted_engine_see_what_they_should() -> None:
    pairs = _pairs(40)
    rows, audits = audit_signals(pairs, SIGNALS, _raters(FakeEngine(fake_model(None))), **DRAW)
    by_name = {audit.signal: audit for audit in audits}
    assert list(by_name) == list(SIGNALS)
    assert len(rows) == 40 * 3
    assert by_name["rating"].auc["truncated"].value > 0.9  # it looks at the last character
    assert by_name["backward_lift"].auc["shuffled"].value > 0.9  # it looks at shared words
    assert by_name["forward_lift"].auc["shuffled"].value > 0.9
    for audit in audits:
        assert set(audit.auc) == {*CORRUPTIONS, "all"}
        assert all(interval.n == 40 for interval in audit.auc.values())
        assert audit.missing == 0


def test_pair_with_an_unparsed_rating_leaves_the_audit_and_is_counted() -> None:
    pairs = _pairs(20)
    unparsed: dict[str, float | str | None] = {pair.instruction: None for pair in pairs[:5]}
    # among the rest true pairs are rated above corrupted ones, always; were the unparsed low, the AUC would fall
    rest: dict[str, float | str | None] = {f"{pair.instruction}\n\nText:\n{pair.response}\n": 5.0 for pair in pairs[5:]}
    rows, (audit,) = audit_signals(pairs, ["rating"], _raters(Rating({**unparsed, **rest}, 2.0)), **DRAW)
    assert audit.missing == 5 * 3
    assert audit.auc["all"] == Interval(value=1.0, low=1.0, high=1.0, n=15)
    assert audit.mean_true == pytest.approx(5.0, abs=1e-6)
    lost = [row for row in rows if row.pair_id in {pair.id for pair in pairs[:5]}]
    assert all(row.scores == {} and row.missing["rating"].startswith("unparsed: label mass") for row in lost)


def test_pair_whose_corruption_has_no_value_leaves_the_audit_whole() -> None:
    pairs = _pairs(20)
    truncated = corrupt(pairs, DRAW["random_seed"])["truncated"][0]
    rule: dict[str, float | str | None] = {f"{truncated.response}\n\nWhich score": None}
    _, (audit,) = audit_signals(pairs, ["rating"], _raters(Rating(rule, 3.0)), **DRAW)
    assert audit.missing == 1
    assert {interval.n for interval in audit.auc.values()} == {19}


def test_signal_without_any_value_cannot_be_chosen() -> None:
    pairs = _pairs(20)
    _, audits = audit_signals(pairs, ["rating", "backward_lift"], _raters(Rating({}, None)), **DRAW)
    verdict = verdict_of(audits, "M_0", 20)
    assert audits[0].auc == {}
    assert audits[0].mean_true is None
    assert audits[0].missing == 60
    assert verdict["best"] == "backward_lift"
    assert "M_0: rating has no value on any audit pair; it cannot be used" in verdict["notes"]
    nothing = verdict_of(audits[:1], "M_0", 20)
    assert (nothing["best"], nothing["best_auc"]) == (None, None)


def _audit(name: str, **auc: tuple[float, float | None, float | None]) -> SignalAudit:
    intervals = {kind: Interval(value=v, low=low, high=high, n=20) for kind, (v, low, high) in auc.items()}
    return SignalAudit(signal=name, auc=intervals, missing=0, mean_true=4.0)


def test_verdict_names_the_best_signal_and_what_each_cannot_see() -> None:
    strong = _audit("strong", shuffled=(0.95, 0.9, 1.0), truncated=(0.6, 0.55, 0.65), all=(0.8, 0.7, 0.9))
    weak = _audit("weak", shuffled=(0.55, 0.45, 0.65), truncated=(0.3, 0.2, 0.4), all=(0.45, 0.4, 0.5))
    verdict = verdict_of([weak, strong], "M_1", 20)
    assert (verdict["best"], verdict["best_auc"]) == ("strong", 0.8)
    assert verdict["notes"] == [
        "M_1: weak cannot tell true from shuffled pairs better than a coin (AUC 0.55, 0.45 to 0.65)",
        "M_1: weak prefers truncated pairs to true ones (AUC 0.30)",
        "M_1: strong is weak against truncated pairs (AUC 0.60)",
    ]
    assert [entry["signal"] for entry in verdict["signals"]] == ["weak", "strong"]


def test_of_equal_signals_the_first_is_best() -> None:
    same = {"shuffled": (0.8, 0.7, 0.9), "truncated": (0.8, 0.7, 0.9), "all": (0.8, 0.7, 0.9)}
    assert verdict_of([_audit("one", **same), _audit("other", **same)], "M_0", 20)["best"] == "one"


def test_signal_with_a_value_on_few_pairs_cannot_be_chosen() -> None:
    perfect = {"shuffled": (1.0, 1.0, 1.0), "truncated": (1.0, 1.0, 1.0), "all": (1.0, 1.0, 1.0)}
    good = {"shuffled": (0.9, 0.8, 1.0), "truncated": (0.9, 0.8, 1.0), "all": (0.9, 0.8, 1.0)}
    verdict = verdict_of([_audit("rare", **perfect), _audit("common", **good)], "M_0", 41)
    assert verdict["best"] is None
    assert "M_0: rare has a value on only 20 of 41 audit pairs; that is too few to judge it" in verdict["notes"]
    assert verdict_of([_audit("rare", **perfect)], "M_0", 40)["best"] == "rare"


def test_constant_signal_is_called_a_coin_and_not_a_preference() -> None:
    same = {"shuffled": (0.5, 0.5, 0.5), "truncated": (0.5, 0.5, 0.5), "all": (0.5, 0.5, 0.5)}
    notes = verdict_of([_audit("constant", **same)], "M_0", 20)["notes"]
    assert len(notes) == 2
    assert all("better than a coin" in note for note in notes)
