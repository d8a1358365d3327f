"""How much of a device one pass may take. In: a device. Out: budgets in tokens, rows and bytes, and whether memory ran out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["LIMITS", "Limits", "find_room", "lacks_memory"]


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


def find_room(device: torch.device) -> float:
    """Return how many bytes the keys and values of growing rows may take."""
    if device.type == "cpu":
        return CPU_SLOTS_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, in no use
    return CUDA_SLOTS_SHARE * (free + idle)


def lacks_memory(error: Exception) -> bool:
    """Tell whether a device, or the host, had too little memory; torch's CPU allocator says so in words only."""
    words = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in words and ("allocate memory" in words or "not enough memory" in words)
    )
