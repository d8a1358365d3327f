"""Which number format the hf engine computes in. In: what the recipe says, a device. Out: the format, and why it was taken.

Half precision is what GPUs are built for; on a CPU it is measured (`formats.py`). Answers differ by rounding, which
`tests/engines/test_hf_format.py` bounds.
"""

from __future__ import annotations

import torch

from humpback.errors import InputError
from humpback.formats import Chosen, choose_on_cpu
from humpback.recipe import NumberFormat

__all__ = ["choose_format", "find_device"]


def find_device(name: str) -> torch.device:
    """Return the device that `auto` (CUDA where there is one), `cpu` or `cuda[:N]` means."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device={name!r} is not there; use runtime.device=cpu or auto")
    return torch.device(name)


def choose_format(wanted: NumberFormat, device: torch.device) -> Chosen:
    """Return the format to compute in on this device."""
    if wanted != "auto":
        return Chosen(format=wanted, reason="as runtime.dtype says")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return Chosen(format="bfloat16", reason="a GPU")
        return Chosen(format="float16", reason="a GPU that has no bfloat16")
    return choose_on_cpu()
