"""How much of a device one pass may take. In: a device. Out: budgets in tokens, rows and bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["LIMITS", "Allowance", "Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What suits a kind of device."""

    batch_tokens: int
    """Tokens of one forward pass, where the recipe leaves it open."""
    call_rows: int
    """Rows of one call to the engine: more of them share more, and keep the slots of growing rows full."""
    call_rounds: int
    """Tokens of one call, as a multiple of a pass's."""
    logits_bytes: float
    """Most memory that the logits of one pass may take."""
    positions: int
    """Positions whose log-probabilities are computed at once: few stay in a CPU's cache, many keep a GPU at work."""
    slots: int
    """Most rows that grow at once."""


LIMITS = {
    "cpu": Limits(batch_tokens=2048, call_rows=128, call_rounds=8, logits_bytes=400e6, positions=32, slots=64),
    "cuda": Limits(batch_tokens=16_384, call_rows=2048, call_rounds=16, logits_bytes=2e9, positions=1024, slots=256),
}
"""A GPU takes about as long for a pass of few tokens as of thousands."""
CPU_SLOTS_BYTES = 1e9
CUDA_SLOTS_SHARE = 0.4
"""Of the memory that is free when rows begin to grow: prompts, logits and a second model's pass want theirs."""


class Allowance:
    """What an engine takes of its device: what suits that, and less once it was found too much."""

    def __init__(self, device: torch.device, batch_tokens: int | None) -> None:
        self.device = device
        self.limits = LIMITS[device.type]
        self.batch_tokens = batch_tokens or self.limits.batch_tokens
        self._slots_share = 1.0

    @property
    def call_tokens(self) -> int:
        """Tokens that a call had best bring."""
        return self.limits.call_rounds * self.batch_tokens

    def slots_bytes(self) -> float:
        """Return what the keys and values of growing rows may take."""
        if self.device.type == "cpu":
            return self._slots_share * CPU_SLOTS_BYTES
        free, _ = torch.cuda.mem_get_info(self.device)
        idle = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)  # torch's, in no use
        return self._slots_share * CUDA_SLOTS_SHARE * (free + idle)

    def shrink(self) -> None:
        """Take half from now on, and give back what torch holds for nothing."""
        self.batch_tokens = max(self.batch_tokens // 2, 1)
        self._slots_share /= 2
        self.release()

    def release(self) -> None:
        """Give the device's unused memory back."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
