"""What the contract's checks ask with and compare to: prompts, the exact values of a model folder, equal answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from humpback.engines.base import ChoiceLogprobs, Completion, Engine, Loglikelihood, Sampling
from humpback.prompts import Choice, Continuation, Prompt

CALLS = ("generate", "choice_logprobs", "loglikelihood")
TEXTS = (
    "Name three rivers. " * 6,
    "x",
    "Why is the sky blue?",
    "Écris un poème 🐋 sur la baleine à bosse, s'il te plaît.",
    "One two three four five six seven. " * 4,
)
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=12)
CREATIVE = Sampling(temperature=1.0, top_p=0.95, max_tokens=32)
MENU = ("1", "2", "3", "4", "5")
EMPTY = Prompt(user="", prefill="", text="", token_ids=())


class Reference(Protocol):
    """What a model answers exactly."""

    vocabulary: int
    """Number of tokens it knows."""
    context: int | None
    """Longest sequence it takes, in tokens; None for no limit."""

    def next_logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """Return [T, V]: row t is log p of every token after token_ids[: t + 1]."""
        ...

    def states(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return [layers, width]: the last token's hidden states."""
        ...


class PlainModel:
    """A model folder without anything of ours around it: one sequence, one pass, no padding, no cache."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        self.vocabulary = int(self._net.get_input_embeddings().weight.shape[0])
        self.context = getattr(self._net.config.get_text_config(), "max_position_embeddings", None)

    def next_logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            values = self._net(torch.tensor([list(token_ids)])).logits[0].double().log_softmax(-1)
        return np.asarray(values.numpy())

    def states(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            states = self._net(torch.tensor([list(token_ids)]), output_hidden_states=True).hidden_states
        return np.stack([states[layer][0, -1].numpy() for layer in layers])


class AdapterCase(NamedTuple):
    """An engine opened on a base, or on an adapter over it, and the model that the two are when merged."""

    engine: Engine
    merged: Reference


def ask(engine: Engine, text: str, seed: int = 0) -> Prompt:
    """Render one user turn."""
    chat = engine.tokenizer.chat(text)
    return Prompt(user=text, prefill="", text=chat, token_ids=tuple(engine.tokenizer.encode(chat)), seed=seed)


def ask_all(engine: Engine, texts: Sequence[str] = TEXTS) -> list[Prompt]:
    return [ask(engine, text, seed) for seed, text in enumerate(texts)]


def continue_with(engine: Engine, texts: Sequence[str]) -> list[Continuation]:
    return [Continuation(text=text, token_ids=tuple(engine.tokenizer.encode(text))) for text in texts]


def menu(engine: Engine) -> tuple[Choice, ...]:
    return tuple(Choice(text=text, token_id=engine.tokenizer.encode(text)[-1]) for text in MENU)


def exact_loglikelihood(reference: Reference, prompt: Sequence[int], target: Sequence[int]) -> float:
    """Return log p(target given prompt), nats."""
    rows = reference.next_logprobs([*prompt, *target])[len(prompt) - 1 : -1]
    return float(sum(row[token] for row, token in zip(rows, target, strict=True)))


Answer = Completion | ChoiceLogprobs | Loglikelihood


def need(engine: Engine, *capabilities: str) -> None:
    """Skip the check unless the engine claims what it asks."""
    for capability in capabilities:
        if capability not in engine.capabilities:
            pytest.skip(f"this engine does not claim {capability}")


def need_reference(reference: Reference | None) -> Reference:
    if reference is None:
        pytest.skip("this engine has no model to compare with")
    return reference


def claimed(engine: Engine) -> list[str]:
    return [call for call in CALLS if call in engine.capabilities]


def answer(
    engine: Engine,
    call: str,
    prompts: Sequence[Prompt],
    greedy: Sampling = GREEDY,
    targets: Sequence[Continuation] | None = None,
) -> Sequence[Answer]:
    """Ask one call, all else being fixed."""
    need(engine, call)
    if call == "generate":
        return engine.generate(prompts, greedy)
    if call == "choice_logprobs":
        return engine.choice_logprobs(prompts, menu(engine))
    return engine.loglikelihood(prompts, targets or continue_with(engine, ["an answer"]) * len(prompts))


def describe(one: Answer) -> tuple[object, ...]:
    if isinstance(one, Completion):
        return one.text, one.tokens, one.finish
    return (one.logprobs, one.mass) if isinstance(one, ChoiceLogprobs) else (one.logprob, one.tokens)


def assert_same(one: Answer, other: Answer, tolerance: float) -> None:
    """Texts are equal; numbers are within the tolerance, for a batch may change the last digits."""
    assert type(one) is type(other)
    assert one.error == other.error
    if isinstance(one, Loglikelihood) and isinstance(other, Loglikelihood):
        assert one.tokens == other.tokens
        assert one.logprob == pytest.approx(other.logprob, abs=tolerance * max(one.tokens, 1))
    elif isinstance(one, ChoiceLogprobs) and isinstance(other, ChoiceLogprobs):
        assert one.logprobs == pytest.approx(other.logprobs, abs=tolerance)
        assert math.isclose(one.mass, other.mass, abs_tol=tolerance)
        assert (one.hidden is None) == (other.hidden is None)
        if one.hidden is not None and other.hidden is not None:
            np.testing.assert_allclose(one.hidden, other.hidden, atol=max(tolerance, 1e-6) * 10, rtol=1e-3)
    else:
        assert describe(one) == describe(other)


def valid_stop(text: str) -> bool:
    return bool(text.strip()) and "\ufffd" not in text
