"""Attention of a pack in one call of a flash kernel, for GPUs. In: a pack, each layer's queries, keys and values. Out: what is seen.

Called block by block, as a CPU does best, a pack of a hundred rows starts thousands of small kernels, and a GPU waits for most of
them. Here each segment is one sequence of a variable-length batch: its queries are its own tokens, its keys the tokens of its way from
the root and its own, and "causal" is counted from their ends, which is what a pack means. No mask is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from humpback.engines.attending import KeysValues, PackSeen, Seen
from humpback.engines.packs import Pack, Segment, build_pack

__all__ = ["FlashSeen", "Kernel", "Ragged", "find_kernel", "is_sound", "see_pack"]

GATHERED = 262_144
"""Most keys that one call is given, in tokens: segments with the same way each bring a copy of it (1 GB for 8 heads of 128)."""


TRIED = ((*range(40), *range(60, 90)), (*range(40), *range(200, 230)), (*range(7),))
"""Rows whose pack has a shared segment, two that follow it, and one of its own."""
TOLERANCE = 0.02
"""Largest difference from float32 in attending to random states of spread 1: bfloat16 gives 0.008, a key too few or too many 0.3."""


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """The sequences of one call, laid end to end."""

    queries: slice
    """Places in the pack."""
    keys: torch.Tensor | None
    """Places among the keys before the pack and the pack's own, which follow; None for all of these as they are."""
    query_ends: torch.Tensor
    """Where each sequence's queries end, a 0 before them; int32."""
    key_ends: torch.Tensor
    longest_query: int
    longest_key: int


Kernel: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Ragged, float | None], torch.Tensor]
"""Attends to [tokens, heads, width] queries with [tokens, key heads, width] keys and values."""


def find_kernel(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """Return the kernel for packs on this device, None where there is none; `is_sound` tells whether it takes a model's heads."""
    return _attend if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) else None


def is_sound(
    kernel: Kernel, *, heads: int, key_heads: int, width: int, device: torch.device, dtype: torch.dtype
) -> bool:
    """Tell whether a kernel takes heads of this number and width and sees what it should, by float32 on the CPU.

    Asked of the kernel alone: through a whole model in half precision, rounding hides as much as a wrong key changes.
    """
    pack = build_pack(TRIED)
    dice = torch.Generator().manual_seed(0)
    size = len(pack.token_ids)
    query, key, value = (torch.randn(1, n, size, width, generator=dice) for n in (heads, key_heads, key_heads))
    query, key, value = (states.to(dtype) for states in (query, key, value))
    exact = PackSeen(pack, None, keep=False, device=torch.device("cpu")).attend(
        0, query.float(), key.float(), value.float(), None
    )
    seen = FlashSeen(pack, None, keep=False, device=device, kernel=kernel)
    try:
        told = seen.attend(0, query.to(device), key.to(device), value.to(device), None)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, ValueError, RuntimeError):  # how kernels refuse a shape or a device
        return False
    return bool(((told.float().cpu() - exact).abs() <= TOLERANCE).all())


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ragged: Ragged, scale: float | None
) -> torch.Tensor:
    # the operator itself: its public name, `varlen_attn`, is younger than the oldest torch we take, and has changed since
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        ragged.query_ends,
        ragged.key_ends,
        ragged.longest_query,
        ragged.longest_key,
        0.0,  # dropout
        True,  # causal: all before a token, counted from the ends
        False,
        scale=scale,
    )[0]
    return out


class KeepingSeen(Seen, Protocol):
    """What the tokens of a pack attend to."""

    kept: KeysValues
    """The pack's keys and values, where they are wanted later."""


def see_pack(
    pack: Pack, before: KeysValues | None, *, keep: bool, device: torch.device, kernel: Kernel | None
) -> KeepingSeen:
    """Return what lets a pack's tokens attend: in one call of `kernel`, or block by block where there is none."""
    if kernel is None:
        return PackSeen(pack, before, keep=keep, device=device)
    return FlashSeen(pack, before, keep=keep, device=device, kernel=kernel)


class FlashSeen:
    """What the tokens of a pack attend to; gathers keys and values in `kept` where they are wanted later."""

    def __init__(
        self, pack: Pack, before: KeysValues | None, *, keep: bool, device: torch.device, kernel: Kernel
    ) -> None:
        """`before` are the keys and values of the tokens that the pack's rows skip."""
        self.kept: KeysValues = []
        self._keep = keep
        self._before = before
        self._kernel = kernel
        self._calls = [_lay_out(part, pack, device) for part in _cut(pack)]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        if self._keep:
            self.kept.append((key, value))
        before = self._before[layer] if self._before else None
        keys, values = (
            torch.cat([before[i][0], own[0]], 1).transpose(0, 1) if before else own[0].transpose(0, 1)
            for i, own in enumerate((key, value))
        )  # [tokens, key heads, width]
        queries = query[0].transpose(0, 1)
        seen = []
        for call in self._calls:
            k, v = (keys, values) if call.keys is None else (keys[call.keys], values[call.keys])
            seen.append(self._kernel(queries[call.queries], k, v, call, scale))
        return (seen[0] if len(seen) == 1 else torch.cat(seen))[None]


def _cut(pack: Pack) -> Iterator[list[Segment]]:
    """Yield the segments, in the pack's order, in parts whose keys are few enough."""
    part: list[Segment] = []
    gathered = 0
    for segment in pack.segments:
        keys = segment.depth + segment.length
        if part and gathered + keys > GATHERED:
            yield part
            part, gathered = [], 0
        part.append(segment)
        gathered += keys
    yield part


def _lay_out(part: Sequence[Segment], pack: Pack, device: torch.device) -> Ragged:
    pieces: list[NDArray[np.int64]] = []
    skipped = pack.skipped
    for segment in part:
        way = (pack.segments[i] for i in segment.way)
        pieces.append(np.arange(skipped))
        pieces.extend(np.arange(one.start, one.end) + skipped for one in (*way, segment))
    keys = np.concatenate(pieces)
    whole = len(keys) == skipped + len(pack.token_ids) and bool((keys == np.arange(len(keys))).all())

    def ends(lengths: Sequence[int]) -> torch.Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)

    own = [segment.length for segment in part]
    all_keys = [segment.depth + segment.length for segment in part]
    return Ragged(
        queries=slice(part[0].start, part[-1].end),
        keys=None if whole else torch.from_numpy(keys).to(device),
        query_ends=ends(own),
        key_ends=ends(all_keys),
        longest_query=max(own),
        longest_key=max(all_keys),
    )
