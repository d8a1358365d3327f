"""What every part of a recipe is: frozen, and strict about its keys.

In: plain values. Out: `Section`, the base of all parts. A mistyped key, or a number that is none, fails at once and not after a night.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Section"]


class Section(BaseModel):
    """A part of the recipe; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
