"""What a study found, as plain values: every setting with its interval, its difference from the first, or why it has none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from humpback.errors import StorageError
from humpback.evaluation.scaling import ScalingFit, Spread, compare_fits, fit_scaling, spread_settings
from humpback.evaluation.stats import MIN_PAIRS
from humpback.store.fingerprint import derive_seed
from humpback.store.rundir import RunDir
from humpback.studies.cell import LIKELIHOODS
from humpback.studies.grid import AblationStudy, Cell, ScalingStudy, Study
from humpback.studies.signs import find_signs

__all__ = ["Outcome", "build_results"]

Row = dict[str, Any]
FEW_SEEDS = 5
"""Fewer training seeds than this say little of how far seeds differ."""


class Outcome:
    """One measured cell, read from its folder."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell = cell
        run_dir = RunDir(folder)
        path = folder / "arm" / "measure" / LIKELIHOODS
        try:
            kept = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} cannot be read ({error}); remove {folder} and run the study again") from error
        given, alone = kept["given"], kept["alone"]
        self.pairs: dict[str, tuple[float, float, int]] = {
            pair: (nats, bare, tokens)
            for pair, nats, bare, tokens, *errors in zip(
                given["pair_ids"],
                given["nats"],
                alone["nats"],
                given["tokens"],
                given["errors"],
                alone["errors"],
                strict=True,
            )
            if not any(errors)
        }
        """Nats of the response after its instruction and after none, and its tokens, by pair; those that failed are left out."""
        self.held = frozenset(given["pair_ids"])
        """Pairs it was asked about, those that failed among them."""
        training = run_dir.manifest("arm/finetune")
        facts = training.result["training"] if training else {}
        self.examples: int = facts.get("examples", 0)
        self.steps: int = facts.get("steps", 0)
        self.label_tokens: int = facts.get("label_tokens", 0)


def build_results(study: Study, outcomes: Sequence[Outcome], failed: Sequence[tuple[Cell, str]], *, first: str) -> Row:
    """Return every figure of the study; pairs that any cell has not measured count for none.

    `first` is the name of the setting that all are compared with: where it failed, nothing takes its place.
    """
    common = set.intersection(*(set(o.pairs) for o in outcomes)) if outcomes else set()
    pairs = sorted(common)
    by_setting: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_setting.setdefault(outcome.cell.name, []).append(outcome)
    spreads = _spread(study, by_setting, pairs) if pairs else {}
    against = by_setting.get(first, [])
    told: Row = {
        "study": "scaling" if isinstance(study, ScalingStudy) else "ablation",
        "metric": study.metric,
        "better": "lower" if study.metric == "nll" else "higher",
        "pairs": len(pairs),
        "pairs_left_out": len(frozenset().union(*(o.held for o in outcomes)) - common),
        "seeds": study.seeds,
        "confidence": study.confidence,
        "resamples": study.resamples,
        "settings": [
            {
                **_row(study, by_setting[name], spread),
                "difference": _difference(study, by_setting[name], against, pairs),
            }
            for name, spread in spreads.items()
        ],
        "failed": [{"setting": dict(c.setting), "name": c.name, "seed": c.seed, "why": why} for c, why in failed],
        "notes": _notes(study, outcomes, pairs, failed, first),
    }
    if isinstance(study, ScalingStudy):
        told |= _scaling(study, by_setting, spreads)
    return told


def _spread(study: Study, by_setting: Mapping[str, Sequence[Outcome]], pairs: Sequence[str]) -> dict[str, Spread]:
    def value(outcome: Outcome, pair: str) -> float:
        nats, bare, _ = outcome.pairs[pair]
        return nats if study.metric == "nll" else bare - nats

    first = next(iter(by_setting.values()))[0]
    return spread_settings(
        {name: {o.cell.seed: [value(o, pair) for pair in pairs] for o in own} for name, own in by_setting.items()},
        [first.pairs[pair][2] for pair in pairs],
        resamples=study.resamples,
        seed=derive_seed(0, "study-bootstrap"),
    )


def _row(study: Study, outcomes: Sequence[Outcome], spread: Spread) -> Row:
    mean = {
        fact: float(np.mean([getattr(outcome, fact) for outcome in outcomes]))
        for fact in ("examples", "steps", "label_tokens")
    }
    return {
        "setting": dict(outcomes[0].cell.setting),
        "name": outcomes[0].cell.name,
        **asdict(spread.interval(study.confidence)),
        "seeds": spread.seeds,
        **mean,
    }


def _difference(
    study: Study, outcomes: Sequence[Outcome], first: Sequence[Outcome], pairs: Sequence[str]
) -> Row | None:
    """Return a setting minus the first over the seeds that both have: one that failed in either says nothing of the change."""
    shared = {o.cell.seed for o in outcomes} & {o.cell.seed for o in first}
    if not shared or outcomes[0].cell.name == first[0].cell.name:
        return None
    sides = {"own": outcomes, "first": first}
    spreads = _spread(study, {name: [o for o in own if o.cell.seed in shared] for name, own in sides.items()}, pairs)
    one, other = spreads["own"], spreads["first"]
    apart = Spread(value=one.value - other.value, draws=one.draws - other.draws, prompts=one.prompts, seeds=len(shared))
    return asdict(apart.interval(study.confidence))


def _scaling(study: ScalingStudy, by_setting: Mapping[str, Sequence[Outcome]], spreads: Mapping[str, Spread]) -> Row:
    fits: dict[str, ScalingFit] = {}
    rows: list[Row] = []
    for kind in study.kinds:
        own = {name: by_setting[name] for name in spreads if by_setting[name][0].cell.setting["kind"] == kind}
        points = [(float(np.mean([o.examples for o in outcomes])), spreads[name]) for name, outcomes in own.items()]
        fit = fit_scaling(points, log_base=study.log_base, confidence=study.confidence)
        if isinstance(fit, str):
            rows.append({"kind": kind, "alpha": None, "why": fit})
            continue
        fits[kind] = fit
        rows.append(
            {
                "kind": kind,
                "alpha": asdict(fit.alpha),
                "intercept": fit.intercept,
                "r_squared": fit.r_squared,
                "sizes": list(fit.sizes),
                "why": None,
            }
        )
    compared = compare_fits(fits, confidence=study.confidence)
    return {
        "log_base": study.log_base,
        "fits": rows,
        "signs": find_signs(rows, metric=study.metric, log_base=study.log_base),
        "comparisons": [
            {
                "kind": one.kind,
                "against": one.against,
                **asdict(one.difference),
                "p_value": one.p_value,
                "p_holm": one.p_holm,
            }
            for one in compared
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
    if outcomes and outcomes[0].cell.recipe and outcomes[0].cell.recipe.model.base == "fake":
        notes.append("the scripted engine was used: no model was trained and no figure says anything about one")
    if failed:
        notes.append(f"{len(failed)} cells failed; the same command tries them again")
    if outcomes and not any(o.cell.name == first for o in outcomes):
        notes.append(f"the first setting, {first}, failed: there are no differences from it")
    return notes
