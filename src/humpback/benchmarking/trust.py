"""Can a judge tell these answers apart? In: its rulings. Out: a reason not to believe it, or None.

A judge that does not read the answers still rules, and a rate of its rulings has an interval as narrow as any. What gives it away is
that its verdicts fit together no better than verdicts drawn blindly at the same rates: for the first place, for the second, for
neither. Of such a judge any verdict could stand in the place of any other, so its own are dealt out anew, and it is believed where
hardly any deal fits together as well. That errs as seldom as it says on eight prompts too; a bootstrap over prompts, which this was,
believed a coin on one eight prompts in five (`docs/log.md`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from humpback.benchmarking.judging import Rulings
from humpback.benchmarking.winrates import MIN_BOOTSTRAP, Estimate, favour, rate
from humpback.evaluation.stats import correct_by_holm

__all__ = ["MAX_PREFERENCE", "Asked", "Trial", "doubt_judge", "doubt_trials", "least_prompts", "try_judge"]

MAX_PREFERENCE = 75.0
"""Percent of the rulings for one place. With more, the place decides on over half of the prompts, whatever stands there."""
DEALS = 10_000
"""Deals of the verdicts of a judge that was asked twice; at 2.5 % their share is off by 0.16 points."""

Favours = npt.NDArray[np.int8]


class Asked(NamedTuple):
    """A prompt that a judge was asked about."""

    model: str
    """The model's answer."""
    baseline: str
    rulings: Rulings
    again: Rulings | None = None
    """The same judge asked a second time; None where it was not."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What speaks against a judge on some answers."""

    p_value: float
    """How likely one that reads nothing fits together as well; 1 where nothing can be tested."""
    told: str
    """Why it is not believed, where that is too likely or nothing was tested."""


def doubt_judge(asked: Sequence[Asked], *, rechecked: bool, resamples: int, confidence: float, seed: int) -> str | None:
    """Return why the judge cannot be believed on these answers; None where it can.

    `rechecked`: it has to say the same again, on the prompts that were asked about twice.
    """
    trial = try_judge(asked, rechecked=rechecked, resamples=resamples, confidence=confidence, seed=seed)
    return doubt_trials([trial], confidence=confidence)[0]


def doubt_trials(trials: Sequence[Trial], *, confidence: float) -> list[str | None]:
    """Return the doubt of each trial; corrected by Holm, so that one that reads nothing is believed on any as seldom as on one."""
    doubts: list[str | None] = []
    for trial, p in zip(trials, correct_by_holm([trial.p_value for trial in trials]), strict=True):
        if p is not None and p <= _tail(confidence):
            doubts.append(None)
        else:  # shares that would do alone must not be told as if they were too low
            would_do = trial.p_value <= _tail(confidence)
            doubts.append(trial.told + (f", as one of {len(trials)} that are tried together" if would_do else ""))
    return doubts


def least_prompts(confidence: float, trials: int = 1) -> int:
    """Return on how many prompts a judge that is always right can be believed, in each of so many trials.

    >>> least_prompts(0.95), least_prompts(0.95, trials=10), least_prompts(0.99)
    (8, 12, 11)
    """
    return next(n for n in itertools.count(1) if trials * _fits_as_well(n, n, n) <= _tail(confidence))


def _tail(confidence: float) -> float:
    """Return the lower tail of an interval: only a judge that fits together better than a blind one is told from it."""
    return (1 - confidence) / 2


def try_judge(asked: Sequence[Asked], *, rechecked: bool, resamples: int, confidence: float, seed: int) -> Trial:
    """Hold a judge against one that reads nothing, on the prompts whose answers differ."""
    # equal answers have no better one: what a judge says of them says nothing of it
    asked = [one for one in asked if one.model != one.baseline]
    both = [
        (one.rulings.model_first.first, one.rulings.baseline_first.first)
        for one in asked
        if one.rulings.model_first.first is not None and one.rulings.baseline_first.first is not None
    ]
    least = least_prompts(confidence)
    if len(both) < least:
        return _fail(
            f"{len(both)} prompts with different answers and a verdict in both orders are too few to tell whether it can judge; "
            f"{least} are needed"
        )
    preference = rate([(one + other) / 2 for one, other in both], seed=seed, resamples=resamples, confidence=confidence)
    if (why := _prefers_a_place(preference)) is not None:
        return _fail(why)
    # a judge that reads the instruction alone may tie on some prompts always: both orders agree there, and it has read no answer.
    # Where it names an answer both times, habits that differ by prompt can only make them agree less
    places = [(favour(one), favour(other)) for one, other in both if favour(one) and favour(other)]
    if len(places) < least:
        return _fail(
            f"it names an answer in both orders on {len(places)} of {len(both)} prompts, too few to tell whether it reads them; "
            f"{least} are needed"
        )
    orders = _try_orders(np.asarray(places, dtype=np.int8))
    if not rechecked or orders.p_value > _tail(confidence):
        return orders
    return max(orders, _try_again(asked, seed), key=lambda trial: trial.p_value)


