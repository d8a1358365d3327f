"""Precision and recall at the cut-off, per signal and corruption, on the audit's rows. In: rows, cut-offs. Out: JSON, with intervals.

Recall is the share of true pairs that pass; precision is that of true pairs among what passes where true pairs and the corruption
are as many. Intervals are bootstraps over pairs: a pair is drawn with its corruptions. Rows of the audit were never fitted on when
they were scored, but the cut-off of P(good) may have been chosen on them (policy precision): then its promise has the honest bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from humpback.evaluation.corruptions import KINDS
from humpback.evaluation.deciding import direct_score
from humpback.evaluation.learning import Floats
from humpback.evaluation.signals import SIGNALS
from humpback.evaluation.stats import MIN_PAIRS, Interval

__all__ = ["Curated", "choose_cuts", "compare_precision", "measure_cuts"]

Rows = Sequence[Mapping[str, Any]]


def choose_cuts(
    candidates: Iterable[Mapping[str, float]],
    names: Sequence[str],
    share: float,
    *,
    decided: tuple[str, float],
    threshold: float,
) -> dict[str, float]:
    """Return each signal's cut-off, turned so that higher is better.

    `decided` is that of the signal that curates, `threshold` that of ratings; the others get the one that would keep the same
    `share` of the candidates with a value, so that signals can be compared.
    """
    values: dict[str, list[float]] = {name: [] for name in names}
    for scores in candidates:
        for name in names:
            if name in scores:
                values[name].append(direct_score(name, scores[name]))
    cuts = {
        name: threshold if name in SIGNALS and SIGNALS[name].has_scale else float(np.quantile(found, 1 - share))
        for name, found in values.items()
        if found
    }
    return cuts | {decided[0]: direct_score(*decided)}


def measure_cuts(
    rows: Rows, cuts: Mapping[str, float], *, resamples: int, confidence: float, seed: int
) -> list[dict[str, Any]]:
    """Return one entry per signal: its cut-off as the signal tells it, recall, and precision by corruption and over all."""
    pairs = list(dict.fromkeys(row["pair_id"] for row in rows))
    weights_R_N = _draw_weights(len(pairs), resamples, seed)
    found = []
    for signal, cut in cuts.items():
        passes = _passes(rows, pairs, signal, cut)
        shares = {kind: _share(values, weights_R_N) for kind, values in passes.items() if not np.isnan(values).all()}
        if "true" not in shares or len(shares) == 1:
            continue
        recall = shares.pop("true")
        shares["all"] = np.stack(list(shares.values())).mean(0)
        sizes = {kind: int((~np.isnan(passes["true" if kind == "all" else kind])).sum()) for kind in shares}
        precision = {
            kind: asdict(interval)
            for kind, passed in shares.items()
            if (interval := _interval(_precision(recall, passed), sizes[kind], confidence)) is not None
        }
        told = _interval(recall, sizes["all"], confidence)
        found.append(
            {
                "signal": signal,
                "cut": direct_score(signal, cut),
                "recall": asdict(told) if told else None,
                "precision": precision,
            }
        )
    return found


class Curated(NamedTuple):
    """What a curation's precision is measured by."""

    rows: Rows
    """Of the audit of the model that scored."""
    signal: str
    cut: float
    """As the signal tells it."""


def compare_precision(
    before: Curated, now: Curated, *, resamples: int, confidence: float, seed: int
) -> Interval | None:
    """Return the precision over all of `now` minus that of `before`, over corruptions that both have, paired by pair.

    None where either has no value to compare.
    """
    pairs = list(dict.fromkeys(row["pair_id"] for row in [*before.rows, *now.rows]))
    weights_R_N = _draw_weights(len(pairs), resamples, seed)
    passes = [_passes(each.rows, pairs, each.signal, direct_score(each.signal, each.cut)) for each in (before, now)]
    kinds = [kind for kind in passes[0] if not any(np.isnan(table[kind]).all() for table in passes)]
    if "true" not in kinds or len(kinds) == 1:
        return None
    first, second = (
        _precision(
            _share(table["true"], weights_R_N),
            np.stack([_share(table[kind], weights_R_N) for kind in kinds if kind != "true"]).mean(0),
        )
        for table in passes
    )
    sizes = [int((~np.isnan(table["true"])).sum()) for table in passes]
    return _interval(second - first, min(sizes), confidence)


def _draw_weights(count: int, resamples: int, seed: int) -> Floats:
    """Return how often each pair counts: once in the first row, as drawn in those of the resamples."""
    drawn_R_N = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn_R_N.astype(np.float64)])


def _passes(rows: Rows, pairs: Sequence[str], signal: str, cut: float) -> dict[str, Floats]:
    """Return by kind whether each pair's row passes: 1, 0, or NaN where it has no value."""
    place = {pair_id: i for i, pair_id in enumerate(pairs)}
    table = {kind: np.full(len(pairs), np.nan) for kind in ("true", *KINDS)}
    for row in rows:
        if signal in row["scores"]:
            table[row["kind"]][place[row["pair_id"]]] = direct_score(signal, row["scores"][signal]) >= cut
    return table


def _share(values: Floats, weights_R_N: Floats) -> Floats:
    known = ~np.isnan(values)
    total_R = weights_R_N @ known
    hits_R = weights_R_N @ np.where(known, values, 0.0)
    return np.asarray(np.divide(hits_R, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0))


def _precision(recall: Floats, passed: Floats) -> Floats:
    both = recall + passed
    # where nothing passes there is no precision
    return np.asarray(np.divide(recall, both, out=np.full(len(both), np.nan), where=both > 0))


def _interval(draws: Floats, n: int, confidence: float) -> Interval | None:
    """Return the first value with the interval of the others; None where the first has none."""
    if np.isnan(draws[0]):
        return None
    if n < MIN_PAIRS:
        return Interval(value=float(draws[0]), low=None, high=None, n=n)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws[1:], (tail, 1 - tail))
    return Interval(value=float(draws[0]), low=float(low), high=float(high), n=n)
