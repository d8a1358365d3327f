"""How judging changed over the iterations, paired by held-out pair. In: audits' rows and curations of a run. Out: JSON, one row per t.

AUC is of the signal that curated the pairs M_t learnt: M_t against M_0. Precision is of what iteration t curated, at its cut-off,
against what iteration 1 curated. Each is a change since the beginning, so several are made, and together they are as sure as one
would be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from humpback.errors import StorageError
from humpback.evaluation.auditchange import compare_audits
from humpback.evaluation.cutoffs import Curated, Rows, compare_precision
from humpback.evaluation.stats import Interval
from humpback.recipe import Recipe
from humpback.stages.correct import correct_scores
from humpback.store.fingerprint import derive_seed
from humpback.store.rundir import Manifest, RunDir

__all__ = ["measure_changes"]

ByName = Mapping[str, Manifest]


def measure_changes(run_dir: RunDir, by_name: ByName, recipe: Recipe, ran: int) -> list[dict[str, Any]]:
    """Return one row per iteration: the change of AUC by its signal, and from the second on that of precision."""
    rows = [_audit_rows(run_dir, t) for t in range(ran + 1)]
    seed, resamples = derive_seed(recipe.random_seed, "audit-bootstrap"), recipe.evaluate.resamples

    def together(comparisons: int) -> float:
        return 1 - (1 - recipe.evaluate.confidence) / max(comparisons, 1)  # Bonferroni

    curated = [_find_curated(by_name, rows[t - 1], t) for t in range(1, ran + 1)]
    found = []
    for t in range(1, ran + 1):
        signal = by_name[f"iteration-{t}/curate"].result["signal"]
        judged = compare_audits(
            rows[0], rows[t], signal, resamples=resamples, confidence=together(ran), seed=seed
        ).difference
        first, now = curated[0], curated[t - 1]
        precision = None
        if t > 1 and first and now:
            precision = compare_precision(first, now, resamples=resamples, confidence=together(ran - 1), seed=seed)
        found.append({"iteration": t, "signal": signal, "auc": _plain(judged), "precision": _plain(precision)})
    return found


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return asdict(interval) if interval else None


def _find_curated(by_name: ByName, rows: Rows, t: int) -> Curated | None:
    """Return iteration t's signal and cut-off with the rows they are judged by; None where the audit could not judge them."""
    decision = by_name[f"iteration-{t}/curate"].result
    cut = next((entry["cut"] for entry in decision.get("cuts", []) if entry["signal"] == decision["signal"]), None)
    if cut is None:
        return None
    people = by_name[f"iteration-{t}/correct"].result if f"iteration-{t}/correct" in by_name else None
    if people and people["correction"]:
        rows = correct_scores(rows, people["correction"])  # by what candidates were curated
    return Curated(rows, decision["signal"], cut)


def _audit_rows(run_dir: RunDir, t: int) -> Rows:
    stage = f"iteration-{t}/audit"
    path = run_dir.folder(stage) / "audit.json"
    try:
        rows: Rows = json.loads(path.read_bytes())["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"{path} cannot be read ({error}); run again with --rerun-from {stage}") from error
    return rows
