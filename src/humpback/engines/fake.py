"""The scripted engine: deterministic answers without a model, for trying the pipeline and for tests.

Its likelihoods reward shared words, so lifts tell true pairs from shuffled ones; its ratings reward responses that end in a full
stop. Asked for a rating with reasoning, it replies in the ways that models do, verdicts that cannot be read among them; asked to
rewrite a document, it does well with some and fails in every way with others. Training it changes its content hash and nothing
else. A prompt that holds FAIL-ME gets an error, as does one that is empty or holds a token that is none.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from humpback.engines.base import (
    Capability,
    ChoiceLogprobs,
    Completion,
    EngineTotals,
    FloatArray,
    Loglikelihood,
    ModelRef,
    Sampling,
)
from humpback.errors import InputError
from humpback.prompts import RATING_PREFILL, REASONING_REQUEST, REWRITE_PROMPT, Choice, Continuation, Prompt
from humpback.store.fingerprint import fingerprint

__all__ = ["FakeEngine", "FakeTokenizer", "fake_model"]

_END = 256
_BEGIN = 257
VOCABULARY = 258
WIDTH = 8
"""Width of its hidden states."""
_WORD = re.compile(r"[^\W\d_]{4,}")
_REWRITE = REWRITE_PROMPT.partition("{")[0]
_REPLIES = (
    "The text answers what was asked.\n\nScore: {score}",
    "A score of 5 would need more examples.\n\n**Score: {score}/5**",
    "It stays on the subject, and its order is clear.\nScore: {score}.",
    "The text is easy to follow. [RESULT] {score}",
    "It could be shorter, and a second example would help.\n\n**Score:** {score}",
    "The text begins well, and then it goes on" + " and on" * 1000,
    "I find both strengths and weaknesses.\n\nScore: N/A",
    "It is better than most texts of its kind.\n\nScore: {score}0/10",
)
"""What it says of a text: five that parse, one that does not end in time, one without a score, one on another scale."""


def fake_model(folder: Path | None) -> ModelRef:
    """Return the reference of the scripted base model, or of one that `train_fake` wrote."""
    if folder is None:
        return ModelRef(path="fake", content_hash=fingerprint({"fake": "base"}))
    try:
        content = json.loads((folder / "fake-model.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a scripted model: {error}") from error
    return ModelRef(path=str(folder), content_hash=fingerprint(content))


class FakeTokenizer:
    """UTF-8 bytes as tokens, with two special tokens for the chat."""

    special_tokens = ("<|end|>", "<|user|>")
    end_of_turn = (_END,)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in re.split(r"(<\|end\|>|<\|user\|>)", text):
            special = {"<|end|>": [_END], "<|user|>": [_BEGIN]}.get(part)
            ids.extend(special if special else part.encode("utf-8", "replace"))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "ignore")

    def chat(self, user: str) -> str:
        return f"<|user|>{user}<|end|>"


class FakeEngine:
    """Answers by hashing and by shared words."""

    capabilities: frozenset[Capability] = frozenset({"generate", "choice_logprobs", "loglikelihood", "hidden_states"})

    def __init__(self, model: ModelRef) -> None:
        self.model = model
        self.tokenizer = FakeTokenizer()
        self.totals = EngineTotals()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return [self._complete(prompt, sampling) for prompt in prompts]

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        return [self._choose(prompt, [choice.token_id for choice in choices], layers) for prompt in prompts]

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        return [self._likelihood(p, c) for p, c in zip(prompts, continuations, strict=True)]

    def close(self) -> None:
        """Nothing to free."""

    def _complete(self, prompt: Prompt, sampling: Sampling) -> Completion:
        if error := self._count(prompt):
            return Completion(text="", tokens=0, finish="error", error=error)
        number = _number(self.model.content_hash, str(prompt.seed) if sampling.temperature else "", prompt.text)
        if prompt.user.endswith(REASONING_REQUEST):
            text = _judge(prompt, number)
        elif prompt.user.startswith(_REWRITE):
            text = _rewrite(prompt, number)
        else:
            text = _instruct(prompt, number)
        ids = [*text.encode(), _END][: sampling.max_tokens]
        text, ended = self.tokenizer.decode(ids), ids[-1] == _END
        cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        self.totals.tokens_out += len(ids)
        return Completion(
            text=text[: min(cuts, default=None)], tokens=len(ids), finish="stop" if ended or cuts else "length"
        )

    def _choose(self, prompt: Prompt, choices: Sequence[int], layers: Sequence[int]) -> ChoiceLogprobs:
        if error := self._count(prompt):
            return ChoiceLogprobs(logprobs=(), mass=0.0, error=error)
        text = _rated_text(prompt)
        hidden = np.stack([self._hidden(prompt, text, layer) for layer in layers]) if layers else None
        if not choices:
            return ChoiceLogprobs(logprobs=(), mass=0.0, hidden=hidden)
        places = {token: index for index, token in enumerate(dict.fromkeys(choices))}
        best = len(places) - 1 if _ends_well(text) else 1
        best -= _number(self.model.content_hash, prompt.text) % 2
        weights = [math.exp(-3 * abs(index - best)) for index in range(len(places))]
        mass = 0.9
        logprobs = tuple(math.log(mass * weights[places[token]] / sum(weights)) for token in choices)
        return ChoiceLogprobs(logprobs=logprobs, mass=mass, hidden=hidden)

    def _hidden(self, prompt: Prompt, text: str, layer: int) -> FloatArray:
        """Return one layer's state, `WIDTH` numbers: noise, but for the first, which knows whether the text ends in a full stop."""
        noise = np.random.default_rng(_number(self.model.content_hash, prompt.text, str(layer))).normal(size=WIDTH)
        noise[0] += 3.0 if _ends_well(text) else -3.0
        return noise.astype(np.float32)

    def _likelihood(self, prompt: Prompt, continuation: Continuation) -> Loglikelihood:
        if error := self._count(prompt, continuation):
            return Loglikelihood(logprob=0.0, tokens=0, error=error)
        known = {word.lower() for word in _WORD.findall(prompt.user)}
        words = [word.lower() for word in _WORD.findall(continuation.text)]
        shared = sum(word in known for word in words) / max(len(words), 1)
        tokens = len(continuation.token_ids)
        noise = (_number(self.model.content_hash, prompt.text, continuation.text) % 1000) / 1e5
        return Loglikelihood(logprob=-tokens * (3.0 - shared + noise), tokens=tokens)

    def _count(self, prompt: Prompt, continuation: Continuation | None = None) -> str | None:
        """Add a request to the totals, or return why it cannot be answered."""
        self.totals.requests += 1
        ids, text = (continuation.token_ids, continuation.text) if continuation else ((), "")
        if "FAIL-ME" in prompt.text or "FAIL-ME" in text:
            return "scripted failure"
        if not prompt.token_ids:
            return "the prompt is empty"
        if (largest := max(*prompt.token_ids, *ids)) >= VOCABULARY:
            return f"token {largest} is outside the model's vocabulary of {VOCABULARY}"
        self.totals.tokens_in += len(prompt.token_ids) + len(ids)
        return None


