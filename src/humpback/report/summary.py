"""The closing tables of a run, in a terminal. In: the report's JSON. Out: what a user reads when a run is complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humpback.evaluation.gate import tell_rates
from humpback.report import figures
from humpback.report.judged import judged_lines, judged_table
from humpback.report.signs import count_states, sign_lines
from humpback.report.terminal import draw_table, open_console, say

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["pick_examples", "print_summary"]

EXAMPLES = 5
EXAMPLE_CHARS = 400

Row = Mapping[str, Any]


def print_summary(run: Path) -> None:
    """Print what a complete run found: funnel, audit, likelihoods, verdict, five curated pairs, and the paths."""
    data = figures.load_report(run)
    console = open_console()
    _print_funnel(console, data["funnel"])
    if data["gate"]:
        say(console, f"Gate of the backward model, {data['gate']['judged']} segments: {tell_rates(data['gate'])}")
    _print_audit(console, data["audits"])
    _print_nll(console, data["evaluation"])
    say(console, f"Iterations: {data['iterations']['told']}")
    say(console, f"  {data['turn']}")
    if data["judged"]:
        headers, rows = judged_table(data["judged"])
        draw_table(console, "Win rates", headers, rows)
        for line in judged_lines(data["judged"]):
            say(console, f"  {line}")
    say(console, "Did it work?")
    for line in [*figures.headline(data), *data["verdict"]]:
        say(console, f"  {line}")
    say(console, f"Signs of failure: {count_states(data['signs'])}")
    for line in sign_lines(data["signs"]):
        say(console, f"  {line}")
    if data["recipe"]["model"]["base"] == "fake":
        say(console, "  The scripted engine was used: no model was trained and no figure says anything about one.")
    for curation in data["curation"]:
        for warning in curation["decision"]["warnings"]:
            say(console, f"  warning, iteration {curation['iteration']}: {warning}")
    _print_examples(console, data)
    say(console, "")
    for name, path in _paths(run, data["paths"]):
        say(console, f"{name:<8} {path}", whole=True)


def pick_examples(best: Sequence[Row], number: int) -> list[Row]:
    """Return up to `number` pairs, best first, one per source document before a second of any."""
    chosen: list[Row] = []
    left = list(best)
    while left and len(chosen) < number:
        seen: set[str] = set()
        round_: list[Row] = []
        for row in left:
            if row["source_uri"] not in seen:
                seen.add(row["source_uri"])
                round_.append(row)
        left = [row for row in left if row not in round_]
        chosen += round_[: number - len(chosen)]
    return chosen


# -- tables --------------------------------------------------------------------------------------------------------


def _print_funnel(console: Console, funnel: Sequence[Row]) -> None:
    rows = [
        [
            row["name"],
            figures.count(row["read"]),
            figures.count(row["kept"]),
            figures.count_with_reasons(row["rejected"]),
            figures.count_with_reasons(row["failed"]),
        ]
        for row in funnel
    ]
    draw_table(
        console, "Funnel: read = kept + rejected + failed", ["stage", "read>", "kept>", "rejected", "failed"], rows
    )
    for row in funnel:
        if row["replies"]:
            say(console, f"{row['name']}: {figures.replies(row['replies'])}")


def _print_audit(console: Console, audits: Sequence[Row]) -> None:
    rows = [
        [
            audit["model"],
            entry["signal"],
            _estimate(entry["auc"].get("all")),
            figures.weakest(entry),
            str(entry["missing"]),
        ]
        for audit in audits
        for entry in audit["signals"]
    ]
    title = "Audit: AUC on held-out pairs against corruptions (0.5 is a coin, 1 is perfect)"
    draw_table(console, title, ["model", "signal", "over all", "weakest against", "missing>"], rows)
    for audit in audits:
        if calibration := audit["calibration"]:
            reliability = calibration["reliability"]
            say(
                console,
                f"P(good) of {audit['model']}: calibration error {figures.score(reliability['ece'])}, "
                f"Brier score {figures.score(reliability['brier'])} (0.25 is knowing nothing)",
            )


def _estimate(row: Row | None) -> str:
    return "no value" if row is None else f"{figures.auc(row['value'])} ({figures.interval(row, figures.auc)})"


def _print_nll(console: Console, evaluation: Row) -> None:
    tables = {f"response, {label}": table for label, table in evaluation["response_nll"].items()}
    tables["instruction"] = evaluation["instruction_nll"]
    models = dict.fromkeys(row["model"] for table in tables.values() for row in table["models"])
    rows = []
    for model in models:
        found = [next((r for r in table["models"] if r["model"] == model), None) for table in tables.values()]
        rows.append(
            [model, *(f"{figures.nll(r['value'])} ({figures.interval(r, figures.nll)})" if r else "" for r in found)]
        )
    title = f"NLL per token of {evaluation['pairs']} held-out pairs (lower is better)"
    draw_table(console, title, ["model", *tables], rows)


def _print_examples(console: Console, data: Row) -> None:
    examples = pick_examples(data["best"], EXAMPLES)
    signal = data["curation"][data["iterations"]["published"] - 1]["decision"]["signal"]
    say(console, "")
    say(console, f"{len(examples)} curated pairs")
    for row in examples:
        value = figures.score(row["scores"].get(signal))
        say(console, f"\n[{row['id']}] {signal} {value}, {row['source_uri']}", whole=True)
        say(console, f"Instruction: {row['instruction']}")
        say(console, f"Response: {figures.shorten(row['response'], EXAMPLE_CHARS)}")


def _paths(run: Path, paths: Row) -> list[tuple[str, Path]]:
    told = [("report", run / "report" / "report.html"), ("dataset", run / paths["dataset"])]
    return told + [(_model_name(model), run / model) for model in paths["models"]]


def _model_name(path: str) -> str:
    room = path.split("/", 1)[0]
    return "M_yx" if room == "backward" else room.replace("iteration-", "M_")
