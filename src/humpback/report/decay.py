"""What the iterations brought, one row per model: likelihood, audit, and what was kept by which scores; and where they stop paying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from humpback.evaluation.requests import find_verb_object, share_distinct
from humpback.recipe import GateSettings
from humpback.report.figures import NOTHING, auc, interval, nll, percent, plain, score
from humpback.stages.table import Course
from humpback.store.rundir import Manifest

__all__ = ["Turn", "decay_cell", "decay_columns", "decay_rows", "find_turn", "tell_course", "tell_turn", "turn_of"]

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


class Turn(NamedTuple):
    """Where the iterations stop paying, by paired held-out likelihood."""

    plateau: int | None
    """The first model that no later one is surely better than; None with too few pairs to say."""
    worse: int | None
    """The first later model that is surely worse than it."""
    change: Row | None
    """Its difference from the plateau."""


def find_turn(evaluation: Row, ran: int) -> Turn:
    """Return from which model on none is surely better, and whether a later one is surely worse."""
    return turn_of(evaluation["response_nll"]["both tags"]["differences"], ran)


def turn_of(differences: Sequence[Row], ran: int) -> Turn:
    """Return the same by the paired differences of any measure; below zero is better."""
    found = {(row["model"], row["against"]): row for row in differences}

    def compare(later: int, earlier: int) -> Row:
        row: Row = found[f"M_{later}", f"M_{earlier}"]
        return row

    if any(compare(t, s)["low"] is None for t in range(1, ran + 1) for s in range(t)):
        return Turn(None, None, None)
    plateau = next(p for p in range(ran + 1) if all(compare(t, p)["high"] >= 0 for t in range(p + 1, ran + 1)))
    worse = next((t for t in range(plateau + 1, ran + 1) if compare(t, plateau)["low"] > 0), None)
    return Turn(plateau, worse, compare(worse, plateau) if worse is not None else None)


def tell_turn(evaluation: Row, ran: int) -> str:
    """Say it in words."""
    plateau, worse, row = find_turn(evaluation, ran)
    if plateau is None:
        return "Too few held-out pairs to say where the iterations stop paying"
    if plateau == ran:
        return f"No plateau yet: M_{ran} is surely better than every model before it, so another iteration may pay"
    told = f"Plateau at M_{plateau}: no later model is surely better"
    if row is None:
        return f"{told}, and none is surely worse"
    change = f"{row['value']:+.4f} nats per token ({row['low']:+.4f} to {row['high']:+.4f})"
    return f"{told}; a turn at M_{worse}, which is surely worse than M_{plateau}, {change}"


def decay_rows(
    by_name: Mapping[str, Manifest],
    audits: Sequence[Row],
    curation: Sequence[Row],
    instructions: Sequence[Sequence[str]] = (),
) -> list[dict[str, Any]]:
    """Return one row per model M_0 to M_T; `instructions` are those of the curated pairs of each iteration.

    Their diversity is that of as many as the smallest curation kept, because fewer are always more distinct; `as_gated` is that of
    as many as the gate has drafts by default, whose limit holds for so many.
    """
    fewest = min((len(texts) for texts in instructions), default=0)
    drafts = GateSettings().segments
    models = by_name["evaluate"].result["response_nll"]["both tags"]["models"]
    nll = {row["model"]: {key: row[key] for key in ("value", "low", "high", "n")} for row in models}
    return [
        {
            "model": f"M_{t}",
            "nll": nll[f"M_{t}"],
            "auc": _best_auc(audit),
            "win_rate": _win_rate(by_name.get(f"iteration-{t}/compare")),
            **_kept(by_name[f"iteration-{t}/curate"] if t else None, curation[t - 1] if t else None),
            **_cut(by_name[f"iteration-{t}/curate"] if t else None),
            **_diversity(instructions[t - 1][:fewest] if t and instructions else []),
            "as_gated": _diversity(instructions[t - 1][:drafts] if t and instructions else []),
        }
        for t, audit in enumerate(audits)
    ]


def _diversity(instructions: Sequence[str]) -> dict[str, Any]:
    """Return how many of the instructions ask for something, and the share of different requests among these."""
    asking = sum(find_verb_object(text) is not None for text in instructions)
    return {"asking": asking, "distinct": share_distinct(instructions)}


def _best_auc(audit: Row) -> Row | None:
    entry = next((entry for entry in audit["signals"] if entry["signal"] == audit["best"]), None)
    return entry["auc"]["all"] if entry else None


def _win_rate(compared: Manifest | None) -> Row | None:
    """Return what the judge says, and whether it is believed; None where it was not asked, or gave no verdict."""
    rate = compared.result["win_rate"] if compared else None
    if compared is None or rate is None or rate["value"] is None:
        return None
    return {**{key: rate[key] for key in ("value", "low", "high", "n")}, "believed": not compared.result["doubt"]}


def _cut(curate: Manifest | None) -> dict[str, Any]:
    """Return precision and recall of what curated, at its cut-off, on the pairs of the audit before it."""
    entries = curate.result.get("cuts", []) if curate else []
    entry = next((entry for entry in entries if curate and entry["signal"] == curate.result["signal"]), None)
    return {
        "precision": entry["precision"].get("all") if entry else None,
        "recall": entry["recall"] if entry else None,
    }


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


_COLUMNS = ("model", "NLL", "audit AUC", "precision", "recall", "kept", "distinct", "score mean", "score quartiles")


def decay_columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the columns of the table over the iterations: a win rate where a judge gave one."""
    if all(row["win_rate"] is None for row in rows):
        return _COLUMNS
    return (*_COLUMNS[:2], "win rate", *_COLUMNS[2:])


def decay_cell(row: Row, name: str) -> str:
    """Return one cell of it; M_0 curated nothing, so its last columns are empty."""
    estimates = {
        "NLL": (row["nll"], nll),
        "audit AUC": (row["auc"], auc),
        "precision": (row["precision"], auc),
        "recall": (row["recall"], auc),
    }
    if name == "model":
        return str(row["model"])
    if name == "win rate":
        return _tell_win_rate(row["win_rate"])
    if name in estimates:
        found, how = estimates[name]
        return NOTHING if found is None else f"{how(found['value'])} ({interval(found, how)})"
    if row["kept"] is None:
        return NOTHING
    if name == "kept":
        return f"{row['kept']:.1%} by {row['signal']}"
    if name == "distinct":
        return NOTHING if row["distinct"] is None else f"{row['distinct']:.2f}"
    if row["mean"] is None:
        return NOTHING
    return score(row["mean"]) if name == "score mean" else ", ".join(map(score, row["quartiles"]))


def _tell_win_rate(rate: Row | None) -> str:
    if rate is None:
        return NOTHING
    return f"{percent(rate['value'])} ({interval(rate, plain)})" + ("" if rate["believed"] else ", not believed")
