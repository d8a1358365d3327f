"""Runs a study: says what it will cost, makes every cell once, keeps going where one fails, and writes what was found."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from humpback.benchmarking.trust import least_prompts
from humpback.errors import (
    HumpbackError,
    InputError,
    LockedError,
    MissingDependencyError,
    StoppedError,
    StorageError,
)
from humpback.progress import Console, format_seconds
from humpback.recipe import identity_of
from humpback.rooms.asking import check_judge, check_judges_model
from humpback.runner import to_json
from humpback.seeds.readers import check_inputs
from humpback.store.fingerprint import fingerprint
from humpback.store.rundir import RunDir, check_folder
from humpback.store.shards import atomic_write
from humpback.studies.cell import run_cell
from humpback.studies.grid import Cell, Study
from humpback.studies.outcome import Outcome
from humpback.studies.results import build_results, study_kind
from humpback.studies.shelf import StageShelf

__all__ = ["RESULTS", "Plan", "check_done", "plan_study", "run_study"]

RESULTS = "results.json"
CELLS = "cells"
AFRESH = "The study's inputs are others now: name another folder for it (-o FOLDER), or remove this cell's folder."


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study takes, at most: cells that turn out to share a stage make it once."""

    cells: int
    done: int
    """Cells measured already."""
    invalid: int
    """Cells whose changes give no valid recipe; they will be told as failed."""
    preparations: int
    """Different ways to come by scored candidates; each ingests, trains M_yx and M_0, augments, audits and scores once."""
    trainings: int
    """Last trainings that are left, each of another arm, seed or preparation."""
    steps: int | None
    """Optimizer steps of each; None where they follow the number of pairs."""
    candidates: int | None
    """Most candidates of a preparation; None where the recipe samples no corpus."""
    judged: int
    """Models whose answers are left to be judged."""
    prompts: int
    """Prompts that each of them answers."""
    enough: int
    """Prompts from which on a judge that is always right can be believed on all settings at once."""
    seconds_each: float | None
    """Mean time that the last training and measuring of the cells that are done took; None before the first."""
    seconds_judging: float | None
    """What judging one more model should take, by the mean time per prompt of those judged; None before the first."""

    def lines(self) -> Iterator[str]:
        """Say it in words."""
        yield f"{self.cells} cells, {self.done} done" + (f", {self.invalid} invalid" if self.invalid else "")
        if self.done + self.invalid == self.cells:
            return
        many = (
            "as many candidates as the corpus has segments"
            if self.candidates is None
            else f"{self.candidates:,} candidates"
        )
        if self.preparations:
            yield f"to prepare, at most: {self.preparations} x (M_yx, the models that score, {many} written and scored)"
        steps = f"{self.steps} steps each" if self.steps else "steps by the number of pairs"
        if self.trainings:
            yield f"to train, at most: {self.trainings} models ({steps}), each kept in full on disk"
        if self.judged:
            yield f"to judge, at most: {self.judged} models by {self.prompts:,} answers each, in both orders"
        if self.judged and self.prompts < self.enough:
            yield f"note: {self.prompts} prompts let no judge be believed on all settings at once; {self.enough} may"
        if self.judged and self.seconds_judging is None:
            yield "time to judge: not known before the first model is judged"
        elif self.judged and self.seconds_judging is not None:
            yield f"time to judge: about {format_seconds(self.seconds_judging * self.judged)}"
        if self.seconds_each is None:
            yield "time: not known before the first cell is done"
        else:
            yield f"time to train and measure: about {format_seconds(self.seconds_each * self.trainings)}"


