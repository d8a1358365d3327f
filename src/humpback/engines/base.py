"""The engine seam: what a stage may ask of a model, whatever runs it.

All calls are batched and synchronous, and answer in the order asked. A request that fails is an answer with `error` set:
never a gap, never an abort of its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from humpback.prompts import Choice, Continuation, Prompt, Tokenizer

__all__ = [
    "AsksTogether",
    "Capability",
    "ChoiceLogprobs",
    "ChoiceQuestion",
    "Completion",
    "Engine",
    "EngineTotals",
    "FloatArray",
    "Heard",
    "Loglikelihood",
    "LoglikelihoodQuestion",
    "ModelRef",
    "Question",
    "Sampling",
    "TellsAnswers",
    "TellsAttention",
    "TellsLacks",
]

Capability = Literal["generate", "choice_logprobs", "loglikelihood", "hidden_states"]
FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A model and what identifies it. The path never bears identity; the content hash does."""

    path: str
    """Folder that holds the weights and the tokenizer."""
    content_hash: str
    """Hash over the files that decide what the model answers, the adapter's among them."""
    adapter: str | None = None
    """Folder of a LoRA adapter on the weights in `path`; None for the weights as they are."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw a completion. Every field bears identity."""

    temperature: float
    """0 is greedy."""
    top_p: float
    """Nucleus mass, 0 to 1."""
    max_tokens: int
    stop: tuple[str, ...] = ()
    """Strings that end the completion; they are not part of its text."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One generated text."""

    text: str
    tokens: int
    """Number of tokens drawn, the end-of-turn token included."""
    finish: Literal["stop", "length", "error"]
    error: str | None = None
    token_ids: tuple[int, ...] = ()
    """The tokens drawn, the end-of-turn token included; empty from an engine that cannot tell."""
    logprob: float | None = field(default=None, compare=False)
    """log p(token_ids given the prompt) at temperature 1, nats summed; None from an engine that cannot tell.

    Its last digits depend on the batch; the draw does not, so it alone makes completions equal.
    """


@dataclass(frozen=True, kw_only=True)
class ChoiceLogprobs:
    """Log-probabilities (nats) of each choice as the next token, from the full vocabulary's softmax.

    One forward pass reads both the choices and, where layers were asked for, the hidden states at the same place.
    """

    logprobs: tuple[float, ...]
    mass: float
    """Sum of the choices' probabilities, 0 to 1: how far the model answers on the menu."""
    error: str | None = None
    hidden: FloatArray | None = field(default=None, compare=False)
    """[layers asked, width]: the prompt's last token after each of the layers asked for; None when none was asked for."""


@dataclass(frozen=True, kw_only=True)
class Loglikelihood:
    """log p(continuation given prompt): nats summed over the continuation's tokens."""

    logprob: float
    tokens: int
    """Number of continuation tokens."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChoiceQuestion:
    """What `choice_logprobs` is asked of one prompt."""

    prompt: Prompt
    choices: tuple[Choice, ...]
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LoglikelihoodQuestion:
    """What `loglikelihood` is asked of one prompt."""

    prompt: Prompt
    continuation: Continuation


Question: TypeAlias = ChoiceQuestion | LoglikelihoodQuestion


@dataclass(kw_only=True)
class EngineTotals:
    """What an engine has computed since it was opened."""

    requests: int = 0
    """Requests asked, those answered from the cache included."""
    tokens_in: int = 0
    """Prompt and continuation tokens computed; a shared prefix counts once."""
    tokens_out: int = 0
    """Tokens drawn."""
    cache_hits: int = 0
    """Requests answered from the cache."""
    seconds: float = 0.0
    """Wall time inside the engine; of a pool's workers the sum."""
    errors: int = 0
    """Requests answered with an error."""
    retries: int = 0
    """Requests sent again after a failure, by engines that try again."""

    def add(self, other: EngineTotals) -> None:
        """Count what another engine, shard or sitting has computed."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def since(self, before: EngineTotals) -> EngineTotals:
        """Return what has been computed since the totals were as they were `before`."""
        return EngineTotals(**{name: value - getattr(before, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a batch of answers took, for whoever shows progress."""

    totals: EngineTotals
    """Of this batch alone; its requests are the batch's answers."""
    work: float
    """The batch's part of its call's work, in answers of mean length: long rows come first, and count for more."""


@runtime_checkable
class TellsAnswers(Protocol):
    """An engine that tells each answer of a call as it comes, so that a kill loses no more than what is in flight."""

    on_answer: Callable[[int, Completion | ChoiceLogprobs | Loglikelihood], None] | None
    """Hears, in the caller's thread, of the index of a request in the call and its answer."""


@runtime_checkable
class TellsLacks(Protocol):
    """An engine whose capabilities depend on what it finds."""

    def lacks(self, capability: Capability) -> str:
        """Return why a capability is not claimed, and what would give it."""
        ...


@runtime_checkable
class TellsAttention(Protocol):
    """An engine that chooses how it attends by what it finds; speeds say little without it."""

    attention: str
    """In plain words; "" until the model is loaded."""


@runtime_checkable
class AsksTogether(Protocol):
    """An engine that computes once what questions of both kinds have in common at their start."""

    def ask(self, groups: Sequence[Sequence[Question]]) -> list[list[ChoiceLogprobs | Loglikelihood]]:
        """Return the answers to each group's questions, in order. Questions that begin alike belong in one group."""
        ...


class Engine(Protocol):
    """One model, ready to answer."""

    @property
    def model(self) -> ModelRef: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    @property
    def totals(self) -> EngineTotals: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Draw one completion per prompt. A row's draw depends on its prompt's seed, not on its batch."""
        ...

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        """Return log P of each choice as the token that follows each prompt, and the hidden states there.

        `layers` are counted from 0 (the embeddings) to the number of layers; only an engine that claims `hidden_states`
        may be asked for any. No choices: only the hidden states are read.
        """
        ...

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        """Return log p(continuations[i] given prompts[i])."""
        ...

    def close(self) -> None:
        """Free the model's memory. The engine opens again by itself when asked."""
        ...
