"""The closing tables of a run, and its status, in a terminal. Plain text when standard output is not a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humpback.engines.base import EngineTotals
from humpback.errors import StorageError
from humpback.evaluation.gate import tell_rates
from humpback.recipe import Recipe, load_recipe
from humpback.report import figures
from humpback.report.build import engine_row, stage_row
from humpback.report.judged import judged_lines, judged_table
from humpback.report.signs import count_states, sign_lines
from humpback.runner import read_sittings
from humpback.stages.table import find_course, stage_names
from humpback.store.rundir import Counts, RunDir, check_run
from humpback.store.shards import read_metadata

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["pick_examples", "print_status", "print_summary", "print_table", "stage_states"]

PLAIN_WIDTH = 120
"""Columns when standard output is not a terminal: a pipe has no width of its own."""
EXAMPLES = 5
EXAMPLE_CHARS = 400

Row = Mapping[str, Any]


def print_summary(run: Path) -> None:
    """Print what a complete run found: funnel, audit, likelihoods, verdict, five curated pairs, and the paths."""
    data = figures.load_report(run)
    console = _console()
    _print_funnel(console, data["funnel"])
    if data["gate"]:
        _say(console, f"Gate of the backward model, {data['gate']['judged']} segments: {tell_rates(data['gate'])}")
    _print_audit(console, data["audits"])
    _print_nll(console, data["evaluation"])
    _say(console, f"Iterations: {data['iterations']['told']}")
    _say(console, f"  {data['turn']}")
    if data["judged"]:
        headers, rows = judged_table(data["judged"])
        _table(console, "Win rates", headers, rows)
        for line in judged_lines(data["judged"]):
            _say(console, f"  {line}")
    _say(console, "Did it work?")
    for line in [*figures.headline(data), *data["verdict"]]:
        _say(console, f"  {line}")
    _say(console, f"Signs of failure: {count_states(data['signs'])}")
    for line in sign_lines(data["signs"]):
        _say(console, f"  {line}")
    if data["recipe"]["model"]["base"] == "fake":
        _say(console, "  The scripted engine was used: no model was trained and no figure says anything about one.")
    for curation in data["curation"]:
        for warning in curation["decision"]["warnings"]:
            _say(console, f"  warning, iteration {curation['iteration']}: {warning}")
    _print_examples(console, data)
    _say(console, "")
    for name, path in _paths(run, data["paths"]):
        _say(console, f"{name:<8} {path}", whole=True)


def print_status(run: Path, *, as_json: bool) -> None:
    """Print every stage of a run that is running, stopped or complete; the run's lock is left alone."""
    stages = stage_states(run)
    if as_json:
        print(json.dumps({"run": str(run), "stages": stages, "engine": asdict(_sum_engines(stages))}, indent=2))
        return
    console = _console()
    if not stages:
        _say(console, f"{run}: nothing has started; its recipe is not written yet")
        return
    rows = [
        [
            stage["name"],
            stage["state"],
            figures.count(stage["read"]),
            figures.count(stage["kept"]),
            _with_reasons(stage["rejected"]),
            _with_reasons(stage["failed"]),
            figures.duration(stage["seconds"]),
            figures.rate(stage["rows_per_second"]),
        ]
        for stage in stages
    ]
    _table(console, f"{run}", ["stage", "state", "read>", "kept>", "rejected", "failed", "time>", "rows/s>"], rows)
    _print_engines(console, stages)
    for stage in stages:
        if stage["replies"]:
            _say(console, f"{stage['name']}: {figures.replies(stage['replies'])}")
        if "refusal" in stage:
            _say(console, f"{stage['name']} was refused: {stage['refusal'].removeprefix(stage['name'] + ': ')}")
        if "gate" in stage:
            _say(console, f"{stage['name']}: {tell_rates(stage['gate'])}")
    for stage in stages:
        if stage["name"].endswith("/stop") and stage["state"] != "done":
            _say(console, f"iterations: auto; {stage['name']} will say whether there is one more")
    done = sum(stage["state"] == "done" for stage in stages)
    _say(console, f"{done} of {len(stages)} stages are done" + ("; the run is complete" if done == len(stages) else ""))


def _print_engines(console: Console, stages: Sequence[Row]) -> None:
    """Print what the stages that asked models did, and their sum."""
    asked = [stage for stage in stages if stage["engine"] and stage["engine"]["requests"]]
    if not asked:
        return
    names = ("requests", "cache_hits", "errors", "retries", "tokens_in", "tokens_out")
    total = {"name": "together", "engine": asdict(_sum_engines(stages)), "tokens_per_second": None}
    rows = [
        [
            stage["name"],
            *(figures.count(stage["engine"][name]) for name in names),
            figures.rate(stage["tokens_per_second"]),
        ]
        for stage in (*asked, total)
    ]
    headers = ["stage", "asked>", "from cache>", "errors>", "retries>", "tokens in>", "tokens out>", "tokens/s>"]
    _table(console, "Engines", headers, rows)


