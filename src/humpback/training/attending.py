"""Attention for training on a CPU in half precision, under a name that transformers' models can be told to use.

In: queries, keys and values of one layer, as the model computes them. Out: what each token sees. torch's own kernel for CPUs is no
faster in bfloat16 than in float32, and with dropout there is none: every probability is then kept for the backward pass. Here queries
are taken block by block, and the probabilities of a block, dropout included, are computed again in the backward pass. What is not
plain causal attention (a sliding window shorter than a row, say) is left to transformers' own function.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["ATTENTION", "CausalAttention", "attend_in_blocks"]

ATTENTION = "humpback_training"
BLOCK = 64
"""Queries whose probabilities are held at a time, for every head."""
NOT_OURS = ("softcap", "s_aux", "position_bias")
"""What some architectures add to attention; a sliding window shows in the mask."""
STEPS_OF_CHANCE = 2**16
"""Dropout is drawn by 16 bits a probability: 0.1 becomes 0.100006."""


class Block(NamedTuple):
    """Some queries of all heads and the keys that they may see, in the layout of one batched product.

    N is rows times key heads; the G heads that share a key head stand side by side as its queries.
    """

    start: int
    end: int
    chances: torch.Tensor
    """(N, G * queries, keys), of the model's number format."""
    kept: torch.Tensor | None
    """Of the same shape: 0 where dropout takes a probability away, else 1."""


class CausalAttention(torch.autograd.Function):
    """Each token sees those up to itself: (B, heads, T, width) queries, (B, key heads, T, width) keys and values of one format."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float
    ) -> torch.Tensor:
        """Return (B, T, heads, width)."""
        rows, heads, size, _ = query.shape
        key_heads, width = value.shape[1], value.shape[3]
        shared = rows * key_heads, heads // key_heads, size
        queries, keys, values = query.reshape(*shared, -1), key.flatten(0, 1), value.flatten(0, 1)
        # one seed, so that the backward pass draws again what was dropped; a state of torch's that is restored gives it again
        seed = int(torch.randint(2**62, ())) if dropout else 0
        seen = value.new_empty(rows, size, key_heads, shared[1], width)
        for block in _blocks(queries, keys, scale, dropout, seed):
            chances = block.chances if block.kept is None else block.chances * block.kept
            part = torch.bmm(chances, values[:, : block.end])
            if dropout:
                part /= 1 - _exact(dropout)
            parts = part.view(rows, key_heads, shared[1], -1, width)
            seen[:, block.start : block.end] = parts.permute(0, 3, 1, 2, 4)
        ctx.save_for_backward(queries, keys, values)
        ctx.how = scale, dropout, seed
        return seen.view(rows, size, heads, width)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        queries, keys, values = ctx.saved_tensors
        scale, dropout, seed = ctx.how
        rows, size, heads, width = slopes[0].shape
        shared = queries.shape[:3]
        slope = slopes[0].reshape(rows, size, -1, shared[1], width).permute(0, 2, 3, 1, 4).reshape(*shared, width)
        if dropout:
            slope = slope / (1 - _exact(dropout))
        to_queries = torch.empty_like(queries)
        # sums over blocks, which would lose their small parts in half precision
        wide = torch.promote_types(keys.dtype, torch.float32)
        to_keys, to_values = (torch.zeros_like(tensor, dtype=wide) for tensor in (keys, values))
        for start, end, chances, kept in _blocks(queries, keys, scale, dropout, seed):
            own = slope[:, :, start:end].flatten(1, 2)
            to_values[:, :end] += torch.bmm((chances if kept is None else chances * kept).mT, own)
            to_chances = torch.bmm(own, values[:, :end].mT)
            if kept is not None:
                to_chances *= kept
            to_scores = torch._softmax_backward_data(to_chances, chances, -1, chances.dtype)
            to_queries[:, :, start:end] = torch.bmm(to_scores, keys[:, :end]).view(*shared[:2], end - start, -1)
            to_keys[:, :end] += torch.bmm(to_scores.mT, queries[:, :, start:end].flatten(1, 2))
        to_queries *= scale
        to_keys *= scale
        return (
            to_queries.view(rows, heads, size, -1),
            to_keys.to(keys.dtype).view(rows, -1, size, keys.shape[-1]),
            to_values.to(values.dtype).view(rows, -1, size, width),
            None,
            None,
        )


def attend_in_blocks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Answer as transformers' attention functions do; by theirs where this is not plain causal attention on a CPU."""
    if reason := _not_ours(module, query, key, attention_mask, is_causal, more):
        _tell_once(type(module).__name__, reason)
        given: dict[str, Any] = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **more}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    if torch.is_autocast_enabled("cpu"):  # as it does for torch's own; rotated queries and keys are float32 there
        query, key, value = (states.to(torch.get_autocast_dtype("cpu")) for states in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        seen: torch.Tensor = CausalAttention.apply(query, key, value, scale, dropout)  # type: ignore[no-untyped-call]
    return seen, None


def _not_ours(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    is_causal: bool | None,
    more: Mapping[str, object],
) -> str | None:
    """Return why torch's own attention is taken."""
    if odd := [name for name in NOT_OURS if more.get(name) is not None]:
        return f"it has {', '.join(odd)}"
    if attention_mask is not None:
        window = more.get("sliding_window")
        return f"rows are longer than its sliding window of {window} tokens" if window else "it has a mask of its own"
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal) or query.shape[2] != key.shape[2]:
        return "it is not causal"
    return None if query.device.type == "cpu" else f"it is on {query.device}"


