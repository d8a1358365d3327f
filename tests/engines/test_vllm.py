"""The vLLM engine: with a scripted child everywhere; the contract and real kills where vLLM is installed.

vLLM is looked for in this environment, or in the one whose interpreter HUMPBACK_VLLM_PYTHON names (`make test-vllm`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import AdapterCase, EngineContract, PlainModel, assert_engines_agree
from contract_tools import ask, ask_all, continue_with, menu
from safetensors.torch import load_file, save_file

from humpback.engines import vllm_process
from humpback.engines.base import ChoiceLogprobs, Completion, Loglikelihood, ModelRef, Sampling, TellsAnswers
from humpback.engines.hf import HFEngine
from humpback.engines.vllm import VLLMEngine
from humpback.engines.vllm_process import Processes
from humpback.errors import InputError
from humpback.prompts import Choice, Prompt
from humpback.recipe import VLLMSettings

SCRIPT = str(Path(__file__).with_name("scripted_child.py"))
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=8)
Answer = Completion | ChoiceLogprobs | Loglikelihood


@pytest.fixture(autouse=True)
def no_backoff_and_logs_that_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_process, "BACKOFF_S", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def token_prompt(*token_ids: int, seed: int = 0) -> Prompt:
    return Prompt(user="", prefill="", text="", token_ids=token_ids, seed=seed)


# -- with a scripted child ---------------------------------------------------------------------------------------------


@pytest.fixture
def make_scripted(byte_model: ModelRef, tmp_path: Path) -> Iterator[Callable[..., VLLMEngine]]:
    made: list[VLLMEngine] = []

    def make(*, max_tokens: int = 256, processes: Processes | None = None, **plan: Any) -> VLLMEngine:
        command = (sys.executable, SCRIPT, json.dumps(plan), str(tmp_path))
        made.append(VLLMEngine(byte_model, VLLMSettings(), max_tokens=max_tokens, processes=processes, command=command))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def notes(folder: Path, kind: str) -> list[Any]:
    path = folder / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_cannot_be_asked_is_an_error_and_starts_nothing(
    make_scripted: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    engine = make_scripted(max_tokens=20)
    bad = [token_prompt(), token_prompt(*range(13))]
    empty, long = engine.generate(bad, GREEDY)
    assert (empty.error, empty.finish) == ("the prompt is empty", "error")
    assert long.error
    assert "13 tokens and 8 for the answer exceed 20" in long.error
    assert notes(tmp_path, "starts") == []


def test_prompt_and_answer_may_fill_the_room_to_the_last_token(
    make_scripted: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    engine = make_scripted(max_tokens=20)
    (target,) = continue_with(engine, ["12345678"])
    assert engine.generate([token_prompt(*range(10, 22))], GREEDY)[0].error is None
    assert engine.choice_logprobs([token_prompt(*range(10, 30))], menu(engine))[0].error is None
    assert engine.loglikelihood([token_prompt(*range(10, 22))], [target])[0].error is None
    assert max(map(len, notes(tmp_path, "asked"))) == 20
    (settings,) = notes(tmp_path, "settings")
    assert settings["engine"]["max_model_len"] == 21  # vLLM wants room for the one token it draws


def test_a_number_that_is_none_is_an_error_of_two_processes(
    make_scripted: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    engine, told = make_scripted(), []
    engine.on_answer = lambda index, answer: told.append(index)
    good, bad = token_prompt(10, 1), token_prompt(8, 1)
    targets = continue_with(engine, ["no", "no"])
    assert [a.error for a in engine.generate([good, bad], GREEDY)] == [None, "the model's logits are not finite"]
    assert notes(tmp_path, "asked") == [[10, 1], [8, 1], [8, 1]]
    assert [a.error for a in engine.loglikelihood([good, bad], targets)] == [None, "the model's logits are not finite"]
    assert told == [0, 1, 0, 1]


def test_a_model_that_tells_no_number_at_all_is_asked_once(
    make_scripted: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    answers = make_scripted().generate([token_prompt(8, 1), token_prompt(8, 2)], GREEDY)
    assert [a.error for a in answers] == ["the model's logits are not finite"] * 2
    assert len(notes(tmp_path, "asked")) == 2


def test_a_request_that_vllm_refuses_is_an_error(make_scripted: Callable[..., VLLMEngine]) -> None:
    engine = make_scripted()
    refused, good = engine.choice_logprobs([token_prompt(7, 1), token_prompt(10, 1)], menu(engine))
    assert (refused.error, good.error) == ("vLLM refuses the request", None)


def test_more_choices_than_one_request_may_ask_for_are_asked_in_several(
    make_scripted: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    engine = make_scripted()
    ids = [*range(200), 5]
    answers = engine.choice_logprobs(
        [token_prompt(10, 1), token_prompt(10, 2), token_prompt()], [Choice(text=str(i), token_id=i) for i in ids]
    )
    for answer in answers[:2]:
        assert answer.logprobs == tuple(-float(i) - 1 for i in ids)
        assert answer.mass == pytest.approx(math.exp(-1) / (1 - math.exp(-1)))
    assert answers[2].error
    assert len(notes(tmp_path, "asked")) == 4
    assert engine.totals.requests == 3


def test_every_answer_is_told_as_it_comes(make_scripted: Callable[..., VLLMEngine]) -> None:
    engine, told = make_scripted(), {}
    assert isinstance(engine, TellsAnswers)  # so the cache keeps each at once

    def hear(index: int, answer: Answer) -> None:
        assert index not in told
        told[index] = answer

    engine.on_answer = hear
    prompts = [token_prompt(10, i) for i in range(5)]
    wide = [Choice(text=str(i), token_id=i) for i in range(200)]
    targets = continue_with(engine, ["a", "", "b", "c", "d"])
    for call in (
        lambda: engine.generate(prompts, GREEDY),
        lambda: engine.choice_logprobs(prompts, wide),
        lambda: engine.loglikelihood(prompts, targets),
    ):
        told.clear()
        assert call() == [told[index] for index in range(5)]


def test_hidden_states_are_refused_by_name(make_scripted: Callable[..., VLLMEngine]) -> None:
    with pytest.raises(InputError, match=r"runtime\.engine=hf"):
        make_scripted().choice_logprobs([token_prompt(1)], (), layers=[0])


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_a_temperature_that_vllm_would_change_or_refuse_is_wrong_input(
    make_scripted: Callable[..., VLLMEngine], temperature: float
) -> None:
    with pytest.raises(InputError, match=r"use 0 \(greedy\) or 0\.01 to 2"):
        make_scripted().generate([token_prompt(1)], dataclasses.replace(GREEDY, temperature=temperature))


def test_engines_on_one_base_share_a_process_until_both_are_closed(
    make_scripted: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    processes = Processes()
    one, other = make_scripted(processes=processes), make_scripted(processes=processes)
    for engine in (one, other):
        engine.generate([token_prompt(10, 1)], GREEDY)
    one.close()
    other.generate([token_prompt(10, 2)], GREEDY)
    assert len(notes(tmp_path, "starts")) == 1
    assert notes(tmp_path, "stopped") == []
    other.close()
    assert len(notes(tmp_path, "stopped")) == 1


# -- with vLLM ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vllm_settings() -> VLLMSettings:
    python = os.environ.get("HUMPBACK_VLLM_PYTHON")
    if python is None and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is neither installed here nor named by HUMPBACK_VLLM_PYTHON: run make test-vllm")
    return VLLMSettings(python=python, enforce_eager=True, stall_timeout_s=300)


def open_real(model: ModelRef, settings: VLLMSettings, processes: Processes | None = None) -> VLLMEngine:
    return VLLMEngine(model, settings, max_tokens=512, device="auto", threads=1, processes=processes)


@pytest.mark.slow
class TestContract(EngineContract):
    """On the CPU build: float32, like the reference."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, contract_model: ModelRef, vllm_settings: VLLMSettings) -> Iterator[VLLMEngine]:
        engine = open_real(contract_model, vllm_settings)
        yield engine
        engine.close()

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, contract_model: ModelRef) -> PlainModel:
        return PlainModel(contract_model.path)

    @pytest.fixture(scope="class")
    @classmethod
    def tolerance(cls) -> float:
        return 1e-3

    @pytest.fixture(scope="class")
    @classmethod
    def adapter_engines(
        cls, contract_model: ModelRef, contract_adapters: Sequence[Any], vllm_settings: VLLMSettings
    ) -> Iterator[Sequence[AdapterCase]]:
        processes = Processes()
        base = AdapterCase(open_real(contract_model, vllm_settings, processes), PlainModel(contract_model.path))
        cases = [base]
        for number, (adapter, merged) in enumerate(contract_adapters):
            model = ModelRef(path=contract_model.path, content_hash=f"adapter-{number}", adapter=str(adapter))
            cases.append(AdapterCase(open_real(model, vllm_settings, processes), PlainModel(str(merged))))
        yield cases
        for case in cases:
            case.engine.close()


