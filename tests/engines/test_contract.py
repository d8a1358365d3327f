"""The contract itself: every check fails on an engine that breaks what it checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from contract import AdapterCase, EngineContract, PlainModel, assert_engines_agree

from humpback.engines.base import (
    Capability,
    ChoiceLogprobs,
    Completion,
    Engine,
    EngineTotals,
    Loglikelihood,
    ModelRef,
    Sampling,
)
from humpback.engines.hf import HFEngine
from humpback.prompts import Choice, Continuation, Prompt, Tokenizer

Change = Callable[[list[Any], Sequence[Prompt]], list[Any]]


class Broken:
    """An engine that changes what a good one answers."""

    def __init__(self, inner: Engine, change: Change, draw: Callable[[Prompt], Prompt] = lambda prompt: prompt) -> None:
        self.inner, self.change, self.draw = inner, change, draw

    @property
    def model(self) -> ModelRef:
        return self.inner.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.inner.capabilities

    @property
    def totals(self) -> EngineTotals:
        return self.inner.totals

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return self.change(self.inner.generate([self.draw(p) for p in prompts], sampling), prompts)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        return self.change(self.inner.choice_logprobs([self.draw(p) for p in prompts], choices, layers), prompts)

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        return self.change(self.inner.loglikelihood([self.draw(p) for p in prompts], continuations), prompts)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(scope="module")
def engine(contract_model: ModelRef) -> HFEngine:
    return HFEngine(contract_model, device="cpu")


@pytest.fixture(scope="module")
def reference(contract_model: ModelRef) -> PlainModel:
    return PlainModel(contract_model.path)


def _each(**changes: Any) -> Change:
    """Set fields of every answer that has them."""

    def change(answers: list[Any], prompts: Sequence[Prompt]) -> list[Any]:
        return [
            dataclasses.replace(one, **{k: v(one) for k, v in changes.items() if hasattr(one, k)}) for one in answers
        ]

    return change


def _by_length(answers: list[Any], prompts: Sequence[Prompt]) -> list[Any]:
    """Answers in the order of a length-sorted batch."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].token_ids), i))
    return [answers[i] for i in order]


def _spoil_all(answers: list[Any], prompts: Sequence[Prompt]) -> list[Any]:
    bad = next((one for one in answers if one.error), None)
    return [bad or one for one in answers]


def _tell_wrongly(answers: list[Any], prompts: Sequence[Prompt]) -> list[Any]:
    return [dataclasses.replace(one, token_ids=(5,) * one.tokens, logprob=-1.0) for one in answers]


