"""Can a judge tell these answers apart? In: its rulings. Out: a reason not to believe it, or None.

A judge that does not read the answers still rules, and a rate of its rulings has an interval as narrow as any. What gives it away is
that its verdicts fit together no better than verdicts drawn blindly at the same rates: for the first place, for the second, for
neither. So it is held against such a judge, by a bootstrap over prompts, and believed where it is surely above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from humpback.benchmarking.judging import Rulings
from humpback.benchmarking.winrates import MIN_BOOTSTRAP, Estimate, favour, rate

__all__ = ["MAX_PREFERENCE", "doubt_judge"]

MAX_PREFERENCE = 75.0
"""Percent of the rulings for one place. With more, the place decides on over half of the prompts, whatever stands there."""
HAIR = 1e-9
"""Rounding must not put equal shares above each other."""

Floats = npt.NDArray[np.float64]
Favours = npt.NDArray[np.int_]
Blind = Callable[[float, float, float], float]
"""How often verdicts fit together that are drawn at the rates of first place, second and neither."""


def doubt_judge(
    rulings: Sequence[Rulings], again: Mapping[int, Rulings] | None, *, resamples: int, confidence: float, seed: int
) -> str | None:
    """Return why the judge cannot be believed on these answers, which differ; None where it can.

    `again` holds second rulings by the prompt's place; None where probabilities were read, which come out alike each time.
    """
    both = [
        (pair.model_first.first, pair.baseline_first.first)
        for pair in rulings
        if pair.model_first.first is not None and pair.baseline_first.first is not None
    ]
    if len(both) < MIN_BOOTSTRAP:
        return (
            f"{len(both)} prompts with different answers and a verdict in both orders are too few to tell whether it can judge; "
            f"{MIN_BOOTSTRAP} are needed"
        )
    preference = rate([(one + other) / 2 for one, other in both], seed=seed, resamples=resamples, confidence=confidence)
    if (why := _prefers_a_place(preference)) is not None:
        return why
    draws = np.random.default_rng(seed), resamples, confidence
    # a judge that reads the instruction alone may tie on some prompts always: both orders agree there, and it has read no answer.
    # Where it names an answer both times, habits that differ by prompt can only make them agree less
    places = [(favour(one), favour(other)) for one, other in both if favour(one) and favour(other)]
    if len(places) < MIN_BOOTSTRAP:
        return (
            f"it names an answer in both orders on {len(places)} of {len(both)} prompts, too few to tell whether it reads them; "
            f"{MIN_BOOTSTRAP} are needed"
        )
    # in the second order the answers have changed places: other favours, as seen from the places, are for the same answer
    agreed = np.asarray([[float(one == -other)] for one, other in places])
    if not _surely_above(agreed, np.asarray(places), _blind_orders, *draws):
        blind = 100 * _blind_orders(*_rates(np.asarray(places)))
        return (
            f"both orders name the same answer on {100 * agreed.mean():.0f} % of {len(places)} prompts, and a judge that prefers "
            f"places as this one does and reads no answer would on {blind:.0f} %: not surely more"
        )
    return None if again is None else _wavers(rulings, again, draws)


def _prefers_a_place(preference: Estimate) -> str | None:
    value = preference.value or 0.0
    low, high = (value if bound is None else bound for bound in (preference.low, preference.high))
    if low >= 100 - MAX_PREFERENCE and high <= MAX_PREFERENCE:
        return None
    first = value >= 50
    share, bounds = (value, (low, high)) if first else (100 - value, (100 - high, 100 - low))
    return (
        f"it gives {share:.0f} % ({bounds[0]:.0f} to {bounds[1]:.0f}) to the answer that stands {'first' if first else 'second'}; "
        f"beyond {MAX_PREFERENCE:.0f} % the place decides more than the answers"
    )


def _wavers(
    rulings: Sequence[Rulings], again: Mapping[int, Rulings], draws: tuple[np.random.Generator, int, float]
) -> str | None:
    """Say that the judge, asked again, rules no more alike than by chance, or that too few second rulings can be read."""
    alike, places = [], []
    for place, second in again.items():
        first = rulings[place]
        pairs = [
            (favour(one), favour(other))
            for one, other in (
                (first.model_first.first, second.model_first.first),
                (first.baseline_first.first, second.baseline_first.first),
            )
            if one is not None and other is not None
        ]
        if len(pairs) == 2:
            alike.append([float(one == other) for one, other in pairs])
            places.append([verdict for pair in pairs for verdict in pair])
    if len(alike) < MIN_BOOTSTRAP:
        return (
            f"asked again it gave {len(alike)} prompts a verdict in both orders, too few to tell whether it says the same; "
            f"{MIN_BOOTSTRAP} are needed: raise evaluate.judge.recheck"
        )
    if _surely_above(np.asarray(alike), np.asarray(places), _blind_draws, *draws):
        return None
    return (
        f"asked again it says the same on {100 * np.mean(alike):.0f} % of {len(alike)} prompts, and one that draws its verdicts would "
        f"on {100 * _blind_draws(*_rates(np.asarray(places))):.0f} %: not surely more"
    )


def _rates(favours: Favours) -> tuple[float, float, float]:
    """Return the shares of verdicts for the first place, the second, and neither."""
    first, second = float((favours > 0).mean()), float((favours < 0).mean())
    return first, second, 1 - first - second


def _blind_orders(first: float, second: float, _: float) -> float:
    """Return how often both orders favour one answer, by verdicts without ties that only the place bears on."""
    return 2 * first * second


def _blind_draws(first: float, second: float, tied: float) -> float:
    """Return how often two verdicts drawn at these rates are the same."""
    return first * first + second * second + tied * tied


def _surely_above(
    hits_N_K: Floats,
    favours_N_M: Favours,
    blind: Blind,
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> bool:
    """Tell whether the share of hits is above the blind one in all but the lowest tail of the resamples over prompts."""
    n = len(hits_N_K)
    picked_R_N = rng.integers(n, size=(resamples, n))
    gains = [hits_N_K[row].mean() - blind(*_rates(favours_N_M[row])) for row in picked_R_N]
    return float(np.quantile(gains, (1 - confidence) / 2)) > HAIR
