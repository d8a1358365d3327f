"""log P of given next tokens, by whatever way a server has. In: a prompt and token ids. Out: a value for each, or a reason for none.

Three of the ways are exact over the whole vocabulary. Where only the most probable tokens are told, no value is made up for others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from humpback.engines.server import requests, wire
from humpback.engines.server.findings import Findings
from humpback.engines.server.retries import GaveUpError
from humpback.prompts import Tokenizer

__all__ = ["choose_logprobs"]

T = TypeVar("T")

UNSEEN = 0.01
"""Most of the choices' mass that choices outside the most probable tokens may hold, for the others to count as all."""


class Ask(Protocol):
    """Sends a request until its reply can be read."""

    async def __call__(
        self, path: str, body: Mapping[str, object], read: Callable[[object], T], *, work: float
    ) -> T: ...


async def choose_logprobs(
    ask: Ask, found: Findings, tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]
) -> dict[int, float]:
    """Return log P of each of the distinct `ids` as the token after `prompt`; raise GaveUpError when it cannot be told."""
    if found.choices == "named":
        read = functools.partial(wire.read_named, found=found, ids=ids)
        values = await ask("/v1/completions", requests.named_body(found, prompt, ids), read, work=len(prompt))
        return dict(zip(ids, values, strict=True))
    if found.choices == "biased":
        return await _choose_biased(ask, prompt, ids)
    top = wire.Top(logprobs={}, bound=0.0)
    if found.top_logprobs > 1:
        read_top = functools.partial(wire.read_top, found=found)
        top = await ask("/v1/completions", requests.top_body(found, prompt), read_top, work=len(prompt))
    names = _texts(tokenizer, prompt, ids)
    seen = _find_among(top.logprobs, names, ids)
    if found.choices == "each":
        for token in [token for token, value in seen.items() if value is None]:
            seen[token] = await _judge_one(ask, found, prompt, token)
        return {token: value for token, value in seen.items() if value is not None}
    return _bound_unseen(seen, top.bound, found, names)


async def _judge_one(ask: Ask, found: Findings, prompt: Sequence[int], token: int) -> float:
    """Ask for the likelihood of the prompt with the token at its end."""
    ids = (*prompt, token)
    tell = wire.read_prompt_logprobs if found.likelihood == "prompt_logprobs" else wire.read_echo
    read = functools.partial(tell, found=found, ids=ids, start=len(prompt))
    return await ask("/v1/completions", requests.likelihood_body(found, ids), read, work=len(ids))


async def _choose_biased(ask: Ask, prompt: Sequence[int], ids: Sequence[int]) -> dict[int, float]:
    """Ask once when all choices are among the most probable tokens, else twice.

    The drawn choice's own log P is known, and from it and the shares follow the others'.
    """
    read = functools.partial(wire.read_biased, ids=ids)
    told = await ask("/completion", requests.biased_body(prompt, ids), read, work=len(prompt))
    if len(told) < len(ids):
        body = requests.biased_body(prompt, ids, shares=True)
        shares = await ask("/completion", body, functools.partial(wire.read_shares, ids=ids), work=1.0)
        anchor = max(told, key=lambda token: told[token])
        offset = told[anchor] - math.log(shares[ids.index(anchor)])
        for token, share in zip(ids, shares, strict=True):
            told.setdefault(token, min(math.log(share) + offset, 0.0))
    return told


def _find_among(told: Mapping[str, float], names: Mapping[int, str], ids: Sequence[int]) -> dict[int, float | None]:
    """Return the choices' values among the most probable tokens, None for one that is not there."""
    # a part of a character looks like any other part
    texts = {token: text for token, text in names.items() if text and "\ufffd" not in text}
    return {token: told.get(f"token_id:{token}", told.get(texts.get(token, ""))) for token in ids}


def _bound_unseen(
    seen: Mapping[int, float | None], bound: float, found: Findings, names: Mapping[int, str]
) -> dict[int, float]:
    """Return all values. A choice that was not told is at most as probable as the last token that was, and stands at that.

    Where this may matter, there is no answer.
    """
    mass = math.fsum(math.exp(value) for value in seen.values() if value is not None)
    unseen = [names[token] for token, value in seen.items() if value is None]
    may_hold = min(len(unseen) * math.exp(bound), 1 - mass)
    if may_hold > UNSEEN * mass:
        raise GaveUpError(
            f"{', '.join(map(repr, unseen))} not among the {found.top_logprobs} most probable tokens, all that the server "
            f"tells; the choices seen hold {mass:.3g} of the probability, those unseen up to {may_hold:.3g}"
        )
    return {token: bound if value is None else value for token, value in seen.items()}


def _texts(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> dict[int, str]:
    """Return each token's text, decoded after another token: alone, some tokenizers drop the space it begins with."""
    last = tokenizer.decode(prompt[-1:])
    return {token: tokenizer.decode([*prompt[-1:], token]).removeprefix(last) for token in ids}