COUNTER = iter(range(10**9))
ORDER = "test_answers_come_in_the_order_asked_whatever_the_lengths"
ERROR = "test_a_prompt_that_cannot_be_answered_is_an_error_that_harms_nobody"
BREAKS: dict[str, tuple[str, Change, dict[str, Any]]] = {
    "sorted texts": (ORDER, _by_length, {"call": "generate"}),
    "sorted choices": (ORDER, _by_length, {"call": "choice_logprobs"}),
    "sorted likelihoods": (ORDER, _by_length, {"call": "loglikelihood"}),
    "64 rows at most": (
        "test_a_batch_of_none_of_one_and_of_130_is_answered",
        lambda answers, _: answers[:64],
        {"call": "choice_logprobs"},
    ),
    "limit overrun": ("test_max_tokens_is_the_most_that_is_drawn", _each(tokens=lambda a: a.tokens + 1), {}),
    "length called stop": ("test_max_tokens_is_the_most_that_is_drawn", _each(finish=lambda _: "stop"), {}),
    "end in the text": (
        "test_the_end_of_turn_stops_a_completion_and_is_not_in_its_text",
        _each(text=lambda a: a.text + "<|im_end|>" * (a.finish == "stop")),
        {},
    ),
    "stop called length": (
        "test_the_end_of_turn_stops_a_completion_and_is_not_in_its_text",
        _each(finish=lambda _: "length"),
        {},
    ),
    "text beyond the stop": (
        "test_a_stop_string_ends_a_completion_and_is_cut",
        _each(text=lambda a: a.text + "!"),
        {"length": 2},
    ),
    "hot greedy": (
        "test_temperature_zero_takes_the_most_probable_token",
        _each(text=lambda _: "never", finish=lambda _: "length"),
        {},
    ),
    "wrong tokens told": (
        "test_tokens_and_logprob_of_a_completion_are_what_loglikelihood_says",
        lambda answers, prompts: _tell_wrongly(answers, prompts) if isinstance(answers[0], Completion) else answers,
        {},
    ),
    "softmax of the menu": (
        "test_choices_are_the_exact_softmax_and_their_mass",
        _each(logprobs=lambda a: tuple(x - 1e-3 for x in a.logprobs)),
        {},
    ),
    "mass of one": ("test_choices_are_the_exact_softmax_and_their_mass", _each(mass=lambda a: a.mass + 1e-3), {}),
    "mass twice": (
        "test_a_choice_given_twice_is_answered_twice_and_weighs_once",
        _each(mass=lambda a: a.mass + (0.01 if len(a.logprobs) == 3 else 0)),
        {},
    ),
    "a token too many": (
        "test_likelihoods_are_those_of_a_plain_forward_pass",
        _each(tokens=lambda a: a.tokens + 1),
        {},
    ),
    "likelihood off": (
        "test_likelihoods_are_those_of_a_plain_forward_pass",
        _each(logprob=lambda a: a.logprob - 0.1),
        {},
    ),
    "nothing is unlikely": ("test_an_empty_continuation_is_certain", _each(logprob=lambda a: a.logprob - 0.1), {}),
    "special token dropped": ("test_a_continuation_may_hold_special_tokens", _each(tokens=lambda a: a.tokens - 1), {}),
    "states of another place": (
        "test_hidden_states_are_those_of_a_plain_forward_pass",
        _each(hidden=lambda a: None if a.hidden is None else a.hidden + 0.01),
        {},
    ),
    "neighbours spoiled": (ERROR, _spoil_all, {"kind": "over-long", "call": "loglikelihood"}),
    "error without a word": (ERROR, _each(error=lambda _: None), {"kind": "empty", "call": "generate"}),
    "unknown token answered": (
        ERROR,
        _each(error=lambda _: None),
        {"kind": "unknown token", "call": "choice_logprobs"},
    ),
    "tokens out not counted": ("test_totals_add_up", _each(tokens=lambda a: a.tokens + 1), {"call": "generate"}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_answer_fails_its_check(engine: HFEngine, reference: PlainModel, name: str) -> None:
    check, change, given = BREAKS[name]
    _expect(check, engine, reference, fails=False, **given)
    _expect(check, Broken(engine, change), reference, fails=True, **given)


@pytest.mark.parametrize(
    ("check", "draw"),
    [
        ("test_a_seed_decides_the_draw_whatever_the_batch", lambda p: dataclasses.replace(p, seed=next(COUNTER))),
        ("test_a_seed_decides_the_draw_whatever_the_batch", lambda p: dataclasses.replace(p, seed=0)),
        (
            "test_temperature_zero_ignores_the_seed",
            lambda p: dataclasses.replace(p, token_ids=(*p.token_ids, 9 + p.seed)),
        ),
        (
            "test_text_of_any_script_reaches_the_model_whole",
            lambda p: dataclasses.replace(p, token_ids=tuple(i for i in p.token_ids if i < 100)),
        ),
    ],
)
def test_a_question_changed_on_its_way_fails_its_check(
    engine: HFEngine, reference: PlainModel, check: str, draw: Callable[[Prompt], Prompt]
) -> None:
    given = {"name": "emoji"} if "script" in check else {}
    _expect(check, engine, reference, fails=False, **given)
    _expect(check, Broken(engine, lambda answers, _: answers, draw), reference, fails=True, **given)


def test_adapters_that_answer_as_their_merged_models_pass_and_others_fail(
    contract_model: ModelRef, contract_adapters: Any
) -> None:
    folders = [contract_model.path, *(str(entry.merged) for entry in contract_adapters)]
    engines = [HFEngine(ModelRef(path=folder, content_hash=folder), device="cpu") for folder in folders]
    cases = [AdapterCase(one, PlainModel(folder)) for one, folder in zip(engines, folders, strict=True)]
    check = EngineContract().test_base_and_adapters_answer_as_their_merged_models
    check(adapter_engines=cases, tolerance=1e-4)
    with pytest.raises(AssertionError):  # the second adapter answers as the first
        check(adapter_engines=[*cases[:2], AdapterCase(engines[1], cases[2].merged)], tolerance=1e-4)


def test_engines_on_other_weights_do_not_agree(contract_model: ModelRef, contract_adapters: Any) -> None:
    engine, other = (
        HFEngine(ModelRef(path=folder, content_hash=""), device="cpu")
        for folder in (contract_model.path, str(contract_adapters[0].merged))
    )
    assert_engines_agree(engine, engine, tolerance=0)
    with pytest.raises(AssertionError):
        assert_engines_agree(engine, other, tolerance=1e-3)


def _expect(check: str, engine: Any, reference: PlainModel, *, fails: bool, **given: Any) -> None:
    """Run one check by hand with the fixtures it takes."""
    method = getattr(EngineContract(), check)
    code = method.__func__.__code__
    fixtures = {
        "engine": engine,
        "reference": reference,
        "tolerance": 1e-4,
        "context": reference.context,
        "vocabulary": reference.vocabulary,
        **given,
    }
    wanted = {name: fixtures[name] for name in code.co_varnames[1 : code.co_argcount]}
    if fails:
        with pytest.raises((AssertionError, StopIteration)):
            method(**wanted)
        return
    try:
        method(**wanted)
    except pytest.skip.Exception as skipped:
        assert "does not tell the tokens" in str(skipped)