def plan_study(study: Study, cells: Sequence[Cell], folder: Path) -> Plan:
    """Count what is there and what is left."""
    valid = [cell for cell in cells if cell.fault is None]
    left = [cell for cell in valid if not _measured(folder, cell)]
    untrained = [cell for cell in left if not _made(folder, cell, "measure")]
    done = [cell for cell in valid if cell not in left]
    times = [seconds for cell in done if _trains(cell) and (seconds := _seconds(folder, cell))]
    samples = {cell.recipe.corpus.sample for cell in valid if cell.recipe}
    prompts = check_judge(study.judge, study.confidence) if study.judge and left else 0
    pace = _judging_pace(folder, valid)
    steps = {cell.steps or (cell.recipe.train.steps if cell.recipe else None) for cell in valid}
    return Plan(
        cells=len(cells),
        done=len(done),
        invalid=len(cells) - len(valid),
        preparations=len({key for cell in untrained if (key := _preparation(cell)) is not None}),
        trainings=len({_training(cell) for cell in untrained if _trains(cell)}),
        steps=steps.pop() if len(steps) == 1 else None,
        candidates=None if None in samples else max(sample for sample in samples if sample is not None),
        judged=len(left) if study.judge else 0,
        prompts=prompts,
        enough=least_prompts(study.confidence, trials=len({cell.name for cell in cells})),
        seconds_each=sum(times) / len(times) if times else None,
        seconds_judging=None if pace is None else pace * prompts,
    )


def _trains(cell: Cell) -> bool:
    """Tell whether a cell trains a model of its own; one of the base model takes the time of its measuring alone."""
    return cell.arm is not None and cell.arm.data != "base"


def _preparation(cell: Cell) -> str | None:
    """Return what tells preparations apart; None for a cell that needs no candidates."""
    if cell.recipe is None or cell.arm is None or (cell.arm.candidates is None and cell.arm.start == "base"):
        return None
    outside = {"runtime", "mix"} | ({"curate", "rewrite"} if cell.recipe.iterations == 1 else set())
    return fingerprint({key: value for key, value in identity_of(cell.recipe).items() if key not in outside})


def _training(cell: Cell) -> str:
    assert cell.recipe is not None
    assert cell.arm is not None
    arm = {key: value for key, value in identity_of(cell.arm).items() if key != "infer_tags"}
    keys = ("random_seed", "model", "seed", "prompts", "mix", "train")
    recipe = {key: value for key, value in identity_of(cell.recipe).items() if key != "runtime"}
    if cell.arm.candidates is None and cell.arm.start == "base":
        recipe = {key: recipe[key] for key in keys}
        if cell.arm.data.startswith("seed+"):  # of no candidates
            arm |= {"data": "seed", "size": None}
    return fingerprint({"arm": arm, "seed": cell.seed, "steps": cell.steps, "recipe": recipe})


def run_study(study: Study, cells: Sequence[Cell], folder: Path, *, console: Console) -> dict[str, Any]:
    """Make what is not there yet, and return what was found, which is written into the folder too."""
    sources = [given.path for cell in cells if cell.recipe for given in cell.recipe.corpus.inputs]
    if study.measure:
        check_inputs(study.measure.inputs)
    if study.judge:
        check_judge(study.judge, study.confidence)  # a wrong file is told before anything is made
    check_folder(folder, sources, what="study folder", inputs="corpus.inputs", fix="-o FOLDER")
    _check_kind(study, folder)
    with RunDir(folder, what="study folder"):
        for line in plan_study(study, cells, folder).lines():
            console.say(line)
        _check_judges_model(study, cells, folder, console)
        shelf = StageShelf(folder / CELLS)
        failed: list[tuple[Cell, str]] = []
        started, made = time.monotonic(), 0
        left = sum(not _measured(folder, cell) for cell in cells if cell.fault is None)
        for number, cell in enumerate(cells, 1):
            if cell.fault is not None:
                failed.append((cell, cell.fault))
                continue
            fresh = not _measured(folder, cell)
            if fresh:
                console.say(f"cell {number} of {len(cells)}: {cell.name}, seed {cell.seed}")
            if (why := _run(cell, folder, shelf, console)) is not None:
                console.say(f"  failed: {why}")
                failed.append((cell, why))
            shelf.add(folder / CELLS / cell.folder)
            made, left = made + fresh, left - fresh
            if fresh and left:
                passed = time.monotonic() - started
                console.say(
                    f"  {left} cell{'s' if left != 1 else ''} left, about {format_seconds(passed / made * left)} at this pace"
                )
        lost = {id(cell) for cell, _ in failed}
        outcomes = []
        for cell in cells:
            if id(cell) not in lost:
                try:
                    outcomes.append(Outcome(cell, folder / CELLS / cell.folder))
                except StorageError as error:
                    failed.append((cell, str(error)))
        found = build_results(study, outcomes, failed, first=cells[0].name)
        atomic_write(folder / RESULTS, to_json(found))
    return found


