"""Attention as packs and slots need it, under a name that transformers' models can be told to use.

In: queries, keys and values of one layer, as the model computes them. Out: what each token sees. A `Seen` says what that is: the
tokens of a pack see their way from the root (`PackSeen`), the next token of each growing row sees its row (`Slots`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Protocol, TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from humpback.engines.packs import Block, Pack

__all__ = ["ATTENTION", "KeysValues", "PackSeen", "Seen", "Slots"]

ATTENTION = "humpback"
KeysValues: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer, [1, key heads, tokens, width] each."""
ALIGNED = 64
"""Keys of growing rows, on a GPU, are read in multiples of this."""
NOT_OURS = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What some architectures add to attention; ours has none of it, so such a model takes transformers' own."""


class Seen(Protocol):
    """Decides what the tokens of one forward pass attend to."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """Return [B, T, heads, width] for [B, heads, T, width] queries."""
        ...


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    *,
    seen: Seen,
    scaling: float | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Answer as transformers' attention functions do; `seen` comes through the model's forward call."""
    if odd := [name for name in NOT_OURS if more.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(odd)}")
    layer = module.layer_idx
    assert isinstance(layer, int)
    return seen.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION, _attend)


class PackSeen:
    """What the tokens of a pack attend to; gathers keys and values in `kept` where they are wanted later."""

    def __init__(self, pack: Pack, before: KeysValues | None, *, keep: bool, device: torch.device) -> None:
        """`before` are the keys and values of the tokens that the pack's rows skip."""
        self.kept: KeysValues = []
        self._keep = keep
        self._before = before
        self._calls = [(block, _mask(block, pack.skipped, device)) for block in pack.blocks()]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        if self._keep:
            self.kept.append((key, value))
        before = self._before[layer] if self._before else None
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        for block, mask in self._calls:
            own = slice(block.start, block.end)
            keys, values = (
                _gather(tensor, before[i] if before else None, block) for i, tensor in enumerate((key, value))
            )
            seen = _sdpa(query[:, :, own], keys, values, mask=mask, causal=mask is None, scale=scale)
            out[:, own] = seen.transpose(1, 2)
        return out


def _gather(tensor: torch.Tensor, before: torch.Tensor | None, block: Block) -> torch.Tensor:
    own = tensor[:, :, block.start : block.end]
    parts = [tensor[:, :, start:end] for start, end in block.way]
    if before is not None:
        parts.insert(0, before)
    return torch.cat([*parts, own], dim=2) if parts else own


def _mask(block: Block, skipped: int, device: torch.device) -> torch.Tensor | None:
    """Return [own, all] of what may be seen; None where each token sees all up to itself."""
    above = skipped + sum(end - start for start, end in block.way)
    if not above and len(block.lengths) == 1:
        return None
    size = block.end - block.start
    mask = torch.zeros(size, above + size, dtype=torch.bool, device=device)
    mask[:, :above] = True
    start = 0
    for length in block.lengths:
        own = mask[start : start + length, above + start : above + start + length]
        own.copy_(torch.ones_like(own).tril())
        start += length
    return mask


class Slots:
    """Keys and values of rows that grow by a token per pass, a slot each, in memory that is taken once."""

    def __init__(self, slots: int, capacity: int) -> None:
        """`capacity` is the most tokens a row may have."""
        self._shape = (slots, -(-capacity // ALIGNED) * ALIGNED)
        self._kept: KeysValues = []
        self._lengths: list[int] = [0] * slots
        self._mask: torch.Tensor | None = None
        self._places: tuple[torch.Tensor, torch.Tensor] | None = None
        self._width = 0

    def fill(
        self,
        first: int,
        parts: Sequence[KeysValues],
        places: Sequence[Sequence[int]],
        skipped: int,
        device: torch.device,
    ) -> None:
        """Give the slots from `first` on a row's keys and values each.

        These are the first `skipped` tokens of parts[0] and, after them, the row's `places` of parts[1].
        """
        before, pack = parts
        if not self._kept:
            slots, capacity = self._shape
            # zeros: what a mask hides is still multiplied, and nothing times not-a-number is not a number
            self._kept = [
                (
                    key.new_zeros(slots, key.shape[1], capacity, key.shape[3]),
                    value.new_zeros(slots, value.shape[1], capacity, value.shape[3]),
                )
                for key, value in pack
            ]
        # all rows at once: row by row, it would be thousands of small copies
        at = torch.tensor(list(chain.from_iterable(places)), device=device)
        to = torch.tensor([skipped + i for own in places for i in range(len(own))], device=device)
        slots_N = torch.tensor([first + row for row, own in enumerate(places) for _ in own], device=device)
        for layer, kept in enumerate(self._kept):
            for i in (0, 1):
                if skipped:
                    kept[i][first : first + len(places), :, :skipped] = before[layer][i]
                kept[i][slots_N, :, to] = pack[layer][i][0].transpose(0, 1)[at]
        for row, own in enumerate(places):
            self._lengths[first + row] = skipped + len(own)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Put the rows of some slots into others, of which none is a source."""
        width = max(self._lengths[source] for source in sources)
        device = self._kept[0][0].device
        index, to = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for kept in self._kept:
            for tensor in kept:
                tensor[to, :, :width] = tensor[index, :, :width]
        for source, target in zip(sources, targets, strict=True):
            self._lengths[target] = self._lengths[source]

    def grow(self, count: int) -> torch.Tensor:
        """Make room for one more token in each of the first `count` slots and return their positions [count, 1]."""
        device = self._kept[0][0].device
        lengths = torch.tensor(self._lengths[:count], device=device)
        self._places = torch.arange(count, device=device), lengths
        for slot in range(count):
            self._lengths[slot] += 1
        self._width = max(self._lengths[:count])
        if device.type != "cpu":  # their kernels copy a mask whose rows are not aligned, in every layer
            self._width = min(-(-self._width // ALIGNED) * ALIGNED, self._shape[1])
        hidden = torch.arange(self._width, device=device) > lengths[:, None]
        # numbers, not booleans, which every layer would turn into numbers
        self._mask = hidden.new_zeros(hidden.shape, dtype=self._kept[0][0].dtype).masked_fill_(hidden, -torch.inf)[
            :, None, None
        ]
        return lengths[:, None]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        assert self._places is not None
        keys, values = self._kept[layer]
        slots, places = self._places
        keys[slots, :, places] = key[:, :, 0]
        values[slots, :, places] = value[:, :, 0]
        count, heads, _, width = query.shape
        # the heads that share a key head go as that head's rows: no key is copied
        grouped = query.reshape(count, keys.shape[1], -1, width)
        seen = scaled_dot_product_attention(
            grouped, keys[:count, :, : self._width], values[:count, :, : self._width], attn_mask=self._mask, scale=scale
        )
        return seen.reshape(count, 1, heads, -1)


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and query.device.type != "cpu":  # there, a masked kernel takes as many key heads as heads only
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        groups = 1
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=groups > 1
    )
