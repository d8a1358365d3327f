"""The audit: signals see what they should, what is learnt is judged on other pairs, and no value is counted, never low."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from humpback.engines.base import ChoiceLogprobs, Completion, Sampling
from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.audit import BASELINES, MIN_PAIRS, Audit, SignalAudit, audit_signals
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.corruptions import KINDS
from humpback.evaluation.signals import InstructionResponse, Missing, Raters, compute_signals
from humpback.evaluation.stats import Interval
from humpback.evaluation.verdict import tell_verdict
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


def _run(pairs: Sequence[Pair], names: Sequence[str], engine: FakeEngine) -> Audit:
    return audit_signals(pairs, names, _raters(engine), **DRAW)


@pytest.fixture(scope="module")
def audited() -> Audit:
    return _run(_pairs(30), ("rating", "backward_lift", "forward_lift", "ifd", "probe"), FakeEngine(fake_model(None)))


def _by_name(audit: Audit) -> dict[str, SignalAudit]:
    return {entry.signal: entry for entry in audit.signals}


def test_signals_of_the_scripted_engine_see_what_they_should(audited: Audit) -> None:
    found = _by_name(audited)
    assert list(found) == ["rating", "backward_lift", "forward_lift", "ifd", "probe", P_GOOD, *BASELINES]
    assert found["rating"].auc["cut_end"].value > 0.9  # it looks at the last character
    assert found["probe"].auc["cut_end"].value > 0.7  # so do its hidden states, among noise
    assert found["backward_lift"].auc["mismatch_random"].value > 0.8  # it looks at shared words
    assert found["forward_lift"].auc["mismatch_random"].value > 0.8
    assert found["ifd"].auc["mismatch_random"].value > 0.8  # lower is better, and turned
    for kind in ("cut_end", "mismatch_random", "language"):
        assert found[P_GOOD].auc[kind].value > 0.8


def test_an_audit_of_some_kinds_learns_and_judges_by_these_alone() -> None:
    kinds = ("mismatch_hard", "cut_end", "advertising", "voice")
    engine = FakeEngine(fake_model(None))
    audit = audit_signals(_pairs(24), ("rating", "forward_lift", "probe"), _raters(engine), **DRAW, corruptions=kinds)
    assert {row.kind for row in audit.rows} == {"true", *kinds}
    assert audit.fitted is not None
    assert set(audit.fitted.unseen) == set(kinds)
    assert set(_by_name(audit)[P_GOOD].auc) == {*kinds, "all"}


def test_mean_over_kinds_is_the_mean_of_their_aucs(audited: Audit) -> None:
    for entry in audited.signals:
        kinds = [interval.value for kind, interval in entry.auc.items() if kind != "all"]
        assert entry.auc["all"].value == pytest.approx(sum(kinds) / len(kinds))
        assert set(entry.auc) == {*KINDS, "all"}


def test_length_tells_little_among_pairs_of_like_length(audited: Audit) -> None:
    length = _by_name(audited)["length"]
    assert length.auc["cut_end"].value > 0.8
    whole, alike = (
        [abs(value - 0.5) for value in values]
        for values in ([length.auc[kind].value for kind in length.like_length], length.like_length.values())
    )
    assert statistics.mean(alike) < statistics.mean(whole)


def test_what_is_learnt_has_a_figure_for_every_kind_it_never_saw(audited: Audit) -> None:
    assert audited.fitted is not None
    assert set(audited.fitted.unseen) == set(KINDS)
    assert 0 <= audited.fitted.reliability.ece < 0.3
    assert audited.fitted.points


def test_every_signal_states_its_cost(audited: Audit) -> None:
    assert set(audited.cost) == {"rating", "backward_lift", "forward_lift", "ifd", "probe"}
    assert all(audited.cost.values())


def test_same_pairs_in_another_order_give_the_same_audit() -> None:
    pairs = _pairs(24)
    one, other = (
        _run(given, ("forward_lift", "probe"), FakeEngine(fake_model(None))) for given in (pairs, pairs[::-1])
    )
    assert [(row.pair_id, row.kind, row.scores) for row in one.rows] == [
        (row.pair_id, row.kind, row.scores) for row in other.rows
    ]


def test_few_pairs_are_audited_without_p_good_and_it_is_said() -> None:
    audit = _run(_pairs(MIN_PAIRS - 1), ("rating",), FakeEngine(fake_model(None)))
    assert audit.fitted is None
    assert audit.note.startswith(f"{MIN_PAIRS - 1} held-out pairs are too few")
    assert [entry.signal for entry in audit.signals] == ["rating", *BASELINES]
    assert audit.note in tell_verdict(audit, "M_0", MIN_PAIRS - 1)["notes"][0]


def test_one_kind_of_corruption_is_learnt_and_no_kind_is_told_as_unseen() -> None:
    audit = audit_signals(
        _pairs(24), ("forward_lift", "probe"), _raters(FakeEngine(fake_model(None))), **DRAW, corruptions=["cut_end"]
    )
    assert audit.fitted is not None
    assert audit.fitted.unseen == {}
    assert P_GOOD in {entry.signal for entry in audit.signals}


class Counting(FakeEngine):
    """Counts the prompts whose hidden states are asked for."""

    def __init__(self) -> None:
        super().__init__(fake_model(None))
        self.read = 0

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        self.read += len(prompts) if layers else 0
        return super().choice_logprobs(prompts, choices, layers)


@pytest.mark.parametrize(("count", "reads"), [(MIN_PAIRS - 1, False), (MIN_PAIRS, True)])
def test_hidden_states_are_read_only_where_a_probe_can_be_fitted(count: int, reads: bool) -> None:
    engine = Counting()
    audit = _run(_pairs(count), ("forward_lift", "probe"), engine)
    assert (engine.read > 0, audit.fitted is not None) == (reads, reads)


class Mumbling(Rating):
    """Its replies hold no verdict, but for pairs that its rule names."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        given = ("Score: 4" if any(words in prompt.user for words in self.rule) else "Well." for prompt in prompts)
        return [Completion(text=text, tokens=3, finish="stop") for text in given]


