"""What the recipe's judge says of a run's models, and what that is worth. In: manifests of `compare`. Out: plain values, table, words.

A rate of a judge that cannot tell the answers apart has an interval too, so no rate is told here without what gives such a judge away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from humpback.errors import StorageError
from humpback.evaluation.stats import MIN_PAIRS
from humpback.report.decay import turn_of
from humpback.report.figures import NOTHING, count, duration, interval, percent, plain
from humpback.store.rundir import Manifest, RunDir

__all__ = ["JudgedTable", "judged_lines", "judged_table", "read_judged"]

Row = Mapping[str, Any]
SPENT = "spent.json"


def read_judged(by_name: Mapping[str, Manifest], run_dir: RunDir, ran: int) -> dict[str, Any] | None:
    """Return one row per model that was compared, what the judge has cost, and where win rates stop rising; None without a judge."""
    stages = [name for t in range(ran + 1) if (name := f"iteration-{t}/compare") in by_name]
    if not stages:
        return None
    rows = [dict(by_name[name].result) for name in stages]
    first = rows[0]
    return {
        **{key: first[key] for key in ("by", "verdicts", "against", "prompts")},
        "rows": rows,
        "spent": _spent(run_dir, stages),
        "turn": _tell_turn(rows, ran),
    }


def _spent(run_dir: RunDir, stages: Sequence[str]) -> dict[str, float]:
    """Return what the judge has been asked and has taken, over all sittings; answers that were there already cost nothing."""
    spent = {"requests": 0, "tokens_in": 0, "tokens_out": 0, "seconds": 0.0}
    for stage in stages:
        path = run_dir.folder(stage) / SPENT
        try:
            entries = json.loads(path.read_bytes()) if path.exists() else []
            for entry in entries:
                spent = {key: value + entry["totals"][key] for key, value in spent.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged ({error}); run again with --rerun-from {stage}") from error
    return spent


def _tell_turn(rows: Sequence[Row], ran: int) -> str:
    """Say from which model on the win rate does not surely rise; only by a judge that is believed throughout."""
    doubted = [row["model"] for row in rows if row["doubt"]]
    if doubted:
        return f"The judge is not believed on {', '.join(doubted)}, so win rates say nothing of where the iterations stop paying"
    differences = [
        {"model": row["model"], "against": change["against"], "value": change["value"], **_turned(change)}
        for row in rows
        for change in row["changes"]
    ]
    plateau, worse, found = turn_of(differences, ran)
    if plateau is None:
        return "Too few judged prompts to say where win rates stop rising"
    if plateau == ran:
        return f"Win rates still rise: M_{ran} surely wins more than every model before it"
    told = f"Win rates rise no further than M_{plateau}: no later model surely wins more"
    if found is None:
        return f"{told}, and none surely less"
    return f"{told}; a turn at M_{worse}, {found['value']:+.1f} points ({-found['high']:+.1f} to {-found['low']:+.1f})"


def _turned(change: Row) -> dict[str, float | None]:
    """Return the bounds such that below zero is better, as it is with likelihoods."""
    if change["low"] is not None:
        return {"low": -change["high"], "high": -change["low"]}
    # enough prompts, all alike: no gain is sure, and none is ruled out
    return {"low": -math.inf, "high": math.inf} if change["n"] >= MIN_PAIRS else {"low": None, "high": None}


class JudgedTable(NamedTuple):
    """One row per model."""

    headers: tuple[str, ...]
    """A header that ends in `>` is of a right-aligned column."""
    rows: list[list[str]]


def judged_table(judged: Row) -> JudgedTable:
    """Return the win rates with the judge's own figures beside them."""
    headers = (
        *("model", "judge", "win rate>", "won, lost, tied>", "unjudged>", "points gained>"),
        *("first place>", "orders agree>", "same again>", "at equal lengths>"),
    )
    return JudgedTable(headers, [_cells(row) for row in judged["rows"]])


def _cells(row: Row) -> list[str]:
    judge, lost = row["judge"], row["without_output"] + row["without_verdict"]
    change = row["changes"][-1] if row["changes"] else None
    return [
        row["model"],
        "not believed" if row["doubt"] else "believed",
        _rate(row["win_rate"]),
        f"{row['wins']}, {row['losses']}, {row['ties']}",
        count(lost),
        NOTHING if change is None or change["value"] is None else f"{change['value']:+.1f} ({_bounds(change)})",
        *(_rate(judge[name]) for name in ("first_place", "agreement", "self_consistency")),
        _rate(row["length_controlled"]),
    ]


def _bounds(change: Row) -> str:
    alike = change["low"] is None and change["n"] >= MIN_PAIRS
    return "all alike" if alike else interval(change, _points)


def _points(value: float) -> str:
    return f"{value:+.1f}"


def _rate(estimate: Row) -> str:
    if estimate["value"] is None:
        return NOTHING
    return percent(estimate["value"]) + ("" if estimate["low"] is None else f" ({interval(estimate, plain)})")


def judged_lines(judged: Row) -> Iterator[str]:
    """Say who judged what, whom not to believe and why, where win rates stop rising, and what it cost."""
    how = "whose replies are read" if judged["verdicts"] == "reply" else "whose probabilities are read"
    yield (
        f"{judged['by']}, {how}, compared answers to {count(judged['prompts'])} prompts with those of {judged['against']}, in both "
        "orders. 50 % is no difference; a prompt without an answer or a verdict counts for neither. Points gained are those of the "
        "win rate over the model before; first place, orders agree and same again are the judge's own figures"
    )
    for row in judged["rows"]:
        if row["doubt"]:
            yield f"Not believed on {row['model']}, where its win rate decides nothing: {row['doubt']}"
    if sided := [row["model"] for row in judged["rows"] if row["judge_is_a_side"]]:
        yield f"The judge is one of the models that it compared ({', '.join(sided)})"
    for row in judged["rows"]:
        if row["without_output"] or row["without_verdict"]:
            kinds = ", ".join(
                f"{kind} {number}" for kind, number in row["judge"]["rulings"].items() if kind != "parsed"
            )
            why = f": {kinds} rulings" if kinds else ""
            yield f"{row['model']}: {row['without_output']} without an answer, {row['without_verdict']} without a verdict{why}"
    if errors := list(dict.fromkeys(error for row in judged["rows"] for error in row["errors"])):
        yield f"Answers are missing because: {'; '.join(errors)}"
    yield judged["turn"]
    yield _tell_spent(judged["spent"], any(row["judge"]["rulings"] for row in judged["rows"]))


def _tell_spent(spent: Row, ruled: bool) -> str:
    if not spent["requests"]:
        told = "Every ruling was in the cache already"
        return told if ruled else "The judge has ruled on nothing, as no prompt has both answers"
    return (
        f"The judge was asked {count(spent['requests'])} times, read {count(spent['tokens_in'])} tokens and wrote "
        f"{count(spent['tokens_out'])}, in {duration(spent['seconds'])}"
    )
