"""Replies of a server. In: parsed JSON. Out: answers. No I/O.

A reply is believed only as far as it holds: one choice, of the right index, with finite log-probabilities for exactly the tokens
that were asked. Anything else is a BadAnswerError, and the question is asked again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

from humpback.engines.base import Completion
from humpback.engines.server.findings import Findings
from humpback.engines.server.retries import BadAnswerError, GaveUpError

__all__ = [
    "Json",
    "Top",
    "entry",
    "number",
    "only_choice",
    "prompt_tokens",
    "read_biased",
    "read_completion",
    "read_echo",
    "read_named",
    "read_prompt_logprobs",
    "read_shares",
    "read_tokens",
    "read_top",
]

T = TypeVar("T")
Json: TypeAlias = Mapping[str, object]

ROUNDING = 1e-3
"""How far above 0 a log-probability may be by rounding."""


def read_tokens(reply: object) -> list[int]:
    if not isinstance(reply, dict):
        raise BadAnswerError("no tokens")
    return [token for token in entry(reply, "tokens", list) if isinstance(token, int)]


# -- completions ---------------------------------------------------------------------------------------------------------


def read_completion(reply: object, found: Findings, stop: Sequence[str]) -> Completion:
    """Return a drawn text, cut before the first stop string."""
    choice = only_choice(reply, found)
    text = choice["text"] if "text" in choice else entry(choice, "message", dict).get("content")
    if text is None:
        text = ""  # a model that spent all its tokens on thinking
    if not isinstance(text, str):
        raise BadAnswerError(f"the text is {type(text).__name__}")
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        raise GaveUpError("the server's filter withheld the text")
    if finish not in ("stop", "length"):
        raise BadAnswerError(f"the text ended by {finish!r}")
    usage = reply.get("usage") if isinstance(reply, dict) else None
    drawn = usage.get("completion_tokens") if isinstance(usage, dict) else None
    ids, logprob = _read_drawn(choice) if found.drawn_tokens else ((), None)
    whole = text.encode("utf-8", "replace").decode()  # no file takes a lone surrogate
    cuts = [at for mark in stop if (at := whole.find(mark)) >= 0]
    return Completion(
        text=whole[: min(cuts, default=None)],
        tokens=drawn if isinstance(drawn, int) and drawn >= 0 else len(ids),
        finish="stop" if finish == "stop" or cuts else "length",
        token_ids=ids,
        logprob=logprob,
    )


def _read_drawn(choice: Json) -> tuple[tuple[int, ...], float]:
    ids = entry(choice, "token_ids", list)
    values = entry(entry(choice, "logprobs", dict), "token_logprobs", list)
    if len(values) != len(ids) or not all(isinstance(token, int) for token in ids):
        raise BadAnswerError(f"{len(ids)} tokens came with {len(values)} log-probabilities")
    return tuple(ids), math.fsum(number(value) for value in values)


def prompt_tokens(reply: object) -> int | None:
    """Return how many tokens the server read; None where it does not tell."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


# -- the next token ------------------------------------------------------------------------------------------------------


def read_named(reply: object, found: Findings, ids: Sequence[int]) -> list[float]:
    """Return log P of each token, from a reply to `logprob_token_ids`."""
    told = entry(entry(only_choice(reply, found), "logprobs", dict), "top_logprobs", list)
    first = told[0] if told and isinstance(told[0], dict) else {}
    missing = [token for token in ids if f"token_id:{token}" not in first]
    if missing:
        raise BadAnswerError(f"no log-probability of tokens {missing}")
    return [number(first[f"token_id:{token}"]) for token in ids]


def read_biased(reply: object, ids: Sequence[int]) -> dict[int, float]:
    """Return log P of those of the tokens that llama.cpp tells: the one it was made to draw, and the most probable ones."""
    first = _first_probability(reply)
    told = [first, *_dicts(entry(first, "top_logprobs", list))]
    found = {item["id"]: number(item.get("logprob")) for item in told if item.get("id") in ids}
    if first.get("id") not in ids:
        raise BadAnswerError(f"token {first.get('id')} was drawn in spite of the bias")
    return {token: found[token] for token in ids if token in found}


def read_shares(reply: object, ids: Sequence[int]) -> list[float]:
    """Return the tokens' probabilities among each other, after the bias."""
    told = _dicts(entry(_first_probability(reply), "top_probs", list))
    shares = {item.get("id"): number(item.get("prob"), at_most=1.0) for item in told}
    missing = [token for token in ids if shares.get(token, 0.0) <= 0.0]
    if missing:
        raise BadAnswerError(f"no probability of tokens {missing}")
    return [shares[token] for token in ids]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Top:
    """The most probable next tokens, as a server tells them."""

    logprobs: dict[str, float]
    """log P, by the token's text or, where the server tells it, by `token_id:N`."""
    bound: float
    """What log P no token can exceed that is not among them."""


