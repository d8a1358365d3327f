"""What the iterations brought, one row per model: likelihood, audit, and what was kept by which scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from humpback.stages.table import Course
from humpback.store.rundir import Manifest

__all__ = ["decay_rows", "tell_course"]

Row = Mapping[str, Any]


def tell_course(course: Course, *, auto: bool) -> dict[str, Any]:
    """Return how many iterations ran, which model is kept, and why, as plain values and in words."""
    told = f"{course.iterations} iteration{'s' if course.iterations != 1 else ''}, {course.why}"
    if auto:
        told += f"; M_{course.best} is kept"
        told += "" if course.best else ", and the dataset is that of iteration 1, which did not improve on it"
    return {
        "ran": course.iterations,
        "best": course.best,
        "published": course.published,
        "auto": auto,
        "why": course.why,
        "told": told,
    }


def decay_rows(by_name: Mapping[str, Manifest], audits: Sequence[Row], curation: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row per model M_0 to M_T."""
    models = by_name["evaluate"].result["response_nll"]["both tags"]["models"]
    nll = {row["model"]: {key: row[key] for key in ("value", "low", "high", "n")} for row in models}
    return [
        {
            "model": f"M_{t}",
            "nll": nll[f"M_{t}"],
            "auc": _best_auc(audit),
            **_kept(by_name[f"iteration-{t}/curate"] if t else None, curation[t - 1] if t else None),
        }
        for t, audit in enumerate(audits)
    ]


def _best_auc(audit: Row) -> Row | None:
    entry = next((entry for entry in audit["signals"] if entry["signal"] == audit["best"]), None)
    return entry["auc"]["all"] if entry else None


def _kept(curate: Manifest | None, curation: Row | None) -> dict[str, Any]:
    """Return the share kept on the way to a model, and the scores it was kept by: those of the model before it."""
    if curate is None or curation is None:
        return dict.fromkeys(("kept", "signal", "mean", "quartiles"))
    signal = curation["decision"]["signal"]
    scores = curation["histograms"].get(signal)
    return {
        "kept": curate.kept / curate.read if curate.read else 0.0,
        "signal": signal,
        "mean": scores["mean"] if scores else None,
        "quartiles": scores["quartiles"] if scores else None,
    }