def _sum_engines(stages: Sequence[Row]) -> EngineTotals:
    totals = EngineTotals()
    for stage in stages:
        totals.add(EngineTotals(**(stage["engine"] or {})))
    return totals


def stage_states(run: Path) -> list[dict[str, Any]]:
    """Return one row per stage of the run's recipe, in the order they run; none when its recipe is not written yet."""
    if (run / ".lock").exists() and not (run / "recipe.yaml").exists():
        return []
    check_run(run)
    run_dir, recipe = RunDir(run), load_recipe(run / "recipe.yaml")
    return [_stage_state(run_dir, name, iteration) for name, iteration in _names(recipe, run_dir)]


def _names(recipe: Recipe, run_dir: RunDir) -> list[tuple[str, int | None]]:
    return stage_names(recipe, find_course(recipe, run_dir).iterations)


def _stage_state(run_dir: RunDir, name: str, iteration: int | None) -> dict[str, Any]:
    manifest = run_dir.manifest(name)
    if manifest is not None:
        gate = {"gate": dict(manifest.result)} if name == "backward/gate" else {}
        return {**stage_row(manifest), **gate}
    row: dict[str, Any] = {"name": name, "iteration": iteration, "state": run_dir.state(name)}
    row |= dict.fromkeys(("read", "kept", "seconds", "rows_per_second", "engine", "tokens_per_second"))
    row |= {"rejected": {}, "failed": {}, "replies": {}}
    if row["state"] == "refused":
        row["refusal"] = run_dir.refusal(name)
    folder = run_dir.folder(name)
    if row["state"] == "started" and (folder / "plan.json").exists():  # a map stage: its finished shards count
        row |= asdict(_finished_shards(folder))
        work = read_sittings(folder)
        row |= {"seconds": round(work.seconds, 3), **engine_row(asdict(work.totals), work.seconds)}
        row["rows_per_second"] = round(row["read"] / work.seconds, 3) if work.seconds and row["read"] else None
    return row


def _finished_shards(folder: Path) -> Counts:
    counts = Counts()
    for path in sorted(folder.glob("*.parquet")):
        if path.name.startswith("rejected-"):
            continue
        try:
            counts.add(Counts(**read_metadata(path).get("counts", {})))
        except StorageError:
            if path.exists():  # else the run has just discarded it
                raise
    return counts


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
            _with_reasons(row["rejected"]),
            _with_reasons(row["failed"]),
        ]
        for row in funnel
    ]
    _table(console, "Funnel: read = kept + rejected + failed", ["stage", "read>", "kept>", "rejected", "failed"], rows)
    for row in funnel:
        if row["replies"]:
            _say(console, f"{row['name']}: {figures.replies(row['replies'])}")


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
    _table(console, title, ["model", "signal", "over all", "weakest against", "missing>"], rows)
    for audit in audits:
        if calibration := audit["calibration"]:
            reliability = calibration["reliability"]
            _say(
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
    _table(console, title, ["model", *tables], rows)


def _print_examples(console: Console, data: Row) -> None:
    examples = pick_examples(data["best"], EXAMPLES)
    signal = data["curation"][data["iterations"]["published"] - 1]["decision"]["signal"]
    _say(console, "")
    _say(console, f"{len(examples)} curated pairs")
    for row in examples:
        value = figures.score(row["scores"].get(signal))
        _say(console, f"\n[{row['id']}] {signal} {value}, {row['source_uri']}", whole=True)
        _say(console, f"Instruction: {row['instruction']}")
        _say(console, f"Response: {figures.shorten(row['response'], EXAMPLE_CHARS)}")


def _paths(run: Path, paths: Row) -> list[tuple[str, Path]]:
    told = [("report", run / "report" / "report.html"), ("dataset", run / paths["dataset"])]
    return told + [(_model_name(model), run / model) for model in paths["models"]]


def _model_name(path: str) -> str:
    room = path.split("/", 1)[0]
    return "M_yx" if room == "backward" else room.replace("iteration-", "M_")


def _with_reasons(by_reason: Mapping[str, int] | None) -> str:
    if by_reason is None:
        return figures.NOTHING
    return f"{figures.count(sum(by_reason.values()))} ({figures.reasons(by_reason)})" if by_reason else "0"


# -- the terminal --------------------------------------------------------------------------------------------------


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=False)


def _safe(console: Console, text: str) -> str:
    """Text from the web may hold what this terminal must not obey or cannot show."""
    return figures.clean(text).encode(console.encoding, "replace").decode(console.encoding)


def _say(console: Console, text: str, *, whole: bool = False) -> None:
    """Print text, broken at the width unless it must stay whole, as a path must."""
    from rich.text import Text

    console.print(Text(_safe(console, text)), soft_wrap=whole)


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; a header that ends in `>` is of a right-aligned column."""
    _table(_console(), title, headers, rows)


def _table(console: Console, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a header that ends in `>` is of a right-aligned column."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(_safe(console, title), style="bold")
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        right = header.endswith(">")
        table.add_column(header.rstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(Text(_safe(console, cell)) for cell in row))
    console.print(table)
