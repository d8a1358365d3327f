"""On a CUDA device: the engine's own ways there give what float32 on the CPU gives. Skipped where there is none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pytest
import torch

from humpback.engines.base import ModelRef, Sampling
from humpback.engines.hf import HFEngine
from humpback.prompts import Continuation, Prompt, Prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

TEXTS = ["The sky is blue because of scattering. ", "Rivers: the Rhine, the Nile, the Amazon. ", "Whales sing. "]
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=24)


@pytest.fixture(scope="module")
def gpu(smollm: ModelRef) -> HFEngine:
    return HFEngine(smollm, device="cuda")


@pytest.fixture(scope="module")
def cpu(smollm: ModelRef) -> HFEngine:
    return HFEngine(smollm, device="cpu")


@pytest.fixture(scope="module")
def prompts(cpu: HFEngine) -> Prompts:
    return Prompts(cpu.tokenizer, max_tokens=1024, instruction_tokens=64)


def rate_all(prompts: Prompts) -> list[Prompt]:
    return [prompts.rate(text, text * (1 + i % 7)) for i in range(12) for text in TEXTS]


def test_packs_attend_in_one_call(gpu: HFEngine) -> None:
    assert gpu._network.packs
    assert gpu._network.base.kernel is not None


def test_ratings_and_hidden_states_are_those_of_float32(gpu: HFEngine, cpu: HFEngine, prompts: Prompts) -> None:
    asked = rate_all(prompts)
    for one, other in zip(
        gpu.choice_logprobs(asked, prompts.rating_choices, (16, 24)),
        cpu.choice_logprobs(asked, prompts.rating_choices, (16, 24)),
        strict=True,
    ):
        assert one.logprobs == pytest.approx(other.logprobs, abs=0.4)
        assert one.hidden is not None
        assert other.hidden is not None
        assert abs(one.hidden - other.hidden).mean() < 0.05 * abs(other.hidden).mean()


def test_likelihoods_are_those_of_float32(gpu: HFEngine, cpu: HFEngine, prompts: Prompts) -> None:
    asked = rate_all(prompts)
    targets = [Continuation(text=t, token_ids=tuple(cpu.tokenizer.encode(t))) for t in TEXTS * 12]
    one, other = (e.loglikelihood(asked, targets) for e in (gpu, cpu))
    assert statistics.mean(abs(a.logprob - b.logprob) / a.tokens for a, b in zip(one, other, strict=True)) < 0.02


def test_rows_grow_side_by_side_as_they_grow_alone(gpu: HFEngine, cpu: HFEngine) -> None:
    def ask(texts: Sequence[str]) -> list[Prompt]:
        chats = [cpu.tokenizer.chat(text) for text in texts]
        return [
            Prompt(user="", prefill="", text=chat, token_ids=tuple(cpu.tokenizer.encode(chat)), seed=i)
            for i, chat in enumerate(chats)
        ]

    asked = ask([f"Write {i} words about {text}" for i in range(100) for text in TEXTS])  # more rows than slots
    together = gpu.generate(asked, GREEDY)
    assert [one.error for one in together] == [None] * len(asked)
    # the likelihood that the draw tells is that of one pass over prompt and answer
    targets = [Continuation(text="", token_ids=one.token_ids) for one in together]
    read = gpu.loglikelihood(asked, targets)
    gaps = [abs(a.logprob - (b.logprob or 0)) / a.tokens for a, b in zip(read, together, strict=True)]
    assert statistics.mean(gaps) < 0.05
    # greedy in bfloat16 may leave float32's path at a near tie; the first tokens of most rows agree
    plain = cpu.generate(asked[:12], GREEDY)
    same = sum(a.token_ids[:4] == b.token_ids[:4] for a, b in zip(plain, together, strict=False))
    assert same >= 9