@pytest.fixture(scope="module")
def real(smollm: ModelRef, vllm_settings: VLLMSettings) -> Iterator[VLLMEngine]:
    engine = open_real(smollm, vllm_settings)
    yield engine
    engine.close()


@pytest.mark.slow
def test_it_agrees_with_the_reference_engine_on_a_real_model(real: VLLMEngine, smollm: ModelRef) -> None:
    hf = HFEngine(smollm, device="cpu")
    prompts = ask_all(real)
    assert_engines_agree(real, hf, tolerance=2e-3, greedy=False)
    pairs = zip(real.generate(prompts, GREEDY), hf.generate(prompts, GREEDY), strict=True)
    assert sum(mine.text == theirs.text for mine, theirs in pairs) >= 4


@pytest.mark.slow
def test_seeded_draws_of_more_prompts_than_one_step_takes_are_those_of_each_alone(real: VLLMEngine) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=4)
    prompts = [ask(real, f"Rivers, {number}. " * 60, seed=number) for number in range(8)]
    assert sum(len(prompt.token_ids) for prompt in prompts) > 2200
    restarts = real.restarts
    together = [one.text for one in real.generate(prompts, sampling)]
    assert together == [real.generate([prompt], sampling)[0].text for prompt in prompts]
    assert real.restarts == restarts


