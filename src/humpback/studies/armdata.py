"""What an arm is trained on and measured with: the pairs measured on, the candidates drawn, and the rendered rows.

In: a cell whose candidates are scored. Out: stages `arm/pairs`, `arm/draw` and `arm/mix`. Arms draw from what can be trained on, under
the recipe's own tags, so arms that are compared learn from the same number of candidates, and those of other tags from the same ones.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from humpback.corpus.dedup import normalise
from humpback.corpus.overlap import Overlap
from humpback.errors import GateError
from humpback.ingesting import hash_inputs
from humpback.progress import Console, tell_reasons
from humpback.prompts import Prompts
from humpback.recipe import identity_of
from humpback.records import Example, Pair, Rejected, Rewritten, Scored
from humpback.rooms import Rooms
from humpback.runner import Output, Work
from humpback.seeds.readers import input_files as seed_files
from humpback.seeds.readers import read_distinct
from humpback.sitting import Result, Shelf
from humpback.stages.control import draw_control, draw_worst
from humpback.stages.mix import KeepOut, mix, unfit_to_train
from humpback.stages.rejecting import reject
from humpback.store.fingerprint import derive_seed
from humpback.store.rundir import RunDir
from humpback.studies.grid import Arm, Cell

__all__ = ["ArmRooms"]


class ArmRooms(Rooms):
    """The stages that bring a cell's data together."""

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
        kind = self.arm.candidates
        return kind in ("curated", "worst") or (kind == "uncurated" and self.arm.size is None)

    def choose_pairs(self) -> None:
        """Keep the pairs to measure on: a sample of those that are none of the seed's."""
        measured, longest = self.cell.measure, self.recipe.seed.max_response_chars
        if measured is None:
            return

        def rows() -> Iterator[Pair | Rejected]:
            held = {
                normalise(text)
                for pair in self.read("seed", "pairs", Pair)
                for text in (pair.instruction, pair.response)
            }
            fresh: list[Pair] = []
            for row in read_distinct(measured.inputs, longest):
                if isinstance(row, Rejected):
                    yield row
                elif normalise(row.instruction) in held or normalise(row.response) in held:
                    yield reject(row, "in_seed", "the run's seed holds its instruction or its response")
                else:
                    fresh.append(row)
            # not the seed's own draw: from the same file that would take the pairs of the seed
            fresh.sort(key=lambda pair: derive_seed(self.recipe.random_seed, "measure", pair.id))
            yield from fresh[: measured.sample]
            for row in fresh[len(fresh) if measured.sample is None else measured.sample :]:
                yield reject(
                    row, "not_sampled", f"not among the measure.sample={measured.sample} pairs chosen by content hash"
                )

        def do(folder: Path) -> tuple[Work, Result]:
            work = self.stream("arm/pairs", rows(), Output(folder, "pairs", Pair))
            if not work.counts.kept:
                names = ", ".join(given.path for given in measured.inputs)
                raise GateError(
                    f"no pair to measure on is left in {names} ({tell_reasons(work.counts)}); name pairs under measure "
                    "that the seed does not hold"
                )
            return work, {}

        identity = {
            "measure": identity_of(measured),
            "random_seed": self.recipe.random_seed,
            "files": hash_inputs(measured.inputs, seed_files),
            "max_response_chars": longest,
        }
        self.stage("arm/pairs", identity, inputs=["seed"], do=do)

    # -- candidates ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw the arm's candidates, by the hash of their ids and the cell's seed: smaller draws lie in larger ones."""
        kind, size = self.arm.candidates, self.arm.size
        if kind is None or (kind == "curated" and size is None):
            return
        sources = ["seed"] + (["arm/pairs"] if self.cell.measure else [])
        sources += [self._responses(self.last), f"iteration-{self.last}/curate"] if self.needs_curated else []
        sources += [] if kind == "curated" else [f"iteration-{self.last}/score"]

        def do(folder: Path) -> tuple[Work, Result]:
            count = sum(self._unfit(row) is None for row in self._curated(self.last)) if size is None else size
            work = self.stream("arm/draw", self._draw(count), Output(folder, "drawn", self._drawn_kind))
            if work.counts.kept < count:
                raise GateError(
                    f"size={count}: there are only {work.counts.kept} {kind} candidates that can be trained on; "
                    "give a smaller size, more documents, or a curation that keeps more"
                )
            return work, {}

        identity = {"draw": kind, "size": size, "random_seed": self.cell.seed, **self._mixing()}
        self.stage("arm/draw", identity, inputs=list(dict.fromkeys(sources)), models={"base": self.base}, do=do)

    def _draw(self, count: int) -> Iterator[Scored | Rejected]:
        seed = self.cell.seed
        if self.arm.candidates != "worst":
            pool = self._curated if self.arm.candidates == "curated" else self._scored
            return draw_control(lambda: pool(self.last), count, random_seed=seed, unfit=self._unfit)
        name = f"iteration-{self.last}/curate"
        curated = {row.id for row in self.read(name, "curated", Scored)}
        people = self.result(f"iteration-{self.last}/correct") if self.recipe.curate.labels else None
        return draw_worst(
            lambda: self._corrected(self.last, people),
            sum(self._unfit(row) is None for row in self._curated(self.last)),
            signal=self.result(name)["signal"],
            curated=curated,
            size=self.arm.size,
            random_seed=seed,
            unfit=self._unfit,
        )

    @property
    def _drawn_kind(self) -> type[Scored]:
        return Rewritten if self.recipe.rewrite.enabled and self.arm.candidates == "curated" else Scored

    def _unfit(self, row: Scored) -> Rejected | None:
        return unfit_to_train(row, self.prompts, self.recipe.mix, self._arm_keep_out)

    # -- rows ------------------------------------------------------------------------------------------------------

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
        return self.read("arm/draw", "drawn", self._drawn_kind)

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