def _instruct(prompt: Prompt, number: int) -> str:
    """Return an instruction that names words of the document; empty when it has none."""
    document = prompt.user.partition("Text:\n")[2] or prompt.user
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(document)))
    if not words:
        return ""
    chosen = [words[(number + step) % len(words)] for step in range(min(3, len(words)))]
    return f"Explain how {' and '.join(chosen)} belong together."


def _rewrite(prompt: Prompt, number: int) -> str:
    """Return a rewrite: half of the document in other order after the request's words, or one that is unfit in some way."""
    request, _, document = prompt.user.removeprefix(_REWRITE).partition("\n\nDocument:\n")
    sentences = document.split(". ")
    good = f"{request.strip()} {'. '.join(sentences[::-2])}"
    bad = (
        "",
        document,
        "No.",
        "Nothing known here fits. " * 12,
        good + " and so on" * 1000,
        f"{good} Write only the answer.",
    )
    place = number % (2 * len(bad))
    return bad[place] if place < len(bad) else good


def _judge(prompt: Prompt, number: int) -> str:
    """Return a reply to a rating prompt, in one of `_REPLIES`' ways."""
    score = (5 if _ends_well(_rated_text(prompt)) else 2) - number // len(_REPLIES) % 2
    return _REPLIES[number % len(_REPLIES)].format(score=score)


def _rated_text(prompt: Prompt) -> str:
    """Return the text that a rating prompt or a probe's prompt holds."""
    if prompt.prefill and not prompt.prefill.endswith(RATING_PREFILL):
        return prompt.prefill
    return prompt.user.removesuffix(REASONING_REQUEST).rstrip().partition("Text:\n")[2].rpartition("\n\n")[0]


def _ends_well(text: str) -> bool:
    return text.rstrip().endswith((".", "!", "?", "`"))


def _number(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).digest()[:8], "little")
