"""How far people agree with each other and with a score: kappa, shares and AUC, weighted by the candidates a label speaks for.

Intervals of shares are Clopper-Pearson's at Kish's effective sample size: unlike a bootstrap's they do not shrink to nothing when
every label says the same, and they err on the wide side.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from humpback.evaluation.stats import MIN_PAIRS, Interval

__all__ = ["cohen_kappa", "exact_share", "weighted_auc", "weighted_share"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable], *, ordinal: bool = False) -> float | None:
    """Return Cohen's kappa (1960), with quadratic weights when `ordinal` (labels are then numbers).

    None when chance alone would agree always: two labellers who say one and the same thing of every pair.
    """
    labels = sorted({*first, *second}, key=lambda label: (str(type(label)), label))
    place = {label: index for index, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    for one, other in zip(first, second, strict=True):
        table[place[one], place[other]] += 1
    values = np.asarray(labels if ordinal else range(len(labels)), dtype=np.float64)
    apart = (values[:, None] - values) ** 2 if ordinal else (values[:, None] != values).astype(np.float64)
    total = table.sum()
    by_chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / total if total else table
    expected = float((apart * by_chance).sum())
    return None if expected == 0 else 1 - float((apart * table).sum()) / expected


def weighted_share(hits: Sequence[bool], weights: Sequence[float], *, confidence: float) -> Interval:
    """Return the weighted share of hits with its interval."""
    weight, hit = np.asarray(weights, dtype=np.float64), np.asarray(hits, dtype=np.float64)
    share = float((weight * hit).sum() / weight.sum())
    n = float(weight.sum() ** 2 / (weight**2).sum())
    exact = exact_share(share * n, n, confidence=confidence)
    return Interval(value=share, low=exact.low, high=exact.high, n=len(hits))


def exact_share(hits: float, n: float, *, confidence: float) -> Interval:
    """Return the share of hits among n with Clopper and Pearson's interval."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return Interval(value=hits / n, low=low, high=high, n=round(n))


def weighted_auc(
    scores: Sequence[float],
    good: Sequence[bool],
    weights: Sequence[float],
    *,
    resamples: int,
    confidence: float,
    seed: int,
    groups: Sequence[int] | None = None,
) -> Interval | None:
    """Return the chance that a good pair scores above a bad one, ties half; None without a pair of each.

    Good and bad pairs are resampled apart, so that no resample lacks either. With `groups`, pairs of one group are drawn together
    whichever side they are on, and a resample that lacks a side is drawn anew.
    """
    score, weight, is_good = np.asarray(scores, float), np.asarray(weights, float), np.asarray(good, bool)
    if is_good.all() or not is_good.any():
        return None
    sides = [(score[side], weight[side]) for side in (is_good, ~is_good)]
    value, n = _auc(*sides[0], *sides[1]), len(score)
    own = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    places = np.arange(n) if own is None else own
    if min(len(np.unique(places[side])) for side in (is_good, ~is_good)) < MIN_PAIRS:
        return Interval(value=value, low=None, high=None, n=n)
    dice = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for index in range(resamples):
        if own is not None:
            drawn[index] = _draw_groups(score, is_good, weight, own, dice)
            continue
        picks = [dice.integers(len(values), size=len(values)) for values, _ in sides]
        (one, other), (pick_one, pick_other) = sides, picks
        drawn[index] = _auc(one[0][pick_one], one[1][pick_one], other[0][pick_other], other[1][pick_other])
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high), n=n)


def _draw_groups(score: Floats, is_good: Mask, weight: Floats, own: Places, dice: np.random.Generator) -> float:
    """Return the AUC of one resample of whole groups, each as often as it is drawn."""
    many = int(own.max()) + 1
    while True:  # both sides lie in MIN_PAIRS groups or more, so hardly ever twice
        heavy = weight * np.bincount(dice.integers(many, size=many), minlength=many)[own]
        if heavy[is_good].sum() > 0 and heavy[~is_good].sum() > 0:
            return _auc(score[is_good], heavy[is_good], score[~is_good], heavy[~is_good])


def _auc(good: Floats, good_weight: Floats, bad: Floats, bad_weight: Floats) -> float:
    order = np.argsort(bad)
    heaped = np.concatenate([[0.0], np.cumsum(bad_weight[order])])
    below = heaped[np.searchsorted(bad[order], good, side="left")]
    up_to = heaped[np.searchsorted(bad[order], good, side="right")]
    return float((good_weight * (below + up_to) / 2).sum() / (good_weight.sum() * heaped[-1]))
