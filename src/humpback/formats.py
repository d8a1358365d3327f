"""Which number format a CPU multiplies faster. In: torch and its threads. Out: float32 or bfloat16, and the speeds it was taken for.

With AMX or AVX512-BF16 bfloat16 is up to twice as fast, without, slower; so one matrix product is measured in both formats, once per
process. The hf engine and the trainer ask here, each where its recipe key says `auto`.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from humpback.recipe import NumberFormat

__all__ = ["Chosen", "choose_on_cpu", "measure_formats"]

GAIN = 1.25
"""A CPU must be this much faster in bfloat16 to take it: the rest of a pass gains less than its products, and rounding costs."""
ROWS, WIDTH, ROUNDS = 256, 1024, 15
"""Of the product that is timed: a pass of a small model, about 5 ms on one core."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A number format to compute in."""

    format: NumberFormat
    """Never `auto`."""
    reason: str

    def __str__(self) -> str:
        return f"{self.format} ({self.reason})"


def choose_on_cpu() -> Chosen:
    """Return the faster format on this CPU."""
    speeds = measure_formats(torch.get_num_threads())
    told = f"{speeds['bfloat16']:.0f} GFLOP/s in bfloat16, {speeds['float32']:.0f} in float32 on this CPU"
    faster = speeds["bfloat16"] > GAIN * speeds["float32"]
    return Chosen(format="bfloat16" if faster else "float32", reason=told)


@functools.cache
def measure_formats(threads: int) -> dict[str, float]:
    """Return the speed of a matrix product on this CPU, in GFLOP/s by format; `threads` are torch's own, and part of the answer."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    with torch.inference_mode():
        made = {
            name: (torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype))
            for name, dtype in dtypes.items()
        }
        for given in made.values():
            linear(*given)  # the first call prepares the kernel
        # in turns, so that a burst of other work meets both formats; the shortest, for such work only ever adds
        rounds = [{name: _time(*given) for name, given in made.items()} for _ in range(ROUNDS)]
    seconds = {name: min(spent[name] for spent in rounds) for name in dtypes}
    return {name: 2 * ROWS * WIDTH * WIDTH / max(spent, 1e-9) / 1e9 for name, spent in seconds.items()}


def _time(rows: torch.Tensor, weights: torch.Tensor) -> float:
    started = time.perf_counter()
    linear(rows, weights)
    return time.perf_counter() - started
