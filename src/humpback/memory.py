"""Whether memory ran out: an engine takes smaller passes then, and a trainer says what needs less. In: an error. Out: yes or no."""

from __future__ import annotations

import torch

__all__ = ["lacks_memory"]


def lacks_memory(error: Exception) -> bool:
    """Tell whether a device, or the host, had too little memory; some say so in words only."""
    words = str(error)
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or ("DefaultCPUAllocator" in words and ("allocate memory" in words or "not enough memory" in words))
        # CUDA itself and its libraries, beside torch's allocator
        or "CUDA error: out of memory" in words
        or "CUBLAS_STATUS_ALLOC_FAILED" in words
    )
