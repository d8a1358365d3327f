"""Questions to a server. In: prompts and how to sample. Out: JSON to send. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from humpback.engines.base import Sampling
from humpback.engines.server.findings import Findings
from humpback.prompts import Prompt

__all__ = [
    "ONE",
    "PLAIN",
    "biased_body",
    "chat_body",
    "completion_body",
    "likelihood_body",
    "named_body",
    "seed_of",
    "tokenize_body",
    "top_body",
]

SEEDS = 2**31
"""Seeds are sent modulo this: some servers hold them in 32 bits."""
ONE = Sampling(temperature=1.0, top_p=1.0, max_tokens=1)
BIAS = 100.0
"""Added to the choices' logits: what else might be drawn is left e^-100 of the probability."""
BIASED_TOPS = 64
"""Most probable tokens asked for beside: when all choices are among them, one request is enough."""
PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What a server may set by itself (vLLM takes it from the model's folder, llama.cpp has its own) and the draw must not depend on."""


def completion_body(
    found: Findings, prompt: Sequence[int] | str, sampling: Sampling, **more: object
) -> dict[str, object]:
    """Return the request that continues a prompt."""
    body: dict[str, object] = {
        "model": found.model,
        "prompt": list(prompt) if not isinstance(prompt, str) else prompt,
        "n": 1,
        "stream": False,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if found.extensions:
        body |= PLAIN
    if found.drawn_tokens:
        body |= {"return_token_ids": True, "logprobs": 0}
    return body | more


def chat_body(found: Findings, user: str, sampling: Sampling, **more: object) -> dict[str, object]:
    """Return the request that answers one message."""
    body = completion_body(dataclasses.replace(found, drawn_tokens=False), "", sampling, **more)
    del body["prompt"], body["max_tokens"]
    valid = user.encode("utf-8", "replace").decode()
    return body | {"messages": [{"role": "user", "content": valid}], found.length_name: sampling.max_tokens}


def named_body(found: Findings, prompt: Sequence[int], ids: Sequence[int]) -> dict[str, object]:
    """Return the request for log P of given tokens, as vLLM has it. At temperature 1 a processed value is the model's own."""
    return completion_body(found, prompt, ONE, logprobs=1, logprob_token_ids=list(ids), return_tokens_as_token_ids=True)


def biased_body(prompt: Sequence[int], ids: Sequence[int], *, shares: bool = False) -> dict[str, object]:
    """Return the request that makes llama.cpp draw one of the tokens.

    It tells the drawn token's own log P, from before the bias, and those of the most probable tokens; with `shares`, the
    probabilities of the tokens among each other, from after it. The two together give log P of each.
    """
    return {
        "prompt": list(prompt),
        "n_predict": 1,
        "stream": False,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "n_probs": len(ids) if shares else BIASED_TOPS,
        "post_sampling_probs": shares,
        "logit_bias": [[token, BIAS] for token in ids],
    }


def top_body(found: Findings, prompt: Sequence[int]) -> dict[str, object]:
    """Return the request for the most probable next tokens. The seed keeps the drawn token, told beside them, the same."""
    return completion_body(found, prompt, ONE, logprobs=found.top_logprobs, seed=0)


def likelihood_body(found: Findings, ids: Sequence[int]) -> dict[str, object]:
    """Return the request for the log-probabilities of a given text."""
    if found.likelihood == "prompt_logprobs":
        return completion_body(found, ids, ONE, prompt_logprobs=0)
    return completion_body(found, ids, ONE, echo=True, logprobs=1)


def seed_of(prompt: Prompt) -> int:
    return prompt.seed % SEEDS


def tokenize_body(found: Findings, text: str) -> dict[str, object]:
    """Return the request for a text's token ids, in vLLM's words and llama.cpp's."""
    return {"model": found.model, "prompt": text, "content": text, "add_special_tokens": False, "add_special": False}