@pytest.mark.parametrize("known", [0, 1])
def test_audit_whose_sampled_ratings_have_next_to_no_verdict_learns_nothing_and_says_so(known: int) -> None:
    pairs = _pairs(MIN_PAIRS)
    rule: dict[str, float | str | None] = {pair.instruction: None for pair in pairs[:known]}
    audit = _run(pairs, ("sampled_rating",), Mumbling(rule, None))
    assert audit.fitted is None
    assert "to learn P(good) from" in audit.note
    assert any("sampled_rating" in row.scores for row in audit.rows) == bool(known)


def test_audit_row_with_an_engine_error_has_no_p_good_and_says_why() -> None:
    pairs = _pairs(MIN_PAIRS)
    audit = _run(pairs, ("rating", "forward_lift"), Rating({pairs[0].instruction: "out of memory"}, 3.0))
    failed = [row for row in audit.rows if "rating" in row.missing]
    assert failed
    for row in audit.rows:
        assert (P_GOOD in row.scores) == (row not in failed)
    assert {row.missing[P_GOOD] for row in failed} == {"engine_error: out of memory"}
    assert all("forward_lift" in row.scores for row in failed)


def test_pair_with_an_unparsed_rating_leaves_the_audit_and_is_counted() -> None:
    pairs = _pairs(20)
    unparsed: dict[str, float | str | None] = {pair.instruction: None for pair in pairs[:5]}
    # among the rest true pairs are rated above corrupted ones, always; were the unparsed low, the AUC would fall
    rest: dict[str, float | str | None] = {f"{pair.instruction}\n\nText:\n{pair.response}\n": 5.0 for pair in pairs[5:]}
    audit = _run(pairs, ["rating"], Rating({**unparsed, **rest}, 2.0))
    rating = _by_name(audit)["rating"]
    lost = [row for row in audit.rows if row.pair_id in {pair.id for pair in pairs[:5]}]
    assert rating.missing == len(lost)
    assert rating.auc["cut_end"] == Interval(value=1.0, low=1.0, high=1.0, n=15)
    assert rating.mean_true == pytest.approx(5.0, abs=1e-6)
    assert all(row.scores == {} and row.missing["rating"].startswith("unparsed: label mass") for row in lost)


