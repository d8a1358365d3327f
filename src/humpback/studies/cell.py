"""One cell: a run up to its candidates and what curation keeps of them, and then the arm: draw, mix, train, measure.

The stages of the arm have identities, manifests and counts as all stages have; they lie in `arm/` of the cell's run folder. What it
is trained on and measured with is in `armdata.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from humpback.engines.base import ModelRef
from humpback.errors import StageError
from humpback.evaluation.likelihood import Likelihoods, response_nll
from humpback.pipeline import write_candidates
from humpback.progress import Console
from humpback.recipe import TrainSettings
from humpback.runner import Work, to_json
from humpback.sitting import Result, Shelf
from humpback.store.rundir import Counts, RunDir
from humpback.store.shards import atomic_write
from humpback.studies.grid import Cell
from humpback.studies.judging import JudgingRooms

__all__ = ["LIKELIHOODS", "CellRooms", "run_cell"]

LIKELIHOODS = "likelihoods.json"


def run_cell(cell: Cell, run_dir: RunDir, console: Console, shelf: Shelf) -> None:
    """Make, train and measure one cell, or resume it."""
    rooms = CellRooms(cell, run_dir, console, shelf)
    try:
        rooms.seed()
        rooms.choose_pairs()
        if rooms.arm.candidates is not None or rooms.arm.start == "continued":
            _curate(rooms)
        if rooms.arm.data != "base":
            rooms.draw()
            rooms.mix_arm()
            rooms.train()
        rooms.measure()
        rooms.judge(rooms.measured_model, rooms.measured_tag)
        rooms.write_recipe()
    finally:
        rooms.close()


def _curate(rooms: CellRooms) -> None:
    """Make the candidates and what the last iteration keeps of them; the model after that is the arm."""
    write_candidates(rooms)
    for t in range(1, rooms.last + 1):
        rooms.score(t)
        if t < rooms.last or rooms.needs_curated:
            rooms.correct(t)
            rooms.curate(t)
            rooms.rewrite(t)
        if t < rooms.last:
            rooms.mix(t)
            rooms.finetune(f"iteration-{t}")
            rooms.audit(t)


class CellRooms(JudgingRooms):
    """The stages of one cell."""

    def train(self) -> None:
        """Train the arm's model, for as many steps as the study says."""
        settings: TrainSettings = self.recipe.train
        if self.cell.steps is not None:
            settings = settings.model_copy(update={"steps": self.cell.steps, "epochs": None})
        start = self.base if self.arm.start == "base" else self.model(f"iteration-{self.last - 1}")
        self.finetune("arm", settings=settings, start=start, random_seed=self.cell.seed)

    @property
    def measured_model(self) -> ModelRef:
        """The arm's model."""
        return self.base if self.arm.data == "base" else self.model("arm")

    @property
    def measured_tag(self) -> str:
        """The tag sentences it is asked with."""
        prompts = self.prompts
        tags = {"both": prompts.both_tags, "seed": prompts.seed_tag, "web": prompts.web_tag, "none": ""}
        return tags[self.arm.infer_tags]

    def measure(self) -> None:
        """Measure the likelihood of every response, after its instruction and after none, under the arm's tags."""
        model, tag, prompts = self.measured_model, self.measured_tag, self.prompts

        def do(folder: Path) -> tuple[Work, Result]:
            pairs, engine = self._measured(), self.engine(model)
            with self.answers_bar("arm/measure", 2 * len(pairs)):
                given = response_nll(pairs, engine, prompts, tag)
                bare = [replace(pair, instruction="") for pair in pairs]
                alone = response_nll(bare, engine, prompts, tag)
            atomic_write(folder / LIKELIHOODS, to_json({"given": asdict(given), "alone": asdict(alone)}))
            failed = _count_failed(given, alone)
            if failed == len(pairs):
                raise StageError("no pair has a likelihood; use shorter pairs to measure on")
            errors = {"engine_error": failed} if failed else {}
            return Work(counts=Counts(read=len(pairs), kept=len(pairs) - failed, failed=errors)), {}

        identity: Mapping[str, Any] = {"tag": tag, **self.prompt_prints("answer")}
        source = "arm/pairs" if self.cell.measure else "seed"
        self.stage("arm/measure", identity, inputs=[source], models={"model": model}, do=do)

    def _refuse_stale(self, name: str) -> None:
        if not name.startswith(
            "arm/"
        ):  # an arm's stages are none of the recipe's; its folder is named by all that it is
            super()._refuse_stale(name)


def _count_failed(given: Likelihoods, alone: Likelihoods) -> int:
    return sum(bool(one or other) for one, other in zip(given.errors, alone.errors, strict=True))