def _fail(why: str) -> Trial:
    return Trial(p_value=1.0, told=why)


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


def _try_orders(places_N_2: Favours) -> Trial:
    """Test whether both orders name the same answer more often than two verdicts for places would."""
    n, firsts = len(places_N_2), int((places_N_2 > 0).sum())
    # in the second order the answers have changed places: verdicts for other places are for the same answer
    agreed = int((places_N_2[:, 0] != places_N_2[:, 1]).sum())
    blind = 2 * firsts / (2 * n) * (1 - firsts / (2 * n))
    return Trial(
        p_value=_fits_as_well(n, firsts, agreed),
        told=f"both orders name the same answer on {100 * agreed / n:.0f} % of {n} prompts, and a judge that prefers places as this "
        f"one does and reads no answer would on {100 * blind:.0f} %: not surely more",
    )


def _fits_as_well(n: int, firsts: int, agreed: int) -> float:
    """Return how likely at least so many of n pairs are of two kinds, where `firsts` of the 2n are of the one kind, dealt blindly.

    The distribution is that of heterozygotes given the alleles, of the exact test for Hardy-Weinberg proportions.
    """
    from scipy.special import gammaln

    mixed = np.arange(agreed, min(firsts, 2 * n - firsts) + 1, 2)
    same = (firsts - mixed) // 2
    deals = gammaln(n + 1) - gammaln(same + 1) - gammaln(mixed + 1) - gammaln(n - same - mixed + 1)
    every = gammaln(2 * n + 1) - gammaln(firsts + 1) - gammaln(2 * n - firsts + 1)
    return min(1.0, float(np.exp(deals + mixed * math.log(2) - every).sum()))


def _try_again(asked: Sequence[Asked], seed: int) -> Trial:
    """Test whether the judge, asked again, rules alike more often than by chance; too few second rulings tell nothing."""
    prompts = [pairs for one in asked if one.again and len(pairs := _pair_up(one.rulings, one.again)) == 2]
    if len(prompts) < MIN_BOOTSTRAP:
        return _fail(
            f"asked again it gave {len(prompts)} prompts a verdict in both orders, too few to tell whether it says the same; "
            f"{MIN_BOOTSTRAP} are needed: ask again about more (evaluate.judge.recheck, --recheck)"
        )
    verdicts = np.asarray(prompts, dtype=np.int8).reshape(-1)
    alike = int((verdicts[::2] == verdicts[1::2]).sum())
    dealt = np.random.default_rng(seed).permuted(np.tile(verdicts, (DEALS, 1)), axis=1)
    as_well = int(((dealt[:, ::2] == dealt[:, 1::2]).sum(1) >= alike).sum())
    blind = sum(float((verdicts == kind).mean()) ** 2 for kind in (-1, 0, 1))
    return Trial(
        p_value=(as_well + 1) / (DEALS + 1),
        told=f"asked again it says the same on {200 * alike / len(verdicts):.0f} % of {len(prompts)} prompts, and one that draws its "
        f"verdicts would on {100 * blind:.0f} %: not surely more",
    )


def _pair_up(first: Rulings, second: Rulings) -> list[tuple[int, int]]:
    """Return, of each order that was ruled on twice, whom both rulings favour."""
    orders = (
        (first.model_first.first, second.model_first.first),
        (first.baseline_first.first, second.baseline_first.first),
    )
    return [(favour(one), favour(other)) for one, other in orders if one is not None and other is not None]