def test_unparsed_ratings_do_not_lower_p_good() -> None:
    """Unparsed on half of the pairs, true and corrupted alike: their P(good) must be no lower than that of the others."""
    pairs = _pairs(48)
    rule: dict[str, float | str | None] = {pair.instruction: None for pair in pairs[::2]}
    audit = _run(pairs, ("rating", "forward_lift"), Rating(rule, 3.0))
    true = [row for row in audit.rows if row.kind == "true"]
    means = [
        statistics.mean(row.scores[P_GOOD] for row in true if ("rating" in row.scores) == given)
        for given in (True, False)
    ]
    assert means[1] > means[0] - 0.1


def test_signal_without_any_value_cannot_be_chosen() -> None:
    audit = _run(_pairs(20), ["rating", "backward_lift"], Rating({}, None))
    verdict = tell_verdict(audit, "M_0", 20)
    rating = _by_name(audit)["rating"]
    assert (rating.auc, rating.mean_true, rating.missing) == ({}, None, len(audit.rows))
    assert verdict["best"] == "backward_lift"
    assert "M_0: rating has no value on any audit pair; it cannot be used" in verdict["notes"]


def _entry(name: str, **auc: tuple[float, float | None, float | None]) -> SignalAudit:
    intervals = {kind: Interval(value=v, low=low, high=high, n=20) for kind, (v, low, high) in auc.items()}
    return SignalAudit(signal=name, auc=intervals, like_length={}, missing=0, mean_true=4.0)


def _audit_of(*entries: SignalAudit) -> Audit:
    return Audit(rows=[], signals=entries, without={}, fitted=None)


def test_verdict_names_the_best_signal_and_what_each_cannot_see() -> None:
    strong = _entry("strong", echo=(0.95, 0.9, 1.0), cut_end=(0.6, 0.55, 0.65), all=(0.8, 0.7, 0.9))
    weak = _entry("weak", echo=(0.55, 0.45, 0.65), cut_end=(0.3, 0.2, 0.4), all=(0.45, 0.4, 0.5))
    verdict = tell_verdict(_audit_of(weak, strong), "M_1", 20)
    assert (verdict["best"], verdict["best_auc"]) == ("strong", 0.8)
    assert verdict["notes"] == [
        "M_1: weak cannot tell true pairs better than a coin from: echo 0.55 (AUC)",
        "M_1: weak prefers to true pairs: cut_end 0.30 (AUC)",
        "M_1: strong is weak against: cut_end 0.60 (AUC)",
    ]


def test_baseline_is_never_the_best_signal() -> None:
    perfect, fair = {"echo": (1.0, 1.0, 1.0), "all": (1.0, 1.0, 1.0)}, {"echo": (0.8, 0.7, 0.9), "all": (0.8, 0.7, 0.9)}
    verdict = tell_verdict(_audit_of(_entry("words", **perfect), _entry("rating", **fair)), "M_0", 20)
    assert verdict["best"] == "rating"


def test_of_equal_signals_p_good_is_best_and_then_the_first() -> None:
    same = {"echo": (0.8, 0.7, 0.9), "all": (0.8, 0.7, 0.9)}
    first, second, combined = (_entry(name, **same) for name in ("one", "other", P_GOOD))
    assert tell_verdict(_audit_of(first, second), "M_0", 20)["best"] == "one"
    assert tell_verdict(_audit_of(first, second, combined), "M_0", 20)["best"] == P_GOOD


def test_signal_with_a_value_on_few_pairs_cannot_be_chosen() -> None:
    perfect, good = {"echo": (1.0, 1.0, 1.0), "all": (1.0, 1.0, 1.0)}, {"echo": (0.9, 0.8, 1.0), "all": (0.9, 0.8, 1.0)}
    verdict = tell_verdict(_audit_of(_entry("rare", **perfect), _entry("common", **good)), "M_0", 41)
    assert verdict["best"] is None
    assert "M_0: rare has a value on only 20 of 41 audit pairs; that is too few to judge it" in verdict["notes"]
    assert tell_verdict(_audit_of(_entry("rare", **perfect)), "M_0", 40)["best"] == "rare"
