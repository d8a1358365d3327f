from __future__ import annotations

import pytest
import torch

from humpback import formats
from humpback.formats import measure_formats


def test_speeds_are_measured_once_per_process_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_formats.cache_clear()
    first = measure_formats(1)
    assert set(first) == {"float32", "bfloat16"}
    assert all(0 < speed < 1e6 for speed in first.values())
    monkeypatch.setattr(formats, "_time", lambda rows, weights: pytest.fail("was measured again"))
    assert measure_formats(1) is first


def test_work_beside_the_measurement_meets_both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is busy at first, then free: each format has its share of both."""
    timed: list[torch.dtype] = []

    def time(rows: torch.Tensor, weights: torch.Tensor) -> float:
        timed.append(rows.dtype)
        return 1.0 if len(timed) <= formats.ROUNDS else 0.001

    monkeypatch.setattr(formats, "_time", time)
    measure_formats.cache_clear()
    found = measure_formats(1)
    measure_formats.cache_clear()  # these speeds are none
    assert found["float32"] == found["bfloat16"]
    assert timed[:4] == [torch.float32, torch.bfloat16] * 2
