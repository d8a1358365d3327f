"""The stages that make the data: seed pairs, segments, an instruction for each, and responses written anew."""

from __future__ import annotations

from pathlib import Path

from humpback.errors import GateError
from humpback.evaluation.gate import check_limits, tell_rates, to_plain
from humpback.evaluation.signals import ENGINE_ERROR
from humpback.ingesting import dedup_identity, dedup_segments, hash_inputs, ingest_documents, ingest_identity
from humpback.progress import tell_reasons
from humpback.recipe import identity_of
from humpback.records import Candidate, Pair, Rewritten, Scored, Segment
from humpback.rooms.base import RoomBase, count_answered
from humpback.runner import Output, Work, to_json
from humpback.seeds.readers import input_files as seed_files
from humpback.seeds.readers import read_pairs
from humpback.sitting import Result
from humpback.stages.gate import CALLS as GATE_CALLS
from humpback.stages.gate import draw_segments, gate
from humpback.stages.rewrite import CALLS as REWRITE_CALLS
from humpback.stages.rewrite import sum_up
from humpback.store.shards import atomic_write
from humpback.tasks import AugmentTask, RewriteTask

__all__ = ["CandidateRooms"]


class CandidateRooms(RoomBase):
    """From files to pairs and candidates."""

    def seed(self) -> None:
        settings = self.recipe.seed

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = read_pairs(settings, random_seed=self.recipe.random_seed)
            return self.stream("seed", pairs, Output(folder, "pairs", Pair)), {}

        files = hash_inputs(settings.inputs, seed_files)
        identity = {"seed": identity_of(settings), "random_seed": self.recipe.random_seed, "files": files}
        self.stage("seed", identity, do=do)

    def ingest(self) -> None:
        settings = self.recipe.corpus

        def do(folder: Path) -> tuple[Work, Result]:
            work = ingest_documents(settings, folder, executor=self.executor, console=self.console)
            return work, {"tally": dict(sorted(work.tally.items()))}

        self.stage("ingest", ingest_identity(settings), do=do)

    def dedup(self) -> None:
        settings, random_seed = self.recipe.corpus, self.recipe.random_seed

        def do(folder: Path) -> tuple[Work, Result]:
            source, rows = self.run_dir.folder("ingest"), self.recipe.runtime.shard_rows
            with self.console.bar("dedup", None, "rows") as bar:
                return dedup_segments(settings, random_seed, source, folder, shard_rows=rows, bar=bar), {}

        self.stage("dedup", dedup_identity(settings, random_seed), inputs=["ingest"], do=do)

    def gate(self) -> None:
        backward, recipe = self.model("backward"), self.recipe
        if not recipe.gate.segments:
            return

        def do(folder: Path) -> tuple[Work, Result]:
            segments = self.read("dedup", "segments", Segment)
            chosen = draw_segments(segments, recipe.gate.segments, random_seed=recipe.random_seed)
            engine = self.engines.get(self.spec(backward))
            with self.answers_bar("backward/gate", len(chosen) * GATE_CALLS):
                found = gate(
                    chosen,
                    engine,
                    self.prompt_spec.bind(engine),
                    recipe.augment,
                    random_seed=recipe.random_seed,
                )
            result = {"measures": [to_plain(m) for m in found.measures], "mean_lift": found.mean_lift}
            atomic_write(folder / "gate.json", to_json({**result, "drafts": found.drafts}))
            check_limits(result, recipe.gate)
            counts = count_answered(len(chosen), found.reasons.pop(ENGINE_ERROR, 0))
            counts.rejected = dict(found.reasons)
            counts.kept -= found.reasons.total()
            return Work(counts=counts), result

        identity = {
            "augment": identity_of(recipe.augment),
            "segments": recipe.gate.segments,  # the limits are no part of what is measured
            "random_seed": recipe.random_seed,
            **self.prompt_prints("backward"),
        }
        self.stage("backward/gate", identity, inputs=["dedup"], models={"backward": backward}, do=do)
        check_limits(self.result("backward/gate"), recipe.gate)
        self.console.say(f"  gate: {tell_rates(self.result('backward/gate'))}")

    def augment(self) -> None:
        backward, recipe = self.model("backward"), self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            task = AugmentTask(
                backward=self.spec(backward),
                prompts=self.prompt_spec,
                settings=recipe.augment,
                random_seed=recipe.random_seed,
                engines=self.engines,
            )
            work = self.map("augment", task, ("dedup", "segments", Segment), Output(folder, "candidates", Candidate), 1)
            if not work.counts.kept:
                raise GateError(
                    f"the backward model wrote no usable instruction ({tell_reasons(work.counts)}); read "
                    f"{folder}/rejected-*.parquet, and give more seed pairs or train longer (train.epochs)"
                )
            return work, {}

        identity = {
            "augment": identity_of(recipe.augment),
            "random_seed": recipe.random_seed,
            **self.prompt_prints("backward"),
        }
        self.stage("augment", identity, inputs=["dedup"], models={"backward": backward}, do=do)

    def rewrite(self, t: int) -> None:
        name, source, recipe = f"iteration-{t}/rewrite", f"iteration-{t}/curate", self.recipe
        if not recipe.rewrite.enabled:
            return

        def do(folder: Path) -> tuple[Work, Result]:
            task = RewriteTask(scoring=self._score_task(t), settings=recipe.rewrite)
            work = self.map(
                name, task, (source, "curated", Scored), Output(folder, "rewritten", Rewritten), REWRITE_CALLS
            )
            return work, sum_up(self.read(name, "rewritten", Rewritten))

        identity = {
            "rewrite": identity_of(recipe.rewrite),
            "random_seed": recipe.random_seed,
            **self.prompt_prints("rewrite", "answer"),
        }
        self.stage(name, identity, inputs=[source], models={"model": self.model(f"iteration-{t - 1}")}, do=do)
        self.console.say(f"  {self.result(name)['told']}")
