"""Every stage of a run that is running, stopped or complete, in a terminal or as JSON. In: a run folder. Out: a row per stage."""

from __future__ import annotations

import json
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
from humpback.report.terminal import draw_table, open_console, say
from humpback.runner import read_sittings
from humpback.stages.table import find_course, stage_names
from humpback.store.rundir import Counts, RunDir, check_run
from humpback.store.shards import read_metadata

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_status", "stage_states"]

Row = Mapping[str, Any]


def print_status(run: Path, *, as_json: bool) -> None:
    """Print every stage of a run that is running, stopped or complete; the run's lock is left alone."""
    stages = stage_states(run)
    if as_json:
        print(json.dumps({"run": str(run), "stages": stages, "engine": asdict(_sum_engines(stages))}, indent=2))
        return
    console = open_console()
    if not stages:
        say(console, f"{run}: nothing has started; its recipe is not written yet")
        return
    rows = [
        [
            stage["name"],
            stage["state"],
            figures.count(stage["read"]),
            figures.count(stage["kept"]),
            figures.count_with_reasons(stage["rejected"]),
            figures.count_with_reasons(stage["failed"]),
            figures.duration(stage["seconds"]),
            figures.rate(stage["rows_per_second"]),
        ]
        for stage in stages
    ]
    draw_table(console, f"{run}", ["stage", "state", "read>", "kept>", "rejected", "failed", "time>", "rows/s>"], rows)
    _print_engines(console, stages)
    for stage in stages:
        if stage["replies"]:
            say(console, f"{stage['name']}: {figures.replies(stage['replies'])}")
        if "refusal" in stage:
            say(console, f"{stage['name']} was refused: {stage['refusal'].removeprefix(stage['name'] + ': ')}")
        if "gate" in stage:
            say(console, f"{stage['name']}: {tell_rates(stage['gate'])}")
    for stage in stages:
        if stage["name"].endswith("/stop") and stage["state"] != "done":
            say(console, f"iterations: auto; {stage['name']} will say whether there is one more")
    done = sum(stage["state"] == "done" for stage in stages)
    say(console, f"{done} of {len(stages)} stages are done" + ("; the run is complete" if done == len(stages) else ""))


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
    draw_table(console, "Engines", headers, rows)


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
