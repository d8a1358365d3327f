"""Answers as bytes and back, for the cache. A hidden state's number takes two bytes, a token four, a likelihood twelve in all.

Hidden states are kept as float16, each vector after division by a power of two that brings its largest number just below 2^15: no
number moves by more than 2^-11 of itself, or 2^-39 of the vector's largest where that is more, which is half the space of float32 for
an eighth of bfloat16's rounding. All else comes back exactly.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from humpback.engines.base import Capability, ChoiceLogprobs, Completion, FloatArray, Loglikelihood

__all__ = ["CHOICES", "COMPLETIONS", "LIKELIHOODS", "Packing", "pack_ids"]

Answer = TypeVar("Answer", Completion, ChoiceLogprobs, Loglikelihood)

_COMPLETION = struct.Struct("<I?dI?")
"""Tokens, whether there is a log-probability, it, how many token ids follow, whether the turn ended. Then ids, then text."""
_CHOICES = struct.Struct("<dIII")
"""Mass, number of choices, layers, width. Then the choices as doubles, then each vector's exponent, then the states."""
TOP = 15
"""Exponent of the bound below which a vector's largest number is brought; float16 ends at 65,504."""
_LIKELIHOOD = struct.Struct("<dI")


@dataclass(frozen=True)
class Packing(Generic[Answer]):
    """How the answers of one call are kept. An answer with an error is never packed."""

    call: Capability
    pack: Callable[[Answer], bytes]
    unpack: Callable[[bytes], Answer]


def pack_ids(ids: Sequence[int]) -> bytes:
    """Return token ids as four bytes each, little-endian on every machine this runs on."""
    return array("I", ids).tobytes()


def _pack_completion(one: Completion) -> bytes:
    head = _COMPLETION.pack(
        one.tokens, one.logprob is not None, one.logprob or 0.0, len(one.token_ids), one.finish == "stop"
    )
    return head + pack_ids(one.token_ids) + one.text.encode("utf-8", "surrogatepass")


def _unpack_completion(data: bytes) -> Completion:
    tokens, has_logprob, logprob, count, stopped = _COMPLETION.unpack_from(data)
    start = _COMPLETION.size + 4 * count
    finish: Literal["stop", "length"] = "stop" if stopped else "length"
    return Completion(
        text=data[start:].decode("utf-8", "surrogatepass"),
        tokens=tokens,
        finish=finish,
        token_ids=struct.unpack_from(f"<{count}I", data, _COMPLETION.size),
        logprob=logprob if has_logprob else None,
    )


def _pack_choices(one: ChoiceLogprobs) -> bytes:
    layers, width = (0, 0) if one.hidden is None else one.hidden.shape
    count = len(one.logprobs)
    head = _CHOICES.pack(one.mass, count, layers, width) + struct.pack(f"<{count}d", *one.logprobs)
    return head if one.hidden is None else head + _pack_states(one.hidden)


def _pack_states(states_L_W: FloatArray) -> bytes:
    _, tops = np.frexp(np.abs(states_L_W).max(1, initial=0.0))
    exponents: NDArray[np.int8] = np.clip(tops - TOP, -128, 127).astype(np.int8)
    halves: NDArray[np.float16] = np.ldexp(states_L_W, -exponents.astype(np.int32)[:, None]).astype("<f2")
    return exponents.tobytes() + halves.tobytes()


def _unpack_states(data: bytes, layers: int, width: int) -> FloatArray:
    if len(data) == 4 * layers * width:  # as schema 2 kept them; no width makes the two lengths one
        return np.frombuffer(data, "<f4").reshape(layers, width).astype(np.float32)
    exponents = np.frombuffer(data, np.int8, layers).astype(np.int32)
    halves = np.frombuffer(data, "<f2", offset=layers).reshape(layers, width)
    states: FloatArray = np.ldexp(halves.astype(np.float32), exponents[:, None])
    return states


def _unpack_choices(data: bytes) -> ChoiceLogprobs:
    mass, count, layers, width = _CHOICES.unpack_from(data)
    start = _CHOICES.size + 8 * count
    hidden = _unpack_states(data[start:], layers, width) if layers else None
    return ChoiceLogprobs(logprobs=struct.unpack_from(f"<{count}d", data, _CHOICES.size), mass=mass, hidden=hidden)


def _pack_likelihood(one: Loglikelihood) -> bytes:
    return _LIKELIHOOD.pack(one.logprob, one.tokens)


def _unpack_likelihood(data: bytes) -> Loglikelihood:
    logprob, tokens = _LIKELIHOOD.unpack(data)
    return Loglikelihood(logprob=logprob, tokens=tokens)


COMPLETIONS = Packing("generate", _pack_completion, _unpack_completion)
CHOICES = Packing("choice_logprobs", _pack_choices, _unpack_choices)
LIKELIHOODS = Packing("loglikelihood", _pack_likelihood, _unpack_likelihood)
