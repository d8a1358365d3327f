"""What a study found, as plain values: every setting with its interval, its difference from the first, or why it has none.

Each cell is measured after the instruction and after none, so nll and lift are told of the same answers; with a judge there is the win
rate besides, against the baseline that all cells are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Literal

import numpy as np

from humpback.evaluation.scaling import ScalingFit, Spread, compare_fits, fit_scaling, spread_settings
from humpback.evaluation.stats import MIN_PAIRS, Interval
from humpback.store.fingerprint import derive_seed
from humpback.studies.believing import doubt_settings, tell_doubts
from humpback.studies.grid import AblationStudy, Cell, ScalingStudy, Study
from humpback.studies.outcome import METRICS, Metric, Outcome, Row, describe_judge
from humpback.studies.signs import find_signs

__all__ = ["build_results", "study_kind"]

FEW_SEEDS = 5
"""Fewer training seeds than this say little of how far seeds differ."""


def study_kind(study: Study) -> Literal["ablation", "scaling"]:
    """Return the command that runs this study, by which its results are told apart."""
    return "scaling" if isinstance(study, ScalingStudy) else "ablation"


def build_results(study: Study, outcomes: Sequence[Outcome], failed: Sequence[tuple[Cell, str]], *, first: str) -> Row:
    """Return every figure of the study; pairs that any cell has not measured count for none.

    `first` is the name of the setting that all are compared with: where it failed, nothing takes its place.
    """
    pairs, held = _shared(outcomes, "nll"), frozenset().union(*(o.held for o in outcomes))
    return {
        "study": study_kind(study),
        "metrics": {
            metric: _tell_metric(study, metric, outcomes, first)
            for metric in METRICS
            if metric != "win_rate" or study.judge
        },
        "cells": len(outcomes),
        "pairs": len(pairs),
        "pairs_left_out": len(held) - len(pairs),
        "seeds": study.seeds,
        "confidence": study.confidence,
        "resamples": study.resamples,
        "failed": [{"setting": dict(c.setting), "name": c.name, "seed": c.seed, "why": why} for c, why in failed],
        "notes": _notes(study, outcomes, pairs, failed, first),
    }


def _shared(outcomes: Sequence[Outcome], metric: Metric) -> list[str]:
    """Return the pairs, or prompts, that every cell has a value of."""
    return sorted(set.intersection(*(set(o.tables[metric]) for o in outcomes))) if outcomes else []


def _tell_metric(study: Study, metric: Metric, outcomes: Sequence[Outcome], first: str) -> Row:
    by_setting: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_setting.setdefault(outcome.cell.name, []).append(outcome)
    items = _shared(outcomes, metric)
    spreads = _spread(study, metric, by_setting, items) if items else {}
    against = by_setting.get(first, [])
    rows = [
        {
            **_row(study, metric, by_setting[name], spread),
            "by_seed": {str(o.cell.seed): o.mean(metric, items) for o in by_setting[name]},
            "difference": _difference(study, metric, by_setting[name], against, items),
        }
        for name, spread in spreads.items()
    ]
    told: Row = {"better": METRICS[metric], "settings": rows}
    doubts: dict[str, str | None] = {}
    if metric == "win_rate" and study.judge:
        doubts = doubt_settings(study, by_setting) if rows else {}
        for row in rows:
            row["doubt"] = doubts[row["name"]]
        told |= {"judge": study.judge.model, "prompts": len(items), **describe_judge(outcomes)}
        told["doubts"] = tell_doubts(study.judge.name or study.judge.model, doubts)
    return told | (_scaling(study, metric, by_setting, spreads, doubts) if isinstance(study, ScalingStudy) else {})


def _spread(
    study: Study, metric: Metric, by_setting: Mapping[str, Sequence[Outcome]], items: Sequence[str]
) -> dict[str, Spread]:
    first = next(iter(by_setting.values()))[0].tables[metric]
    return spread_settings(
        {
            name: {o.cell.seed: [o.tables[metric][item].total for item in items] for o in own}
            for name, own in by_setting.items()
        },
        [first[item].weight for item in items],
        resamples=study.resamples,
        seed=derive_seed(0, "study-bootstrap"),
    )


def _bound(study: Study, metric: Metric, spread: Spread) -> Row:
    return asdict(_refuse_alike(metric, spread.interval(study.confidence)))


def _refuse_alike(metric: Metric, interval: Interval) -> Interval:
    """Take the bounds from wins that all came out alike: their resamples are alike too, and say nothing of the spread."""
    alike = metric == "win_rate" and interval.low == interval.high
    return replace(interval, low=None, high=None) if alike else interval


def _row(study: Study, metric: Metric, outcomes: Sequence[Outcome], spread: Spread) -> Row:
    mean = {
        fact: float(np.mean([getattr(outcome, fact) for outcome in outcomes]))
        for fact in ("examples", "steps", "label_tokens")
    }
    return {
        "setting": dict(outcomes[0].cell.setting),
        "name": outcomes[0].cell.name,
        **_bound(study, metric, spread),
        "seeds": spread.seeds,
        **mean,
    }


def _difference(
    study: Study, metric: Metric, outcomes: Sequence[Outcome], first: Sequence[Outcome], items: Sequence[str]
) -> Row | None:
    """Return a setting minus the first over the seeds that both have: one that failed in either says nothing of the change."""
    shared = {o.cell.seed for o in outcomes} & {o.cell.seed for o in first}
    if not shared or outcomes[0].cell.name == first[0].cell.name:
        return None
    sides = {"own": outcomes, "first": first}
    both = {name: [o for o in own if o.cell.seed in shared] for name, own in sides.items()}
    spreads = _spread(study, metric, both, items)
    one, other = spreads["own"], spreads["first"]
    apart = Spread(value=one.value - other.value, draws=one.draws - other.draws, prompts=one.prompts, seeds=len(shared))
    return _bound(study, metric, apart)


def _scaling(
    study: ScalingStudy,
    metric: Metric,
    by_setting: Mapping[str, Sequence[Outcome]],
    spreads: Mapping[str, Spread],
    doubts: Mapping[str, str | None],
) -> Row:
    fits: dict[str, ScalingFit] = {}
    rows: list[Row] = []
    for kind in study.kinds:
        own = {name: by_setting[name] for name in spreads if by_setting[name][0].cell.setting["kind"] == kind}
        points = [(float(np.mean([o.examples for o in outcomes])), spreads[name]) for name, outcomes in own.items()]
        fit = fit_scaling(points, log_base=study.log_base, confidence=study.confidence)
        doubt = next((f"the judge is not believed on {name}: {doubts[name]}" for name in own if doubts.get(name)), None)
        if isinstance(fit, str):
            rows.append({"kind": kind, "alpha": None, "why": fit, "doubt": doubt})
            continue
        fits[kind] = fit
        rows.append(
            {
                "kind": kind,
                "alpha": asdict(_refuse_alike(metric, fit.alpha)),
                "intercept": fit.intercept,
                "r_squared": fit.r_squared,
                "sizes": list(fit.sizes),
                "why": None,
                "doubt": doubt,
            }
        )
    compared = compare_fits(fits, confidence=study.confidence)
    apart = [(one, _refuse_alike(metric, one.difference)) for one in compared]
    return {
        "log_base": study.log_base,
        "fits": rows,
        "signs": find_signs(rows, fits, metric=metric, log_base=study.log_base, confidence=study.confidence),
        "comparisons": [
            {
                "kind": one.kind,
                "against": one.against,
                **asdict(interval),
                "p_value": None if interval.low is None else one.p_value,
                "p_holm": None if interval.low is None else one.p_holm,
            }
            for one, interval in apart
        ],
    }


def _notes(
    study: Study, outcomes: Sequence[Outcome], pairs: Sequence[str], failed: Sequence[tuple[Cell, str]], first: str
) -> list[str]:
    notes = []
    if len(study.seeds) == 1:
        notes.append("one training seed: intervals tell what other pairs would give, and nothing of other trainings")
    elif len(study.seeds) < FEW_SEEDS:
        notes.append(
            f"{len(study.seeds)} training seeds: intervals that resample so few are too narrow rather than too wide"
        )
    if outcomes and len(pairs) < MIN_PAIRS:
        notes.append(f"{len(pairs)} pairs were measured by all cells: too few for an interval")
    if study.measure is None and len({o.held for o in outcomes}) > 1:
        notes.append("cells hold out different pairs, and only those of all count: name the same ones under measure")
    if study.measure is None and any(o.cell.arm and o.cell.arm.candidates == "curated" for o in outcomes):
        notes.append(
            "measured on the run's held-out pairs, by which the audit learns what to curate: it may favour curated pairs; "
            "name other pairs under measure"
        )
    if len({o.steps for o in outcomes if o.cell.arm and o.cell.arm.data != "base"}) > 1:
        notes.append("cells took different numbers of optimizer steps: set steps to compare them at equal steps")
    if isinstance(study, AblationStudy) and len(study.factors) > 1 and study.design == "single":
        notes.append("each setting changes one thing of the first: what two changes do together was not measured")
    if study.judge and outcomes and not _shared(outcomes, "win_rate"):
        notes.append(f"{study.judge.model} gave no verdict on a prompt that all cells answered: there is no win rate")
    if outcomes and outcomes[0].cell.recipe and outcomes[0].cell.recipe.model.base == "fake":
        notes.append("the scripted engine was used: no model was trained and no figure says anything about one")
    if failed:
        notes.append(f"{len(failed)} cells failed; the same command tries them again")
    if outcomes and not any(o.cell.name == first for o in outcomes):
        notes.append(f"the first setting, {first}, failed: there are no differences from it")
    return notes
