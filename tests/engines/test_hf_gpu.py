"""On a CUDA device: the engine's own ways there give what float32 on the CPU gives. Skipped where there is none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from humpback.engines.base import ModelRef, Sampling
from humpback.engines.hf import HFEngine
from humpback.engines.hf_model import Reading
from humpback.engines.packs import Pack
from humpback.prompts import Choice, Continuation, Prompt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

HEAD = "All of these prompts begin alike, and what they share is computed once. "
TEXTS = ["The sky is blue. ", "Rivers: the Rhine, the Nile, the Amazon. ", "Whales sing, and nobody knows why. "]
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=24)
ROUNDING = 0.05
"""How far bfloat16 may be from float32 in the mean, as a share of the spread of what is compared."""


@pytest.fixture(scope="module")
def gpu(contract_model: ModelRef) -> HFEngine:
    return HFEngine(contract_model, device="cuda")


@pytest.fixture(scope="module")
def cpu(contract_model: ModelRef) -> HFEngine:
    return HFEngine(contract_model, device="cpu")


def ask(engine: HFEngine, count: int) -> list[Prompt]:
    texts = [HEAD + TEXTS[i % 3] * (1 + i % 5) + str(i // 2) for i in range(count)]
    return [
        Prompt(user="", prefill="", text=text, token_ids=tuple(engine.tokenizer.encode(text)), seed=i)
        for i, text in enumerate(texts)
    ]


def continue_all(engine: HFEngine, count: int) -> list[Continuation]:
    texts = [TEXTS[i % 3][: 5 + i % 9] for i in range(count)]
    return [Continuation(text=text, token_ids=tuple(engine.tokenizer.encode(text))) for text in texts]


def gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the mean distance, as a share of the spread."""
    return statistics.mean(abs(a - b) for a, b in zip(one, other, strict=True)) / statistics.stdev(other)


def test_packs_attend_in_one_call(gpu: HFEngine) -> None:
    assert gpu._network.packs
    assert gpu._network.base.kernel is not None


@pytest.mark.slow
def test_packs_of_a_real_model_attend_in_one_call(smollm: ModelRef) -> None:
    network = HFEngine(smollm, device="cuda")._network
    assert network.packs
    assert network.base.kernel is not None


def test_choices_and_hidden_states_are_those_of_float32(gpu: HFEngine, cpu: HFEngine) -> None:
    choices = [Choice(text=text, token_id=cpu.tokenizer.encode(text)[0]) for text in "12345"]
    one, other = (engine.choice_logprobs(ask(cpu, 40), choices, (1, 2)) for engine in (gpu, cpu))
    assert gap([v for a in one for v in a.logprobs], [v for a in other for v in a.logprobs]) < ROUNDING
    states = [
        [float(v) for a in answers if a.hidden is not None for v in a.hidden.flatten()] for answers in (one, other)
    ]
    assert gap(*states) < ROUNDING


def test_likelihoods_are_those_of_float32(gpu: HFEngine, cpu: HFEngine) -> None:
    asked, targets = ask(cpu, 40), continue_all(cpu, 40)
    one, other = ([a.logprob for a in engine.loglikelihood(asked, targets)] for engine in (gpu, cpu))
    assert gap(one, other) < ROUNDING


def test_rows_grow_side_by_side_as_they_grow_alone(gpu: HFEngine, cpu: HFEngine) -> None:
    asked = ask(cpu, 600)  # more rows than slots
    together = gpu.generate(asked, GREEDY)
    assert {one.error for one in together} == {None}
    # the likelihood that the draw tells is that of one pass over prompt and answer
    targets = [Continuation(text="", token_ids=one.token_ids) for one in together]
    read = [one.logprob for one in gpu.loglikelihood(asked, targets)]
    assert gap([one.logprob or 0.0 for one in together], read) < 2 * ROUNDING


def test_a_batch_too_large_for_memory_is_halved(contract_model: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HFEngine(contract_model, device="cuda")
    expected = [one.logprob for one in engine.loglikelihood(ask(engine, 40), continue_all(engine, 40))]
    read, held = engine._network.read_pack, []

    def cramped(pack: Pack, *given: Any, **more: Any) -> Reading:
        if len(pack.ways) > 10:  # as much as no device has, asked of the device itself
            held.append(torch.empty(1 << 45, dtype=torch.uint8, device="cuda"))
        return read(pack, *given, **more)

    monkeypatch.setattr(engine._network, "read_pack", cramped)
    halved = [one.logprob for one in engine.loglikelihood(ask(engine, 40), continue_all(engine, 40))]
    assert not held
    assert gap(halved, expected) < ROUNDING
