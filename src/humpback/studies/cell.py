"""One cell: a run up to its candidates and what curation keeps of them, and then the arm: draw, mix, train, measure.

The stages of the arm have identities, manifests and counts as all stages have; they lie in `arm/` of the cell's run folder.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from humpback.corpus.dedup import normalise
from humpback.corpus.overlap import Overlap
from humpback.errors import GateError, StageError
from humpback.evaluation.likelihood import Likelihoods, response_nll
from humpback.ingesting import hash_inputs
from humpback.pipeline import write_candidates
from humpback.progress import Console
from humpback.prompts import Prompts
from humpback.recipe import SeedSettings, TrainSettings, identity_of
from humpback.records import Example, Pair, Rejected, Rewritten, Scored
from humpback.rooms import Rooms
from humpback.runner import Output, Work, to_json
from humpback.seeds.readers import input_files as seed_files
from humpback.seeds.readers import read_pairs
from humpback.sitting import Result, Shelf
from humpback.stages.control import draw_control
from humpback.stages.mix import KeepOut, mix
from humpback.stages.rejecting import reject
from humpback.store.fingerprint import derive_seed
from humpback.store.rundir import Counts, RunDir
from humpback.store.shards import atomic_write
from humpback.studies.grid import Arm, Cell

__all__ = ["LIKELIHOODS", "CellRooms", "run_cell"]

LIKELIHOODS = "likelihoods.json"
LEAST_HOLDOUT = 8
"""`read_pairs` splits what it reads; both splits are measured on."""


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


class CellRooms(Rooms):
    """The stages of one cell."""

    def __init__(self, cell: Cell, run_dir: RunDir, console: Console, shelf: Shelf) -> None:
        assert cell.recipe is not None
        assert cell.arm is not None
        super().__init__(cell.recipe, run_dir, console, shelf=shelf)
        self.cell = cell
        self.arm: Arm = cell.arm
        assert self.recipe.iterations != "auto"
        self.last = self.recipe.iterations

    @property
    def needs_curated(self) -> bool:
        """Whether the last curation says what, or how much, is trained on."""
        return self.arm.candidates == "curated" or (self.arm.candidates == "uncurated" and self.arm.size is None)

    # -- data ------------------------------------------------------------------------------------------------------

    def choose_pairs(self) -> None:
        """Keep the pairs to measure on that are none of the seed's."""
        measured, random_seed = self.cell.measure, self.recipe.random_seed
        if measured is None:
            return
        settings = SeedSettings(
            inputs=measured.inputs,
            sample=measured.sample,
            holdout=LEAST_HOLDOUT,
            max_response_chars=self.recipe.seed.max_response_chars,
        )

        def rows() -> Iterator[Pair | Rejected]:
            seed = list(self.read("seed", "pairs", Pair))
            held = {normalise(text) for pair in seed for text in (pair.instruction, pair.response)}
            for row in read_pairs(settings, random_seed=random_seed):
                if isinstance(row, Pair) and (normalise(row.instruction) in held or normalise(row.response) in held):
                    yield reject(row, "in_seed", "the run's seed holds its instruction or its response")
                else:
                    yield row

        def do(folder: Path) -> tuple[Work, Result]:
            return self.stream("arm/pairs", rows(), Output(folder, "pairs", Pair)), {}

        identity = {
            "measure": identity_of(measured),
            "random_seed": random_seed,
            "files": hash_inputs(measured.inputs, seed_files),
            "max_response_chars": settings.max_response_chars,
        }
        self.stage("arm/pairs", identity, inputs=["seed"], do=do)

    def draw(self) -> None:
        """Draw the arm's candidates, by the hash of their ids and the cell's seed: smaller draws lie in larger ones."""
        if self.arm.candidates is None or (self.arm.candidates == "curated" and self.arm.size is None):
            return
        sources = [self._responses(self.last)] if self.needs_curated else []
        sources += [f"iteration-{self.last}/score"] if self.arm.candidates == "uncurated" else []
        kind = Rewritten if self.recipe.rewrite.enabled and self.arm.candidates == "curated" else Scored

        def do(folder: Path) -> tuple[Work, Result]:
            count = self.arm.size
            count = sum(1 for _ in self._curated(self.last)) if count is None else count
            work = self.stream(
                "arm/draw",
                draw_control(self._pool, count, random_seed=self.cell.seed),
                Output(folder, "drawn", kind),
            )
            if work.counts.kept < count:
                raise GateError(
                    f"size={count}: there are only {work.counts.kept} {self.arm.candidates} candidates; "
                    "give a smaller size, more documents, or a curation that keeps more"
                )
            return work, {}

        identity = {"draw": self.arm.candidates, "size": self.arm.size, "random_seed": self.cell.seed}
        self.stage("arm/draw", identity, inputs=sources, do=do)

    def _pool(self) -> Iterator[Scored]:
        return self._curated(self.last) if self.arm.candidates == "curated" else self._scored(self.last)

    def mix_arm(self) -> None:
        """Render what the arm's model is trained on."""
        drawn = self.run_dir.folder("arm/draw").exists()
        sources = ["seed"] + (["arm/pairs"] if self.cell.measure else [])
        if self.arm.candidates is not None:
            sources.append("arm/draw" if drawn else self._responses(self.last))
        sampled = self.arm.data == "seed" and self.arm.size is not None

        def do(folder: Path) -> tuple[Work, Result]:
            curated = self._candidates(drawn=drawn)
            rows = mix(self._seed_pairs(), curated, self._tagged, self.recipe.mix, self._arm_keep_out)
            work = self.stream("arm/mix", rows, Output(folder, "mix", Example))
            if not work.counts.kept:
                raise GateError(f"nothing is left to train on (data={self.arm.data}, size={self.arm.size})")
            return work, {}

        prints = {"answer": self._tagged.fingerprint()["answer"]}
        identity = {
            **self._kept_out(),
            "prompts": prints,
            "max_tokens": self.recipe.model.max_tokens,
            "mix": identity_of(self.recipe.mix),
            "seed": self.arm.uses_seed,
            "size": [self.arm.size, self.cell.seed] if sampled else None,
        }
        self.stage("arm/mix", identity, inputs=sources, models={"base": self.base}, do=do)

    def _seed_pairs(self) -> Iterator[Pair]:
        if not self.arm.uses_seed:
            return iter(())
        if self.arm.data != "seed" or self.arm.size is None:
            return self.pairs("train")
        pairs = sorted(self.pairs("train"), key=lambda pair: derive_seed(self.cell.seed, "seed-size", pair.id))
        if len(pairs) < self.arm.size:
            raise GateError(f"size={self.arm.size}: there are only {len(pairs)} seed pairs; give a smaller size")
        return iter(pairs[: self.arm.size])

    def _candidates(self, *, drawn: bool) -> Iterator[Scored]:
        if self.arm.candidates is None:
            return iter(())
        if not drawn:
            return self._curated(self.last)
        kind = Rewritten if self.recipe.rewrite.enabled and self.arm.candidates == "curated" else Scored
        return self.read("arm/draw", "drawn", kind)

    @functools.cached_property
    def _tagged(self) -> Prompts:
        """The prompts that the arm is trained with."""
        a, w = self.prompt_spec.seed_tag, self.prompt_spec.web_tag
        tags = {"both": (a, w), "seed": (a, a), "web": (w, w), "none": ("", "")}[self.arm.train_tags]
        return replace(self.prompt_spec, seed_tag=tags[0], web_tag=tags[1]).bind(self.engines.get(self.spec(self.base)))

    @functools.cached_property
    def _arm_keep_out(self) -> KeepOut:
        texts = (text for pair in self._measured() for text in (pair.instruction, pair.response))
        held = (text for pair in self.pairs("holdout") for text in (pair.instruction, pair.response))
        overlap = Overlap.of_texts("the pairs measured on", itertools.chain(texts, held))
        return self._keep_out._replace(holdout=overlap)

    def _measured(self) -> list[Pair]:
        return list(self.read("arm/pairs", "pairs", Pair) if self.cell.measure else self.pairs("holdout"))

    # -- model -----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train the arm's model, for as many steps as the study says."""
        settings: TrainSettings = self.recipe.train
        if self.cell.steps is not None:
            settings = settings.model_copy(update={"steps": self.cell.steps, "epochs": None})
        start = self.base if self.arm.start == "base" else self.model(f"iteration-{self.last - 1}")
        self.finetune("arm", settings=settings, start=start, random_seed=self.cell.seed)

    def measure(self) -> None:
        """Measure the likelihood of every response, after its instruction and after none, under the arm's tags."""
        model = self.base if self.arm.data == "base" else self.model("arm")
        prompts = self.prompts
        tag = {"both": prompts.both_tags, "seed": prompts.seed_tag, "web": prompts.web_tag, "none": ""}

        def do(folder: Path) -> tuple[Work, Result]:
            pairs, engine = self._measured(), self.engine(model)
            with self.answers_bar("arm/measure", 2 * len(pairs)):
                given = response_nll(pairs, engine, prompts, tag[self.arm.infer_tags])
                bare = [replace(pair, instruction="") for pair in pairs]
                alone = response_nll(bare, engine, prompts, tag[self.arm.infer_tags])
            atomic_write(folder / LIKELIHOODS, to_json({"given": asdict(given), "alone": asdict(alone)}))
            failed = _count_failed(given, alone)
            if failed == len(pairs):
                raise StageError("no pair has a likelihood; use shorter pairs to measure on")
            errors = {"engine_error": failed} if failed else {}
            return Work(counts=Counts(read=len(pairs), kept=len(pairs) - failed, failed=errors)), {}

        identity: Mapping[str, Any] = {"tag": tag[self.arm.infer_tags], **self.prompt_prints("answer")}
        source = "arm/pairs" if self.cell.measure else "seed"
        self.stage("arm/measure", identity, inputs=[source], models={"model": model}, do=do)

    def _refuse_stale(self, name: str) -> None:
        if not name.startswith(
            "arm/"
        ):  # an arm's stages are none of the recipe's; its folder is named by all that it is
            super()._refuse_stale(name)


def _count_failed(given: Likelihoods, alone: Likelihoods) -> int:
    return sum(bool(one or other) for one, other in zip(given.errors, alone.errors, strict=True))
