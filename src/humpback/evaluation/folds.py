"""Which held-out pairs are held out together. In: pairs. Out: folds, so that nothing a fold is judged on was learnt from.

Pairs that resemble each other stand in one fold, as far as its size allows: the hard mismatch takes its response from the most
similar pair of the same fold, and no near-copy of a test pair is among those that are learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from humpback.evaluation.corruptions import Fold
from humpback.evaluation.learning import text_similarities
from humpback.records import Pair

__all__ = ["FOLDS", "SAME", "make_folds"]

FOLDS = 5
"""As many as there are banks of words in `data/corruptions.yaml`."""
MIN_FOLD = 8
"""Pairs of a fold; with fewer there are fewer folds, two at least."""
SAME = 0.95
"""Instructions more alike than this are the same one: the response of the other may answer it."""

Floats = npt.NDArray[np.float64]


def make_folds(pairs: Sequence[Pair], count: int | None = None) -> list[Fold]:
    """Return the pairs in folds of like size, whatever the order of `pairs`."""
    pairs = sorted(pairs, key=lambda pair: pair.id)
    if len(pairs) < 4:
        raise ValueError(f"{len(pairs)} pairs cannot be divided; hold out 4 or more")
    count = count or max(2, min(FOLDS, len(pairs) // MIN_FOLD))
    alike = text_similarities([f"{pair.instruction}\n{pair.instruction}\n{pair.response}" for pair in pairs])
    same = text_similarities([pair.instruction for pair in pairs])
    alike[same > SAME] = -1.0
    np.fill_diagonal(alike, -1.0)
    groups = _deal(_group(alike, largest=max(2, len(pairs) // (2 * count))), count)
    return [
        Fold(
            number=number,
            pairs=tuple(pairs[i] for i in members),
            nearest=tuple(_nearest(i, members, alike, pairs) for i in members),
        )
        for number, members in enumerate(groups)
    ]


def _group(alike: Floats, largest: int) -> list[list[int]]:
    """Join each pair with its most similar one, the most similar first, into groups of at most `largest`."""
    group_of = {i: [i] for i in range(len(alike))}
    order = sorted(range(len(alike)), key=lambda i: -alike[i].max())
    for i in order:
        j = int(alike[i].argmax())
        one, other = group_of[i], group_of[j]
        if one is not other and len(one) + len(other) <= largest:
            one += other
            for member in other:
                group_of[member] = one
    return list({id(group): group for group in group_of.values()}.values())


def _deal(groups: Sequence[list[int]], count: int) -> list[list[int]]:
    folds: list[list[int]] = [[] for _ in range(count)]
    for group in sorted(groups, key=lambda g: (-len(g), min(g))):
        min(folds, key=len).extend(group)
    return [sorted(fold) for fold in folds]


def _nearest(i: int, members: Sequence[int], alike: Floats, pairs: Sequence[Pair]) -> int | None:
    others = [
        place
        for place, j in enumerate(members)
        if j != i and alike[i, j] >= 0 and pairs[j].response != pairs[i].response
    ]
    return max(others, key=lambda place: alike[i, members[place]], default=None)