def _check_kind(study: Study, folder: Path) -> None:
    """Refuse the folder of a study of the other kind: its results and page would be written over."""
    try:
        found = json.loads((folder / RESULTS).read_bytes())
    except (OSError, ValueError):  # there are none, or half of them: they are made anew
        return
    kind = study_kind(study)
    if found["study"] != kind:
        raise InputError(
            f"study folder {folder} holds the results of a study of {found['study']}, and this is one of {kind}; "
            "name another folder (-o FOLDER)"
        )


def _check_judges_model(study: Study, cells: Sequence[Cell], folder: Path, console: Console) -> None:
    """Refuse a judge that cannot be had before anything is made for it; one that has judged all cells is not asked."""
    for cell in cells:
        if study.judge and cell.recipe and not _measured(folder, cell):
            check_judges_model(study.judge, cell.recipe.runtime, folder, quiet=console.quiet)
            return  # cells differ in what is trained; `runtime` is the study's


def _run(cell: Cell, folder: Path, shelf: StageShelf, console: Console) -> str | None:
    """Run or resume one cell; return why it failed, or None."""
    assert cell.recipe is not None
    runtime = cell.recipe.runtime
    shared = runtime.model_copy(update={"cache": runtime.cache or str(folder / "answers.sqlite")})
    cell = replace(cell, recipe=cell.recipe.model_copy(update={"runtime": shared}))
    path = folder / CELLS / cell.folder
    refusal = path / "failed.json"
    try:
        with RunDir(path, what="cell", rebuild=AFRESH) as run_dir:
            run_cell(cell, run_dir, console, shelf)
            refusal.unlink(missing_ok=True)
    except (LockedError, MissingDependencyError):
        raise  # no fault of the cell: the next would meet it too
    except HumpbackError as error:
        with contextlib.suppress(OSError):  # a full disk must not hide why
            atomic_write(refusal, json.dumps({"why": str(error)}).encode())
        return str(error)
    return None


def _measured(folder: Path, cell: Cell) -> bool:
    stages = ["measure", *([cell.judging] if cell.judging else [])]
    return all(_made(folder, cell, stage) for stage in stages)


def _made(folder: Path, cell: Cell, stage: str) -> bool:
    return cell.fault is None and (folder / CELLS / cell.folder / "arm" / stage / "manifest.json").exists()


def _seconds(folder: Path, cell: Cell) -> float:
    run_dir = RunDir(folder / CELLS / cell.folder)
    try:
        stages = [run_dir.manifest(f"arm/{name}") for name in ("finetune", "measure")]
    except StorageError:  # damaged: the cell itself will say so
        return 0.0
    return sum(stage.seconds for stage in stages if stage)


def _judging_pace(folder: Path, cells: Sequence[Cell]) -> float | None:
    """Return the seconds per prompt that models were judged in so far; None where none was, by this judge."""
    seconds, prompts = 0.0, 0
    for cell in cells:
        if cell.judging and _made(folder, cell, cell.judging):
            with contextlib.suppress(StorageError):  # damaged: the cell itself will say so
                made = RunDir(folder / CELLS / cell.folder).manifest(f"arm/{cell.judging}")
                seconds, prompts = seconds + (made.seconds if made else 0.0), prompts + (made.read if made else 0)
    return seconds / prompts if prompts else None


def check_done(found: dict[str, Any], folder: Path) -> None:
    """Raise for cells that failed, once everything else is told."""
    if not found["cells"]:
        raise InputError(f"no cell of the study in {folder} could be measured; the first: {found['failed'][0]['why']}")
    if not found["pairs"]:
        raise InputError(
            f"the cells of the study in {folder} have measured no pair in common; name the pairs to measure on under measure"
        )
    if found["failed"]:
        raise StoppedError(
            f"{len(found['failed'])} cells failed, the others are told above; the same command tries them again"
        )
