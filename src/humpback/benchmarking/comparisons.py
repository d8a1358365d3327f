"""Comparisons of a model with a baseline, and the figures AlpacaEval publishes about them.

In: one `Comparison` per prompt. Out: `Figures`, equal to AlpacaEval's leaderboards (tests hold them to the printed digits).
A comparison that was never judged has no preference: it is counted apart and is neither a win nor a loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from humpback.errors import InputError

__all__ = ["Comparison", "Figures", "figure"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One prompt, answered by a model and by the baseline."""

    model: str
    baseline: str
    prompt: str
    """The prompt's id, or its text where a file has no ids: what the same prompt of two models has in common."""
    share: float | None
    """The model's share of the prompt, 0 to 1: 1 a win, 0 a loss, 0.5 a tie; None when there is no usable verdict."""
    model_chars: int
    """Length of the model's output in characters."""
    baseline_chars: int
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What AlpacaEval says of a model. Rates in percent, over the comparisons that have a verdict."""

    win_rate: float
    """Mean share."""
    standard_error: float | None
    """Of the mean, from the sample's standard deviation; None for one comparison."""
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    """Wins and half the draws."""
    avg_length: int
    """Mean length of the model's outputs in characters, cut to a whole number; those without a verdict included."""
    n_unjudged: int
    """Comparisons without a verdict."""


def figure(comparisons: Sequence[Comparison]) -> Figures:
    """Return the figures of one model's comparisons."""
    shares = [c.share for c in comparisons if c.share is not None]
    if not shares:
        named = comparisons[0].model if comparisons else "the model"
        raise InputError(f"{named} has {len(comparisons)} comparisons and none has a verdict; there is no win rate")
    n = len(shares)
    mean = math.fsum(shares) / n
    wins, losses = sum(s > 0.5 for s in shares), sum(s < 0.5 for s in shares)
    variance = math.fsum((s - mean) ** 2 for s in shares) / (n - 1) if n > 1 else None
    return Figures(
        win_rate=100 * mean,
        standard_error=100 * math.sqrt(variance / n) if variance is not None else None,
        n_wins=wins,
        n_wins_base=losses,
        n_draws=n - wins - losses,
        n_total=n,
        discrete_win_rate=100 * (wins + (n - wins - losses) / 2) / n,
        avg_length=int(math.fsum(c.model_chars for c in comparisons) / len(comparisons)),
        n_unjudged=len(comparisons) - n,
    )
