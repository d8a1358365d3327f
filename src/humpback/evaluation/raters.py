"""What every signal works with: the pair it looks at, the models it may ask, and why a pair may have no value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from humpback.engines.base import Engine
from humpback.prompts import Prompts

if TYPE_CHECKING:
    from humpback.evaluation.judge import Judge

__all__ = ["ENGINE_ERROR", "InstructionResponse", "Missing", "Raters", "Values"]

Values = Mapping[str, float]

ENGINE_ERROR = "engine_error"
"""First word of the reason when an engine failed on a row, as against a model that gave no usable answer."""


class InstructionResponse(NamedTuple):
    """What a signal looks at."""

    instruction: str
    response: str
    header_path: str = ""
    """Of a candidate; a held-out pair has none."""
    source_uri: str = ""
    """Of a candidate; where a held-out pair came from says nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Raters:
    """The models a signal may ask."""

    model: Engine
    """M_(t-1): rates, and gives forward likelihoods."""
    backward: Engine
    """M_yx: gives backward likelihoods."""
    prompts: Prompts
    min_label_mass: float
    """Below it, 0 to 1, the probabilities of the five scores are no rating."""
    samples: int = 3
    """Replies per pair for `sampled_rating`."""
    sample_temperature: float = 0.7
    reasoning_tokens: int = 256
    """Longest such reply, in tokens."""
    random_seed: int = 0
    """The recipe's; a reply's seed is derived from it, the pair and the reply's number."""
    judge: Judge | None = None
    """Probe and calibration fitted on the audit of `model`; None while that audit is made, or where it was too small for one."""


@dataclass(frozen=True)
class Missing:
    """Why a row has no value. `failed` is an engine's error, otherwise the model's answer was no answer."""

    reason: str
    failed: bool = False
    counts: Values = field(default_factory=dict)
    """What was counted on the way; it is kept among the row's scores, beside the reason."""