@pytest.mark.slow
def test_a_killed_vllm_loses_nothing_and_is_asked_nothing_twice(real: VLLMEngine) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=64, stop=(".", "\n"))  # they end one after the other
    prompts = [ask(real, f"Name {number} rivers.", seed=number) for number in range(40)]
    undisturbed = real.generate(prompts, sampling)
    told: list[int] = []
    drawn_before, restarts = real.totals.tokens_out, real.restarts

    def hear(index: int, answer: Answer) -> None:
        told.append(index)
        if len(told) == 1:
            wire = real._process._wire
            assert wire is not None
            os.kill(wire.pid, signal.SIGKILL)

    real.on_answer = hear
    try:
        answers = real.generate(prompts, sampling)
    finally:
        real.on_answer = None
    assert real.restarts == restarts + 1
    assert sorted(told) == list(range(40))
    assert [a.text for a in answers] == [a.text for a in undisturbed]
    assert real.totals.tokens_out - drawn_before == sum(a.tokens for a in answers)


@pytest.mark.slow
def test_a_row_that_is_not_finite_is_an_error_and_spoils_no_other(
    contract_model: ModelRef, vllm_settings: VLLMSettings, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(contract_model.path, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][70] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    engine = open_real(ModelRef(path=str(folder), content_hash="broken"), vllm_settings)
    try:
        good, bad, other = token_prompt(80, 81, 82), token_prompt(80, 70, 82), token_prompt(90, 91)
        (target, *_) = targets = continue_with(engine, ["yes"] * 3)
        answers = engine.loglikelihood([good, bad, other], targets)
        assert [a.error for a in answers] == [None, "the model's logits are not finite", None]
        for _ in range(2):  # on the blocks that the bad row has had
            for again, before in zip(engine.loglikelihood([good, other], [target] * 2), answers[::2], strict=True):
                assert again.error is None
                assert again.logprob == pytest.approx(before.logprob, abs=1e-3)
    finally:
        engine.close()