@functools.cache
def _tell_once(module: str, reason: str) -> None:
    print(f"attention: torch's own in {module}: {reason}", flush=True)


def _make_mask(*, attention_mask: torch.Tensor | None = None, **more: Any) -> torch.Tensor | None:
    """Return transformers' mask, None for plain causal attention, which rows padded on their right are as well.

    What stands after a token is not seen by it, and what padding sees is nobody's label.
    """
    padded_right = attention_mask is None or bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())
    if more.get("allow_is_causal_skip", True) and padded_right:
        attention_mask = None
    return sdpa_mask(attention_mask=attention_mask, **more)


AttentionInterface.register(ATTENTION, attend_in_blocks)
AttentionMaskInterface.register(ATTENTION, _make_mask)


def _blocks(queries: torch.Tensor, keys: torch.Tensor, scale: float, dropout: float, seed: int) -> Iterator[Block]:
    """Yield the blocks of (N, G, T, width) queries; the same ones whenever it is asked."""
    size = queries.shape[2]
    dice = torch.Generator().manual_seed(seed) if dropout else None
    later = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu_(1)
    # float32 products: scores rounded to bfloat16 are off by up to 1 in 256, and so is what their exponential gives
    wide = torch.promote_types(keys.dtype, torch.float32)
    wide_queries, wide_keys = queries.to(wide) * scale, keys.to(wide)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        own = slice(start, end)
        scores = torch.bmm(wide_queries[:, :, own].flatten(1, 2), wide_keys[:, :end].mT)
        hidden = later[: end - start, : end - start]
        scores.view(len(keys), -1, end - start, end)[..., own].masked_fill_(hidden, -torch.inf)
        chances = torch.softmax(scores, -1).to(keys.dtype)
        yield Block(start, end, chances, None if dice is None else _draw_kept(chances, dropout, dice))


def _draw_kept(chances: torch.Tensor, dropout: float, dice: torch.Generator) -> torch.Tensor:
    # four draws of 16 bits from one number of 64: `bernoulli_` takes five times as long, more than the products
    draws = torch.empty(-(-chances.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=dice)
    small = draws.view(torch.int16)[: chances.numel()].view(chances.shape)
    return small.ge_(round(dropout * STEPS_OF_CHANCE) - STEPS_OF_CHANCE // 2).to(chances.dtype)


def _exact(dropout: float) -> float:
    return round(dropout * STEPS_OF_CHANCE) / STEPS_OF_CHANCE