def read_top(reply: object, found: Findings) -> Top:
    """Return the most probable next tokens with log P.

    The token drawn is told as well, and is not always among the most probable: what is beyond `top_logprobs` is left out.
    Where tokens with the same text leave room for it, its value stays, being its own, and says nothing of the others.
    """
    logprobs = entry(only_choice(reply, found), "logprobs", dict)
    drawn: object = None
    if isinstance(logprobs.get("content"), list):  # llama.cpp answers completions in the form of chat
        (first, *_) = _dicts(logprobs["content"]) or [{}]
        told = {f"token_id:{e['id']}" if "id" in e else str(e.get("token")): e.get("logprob") for e in _tops(first)}
    else:
        tops = entry(logprobs, "top_logprobs", list)
        told = tops[0] if tops and isinstance(tops[0], dict) else {}
        values = logprobs.get("token_logprobs")
        drawn = values[0] if isinstance(values, list) and values else None
    ranked = sorted(((number(value), name) for name, value in told.items()), reverse=True)[: found.top_logprobs or None]
    if not ranked:
        raise BadAnswerError("no log-probabilities")
    others = ranked[:-1] if ranked[-1][0] == drawn and len(ranked) > 1 else ranked
    return Top(logprobs={name: value for value, name in ranked}, bound=others[-1][0])


# -- a given text --------------------------------------------------------------------------------------------------------


def read_prompt_logprobs(reply: object, found: Findings, ids: Sequence[int], start: int) -> float:
    """Return log p(ids[start:] given ids[:start]) from vLLM's `prompt_logprobs`."""
    told = entry(only_choice(reply, found), "prompt_logprobs", list)
    if len(told) != len(ids):
        raise BadAnswerError(f"log-probabilities of {len(told)} tokens came for {len(ids)}")
    values = []
    for token, items in zip(ids[start:], told[start:], strict=True):
        one = items.get(str(token)) if isinstance(items, dict) else None
        if not isinstance(one, dict):
            raise BadAnswerError(f"no log-probability of token {token}")
        values.append(number(one.get("logprob")))
    return math.fsum(values)


def read_echo(reply: object, found: Findings, ids: Sequence[int], start: int) -> float:
    """Return log p(ids[start:] given ids[:start]) from the echo of a prompt; what was drawn after it is left out."""
    told = entry(entry(only_choice(reply, found), "logprobs", dict), "token_logprobs", list)
    if not len(ids) <= len(told) <= len(ids) + 1:
        raise BadAnswerError(f"log-probabilities of {len(told)} tokens came for {len(ids)}")
    return math.fsum(number(value) for value in told[start : len(ids)])


# -- parts ---------------------------------------------------------------------------------------------------------------


def only_choice(reply: object, found: Findings) -> dict[str, object]:
    """Return the one choice that was asked for."""
    if not isinstance(reply, dict):
        raise BadAnswerError(f"the reply is {type(reply).__name__}, not an object")
    if isinstance(reply.get("error"), dict):
        raise BadAnswerError(f"the reply is an error: {str(reply['error'].get('message'))[:200]}")
    named = reply.get("model")
    if found.answers_as is not None and named != found.answers_as:
        raise BadAnswerError(f"the model {named!r} answered, not {found.answers_as!r}")
    choices = entry(reply, "choices", list)
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise BadAnswerError(f"{len(choices)} choices came instead of one")
    if choices[0].get("index", 0) != 0:
        raise BadAnswerError(f"choice {choices[0]['index']!r} came instead of 0")
    return dict(choices[0])


def entry(item: Json, name: str, kind: type[T]) -> T:
    value = item.get(name)
    if not isinstance(value, kind):
        raise BadAnswerError(f"{name} is {type(value).__name__}")
    return value


def number(value: object, *, at_most: float = 0.0) -> float:
    """Return a finite log-probability."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadAnswerError(f"a log-probability is {value!r}")
    if value > at_most + ROUNDING:
        raise BadAnswerError(f"a log-probability is {value!r}, above {at_most:g}")
    return min(float(value), at_most)


def _first_probability(reply: object) -> dict[str, object]:
    if not isinstance(reply, dict):
        raise BadAnswerError(f"the reply is {type(reply).__name__}, not an object")
    told = _dicts(entry(reply, "completion_probabilities", list))
    if len(told) != 1:
        raise BadAnswerError(f"probabilities of {len(told)} tokens came instead of one")
    return told[0]


def _tops(item: Json) -> list[dict[str, object]]:
    return _dicts(entry(item, "top_logprobs", list))


def _dicts(items: Sequence[object]) -> list[dict[str, object]]:
    return [item for item in items if isinstance(item, dict)]
