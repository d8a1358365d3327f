from __future__ import annotations

import struct
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from humpback.engines.base import ChoiceLogprobs, FloatArray
from humpback.engines.packing import CHOICES
from humpback.evaluation.probe import Setting, States, cross_read
from humpback.evaluation.stats import auc


def keep(states: FloatArray) -> FloatArray:
    """Return hidden states as the cache gives them back."""
    found = CHOICES.unpack(CHOICES.pack(ChoiceLogprobs(logprobs=(-1.0,), mass=0.4, hidden=states))).hidden
    assert found is not None
    assert found.dtype == np.float32
    return found


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 9)),
        elements=st.floats(-(2.0**125), 2.0**125, width=32, allow_nan=False),
    )
)
def test_no_number_of_a_hidden_state_moves_further_than_said(states: FloatArray) -> None:
    kept, exact = keep(states).astype(np.float64), states.astype(np.float64)
    largest = np.abs(exact).max(1, keepdims=True)
    # 2^-149 is the smallest number of float32 itself
    allowed = np.maximum(np.maximum(np.abs(exact) * 2.0**-11, largest * 2.0**-39), 2.0**-149)
    assert (np.abs(kept - exact) <= allowed).all()


def test_one_large_number_costs_its_neighbours_nothing() -> None:
    states = np.array([[3000.0, 0.1234567, -2.5e-4, 0.0]], np.float32)  # as residual streams are
    assert keep(states)[0] == pytest.approx(states[0], rel=2.0**-11, abs=0)


def test_states_that_an_older_version_kept_are_read() -> None:
    states = np.array([[1.1, -2.2], [3.3, 4e4]], np.float32)
    data = struct.pack("<dIII", 0.4, 1, 2, 2) + struct.pack("<d", -1.0) + states.tobytes()
    answer = CHOICES.unpack(data)
    assert (answer.mass, answer.logprobs) == (0.4, (-1.0,))
    assert answer.hidden is not None
    assert (answer.hidden == states).all()


def test_a_probe_loses_nothing_that_can_be_measured() -> None:
    """States with a faint direction of quality beside numbers a thousand times as large, as models have them."""
    dice, rows, width = np.random.default_rng(0), 160, 96
    classes = np.arange(rows) % 2
    direction = dice.normal(size=width) / np.sqrt(width)
    hidden = dice.normal(size=(rows, 2, 2, width)) + 2.0 * (classes[:, None, None, None] - 0.5) * direction
    hidden[..., 3] += 2000.0
    hidden[..., 70] -= 900.0 * dice.normal(size=(rows, 1, 1))
    exact = [States(cast(FloatArray, row.astype(np.float32)), -1.0) for row in hidden]
    kept = [States(np.stack([keep(place) for place in state.hidden]), state.end_logprob) for state in exact]
    folds, setting = np.arange(rows) // 2 % 5, Setting((0, 1), 0.01)
    read = [
        np.array([one["probe"] for one in cross_read(states, classes, folds, setting, ("true", "spoilt"))])
        for states in (exact, kept)
    ]
    found = [auc(values[classes == 0], values[classes == 1]) for values in read]
    assert 0.6 < found[0] < 0.999  # a task on which something could be lost
    assert abs(found[0] - found[1]) < 0.002
    assert np.abs(read[0] - read[1]).mean() < 0.02 * read[0].std()
