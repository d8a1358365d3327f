"""One method per stage: which part of the recipe, which inputs and which models it depends on, and what it reads and writes.

The methods hold no method of the paper (that is in `stages/`) and no bookkeeping (that is in `runner.py` and `store/`); they
connect the two.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from humpback.corpus.overlap import Overlap, set_files
from humpback.engines import find_contract, find_model
from humpback.engines.base import ModelRef
from humpback.errors import GateError, StorageError
from humpback.evaluation.auditchange import AuditChange, compare_audits
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.candidates import compare_models, describe_scores
from humpback.evaluation.cutoffs import choose_cuts, measure_cuts
from humpback.evaluation.deciding import advise_on_none, direct_score
from humpback.evaluation.gate import check_limits, tell_rates, to_plain
from humpback.evaluation.labels import read_labels
from humpback.evaluation.rating import count_replies
from humpback.evaluation.signals import ENGINE_ERROR, count_calls
from humpback.export.dataset import write_dataset
from humpback.ingesting import dedup_identity, dedup_segments, hash_inputs, ingest_documents, ingest_identity
from humpback.progress import tell_reasons
from humpback.recipe import TrainSettings, identity_of
from humpback.records import Candidate, Example, Pair, Rewritten, Scored, Segment
from humpback.report.build import build_report
from humpback.report.page import write_report
from humpback.runner import Output, Work, to_json
from humpback.seeds.readers import input_files as seed_files
from humpback.seeds.readers import read_pairs
from humpback.sitting import Result, Sitting
from humpback.stages.audit import audit
from humpback.stages.control import draw_control
from humpback.stages.correct import apply_correction, correct, correct_scores
from humpback.stages.curate import curate, decide
from humpback.stages.evaluate import calls_per_pair, evaluate
from humpback.stages.finetune import finetune, take_twin, train_spec
from humpback.stages.gate import CALLS as GATE_CALLS
from humpback.stages.gate import draw_segments, gate
from humpback.stages.human import audit_by_people
from humpback.stages.mix import KeepOut, mix, mix_backward
from humpback.stages.rewrite import CALLS as REWRITE_CALLS
from humpback.stages.rewrite import sum_up
from humpback.stages.stop import judge_iteration
from humpback.stages.table import Course, find_course
from humpback.store.fingerprint import derive_seed, hash_file
from humpback.store.rundir import Counts
from humpback.store.shards import atomic_write, shard_files
from humpback.tasks import AugmentTask, RewriteTask, ScoreTask
from humpback.training.plan import count_data, follow_steps, tell_plan
from humpback.training.sampling import rounded_rows
from humpback.training.spec import TrainResult, TrainSpec, TrainStep

__all__ = ["Rooms"]

JUDGE = "judge.npz"
"""In an audit's folder: its probe and calibration, which the next score stage applies."""


class Rooms(Sitting):
    """The stages of one run."""

    # -- data ------------------------------------------------------------------------------------------------------

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

    # -- models ----------------------------------------------------------------------------------------------------

    def mix_backward(self) -> None:
        def do(folder: Path) -> tuple[Work, Result]:
            rows = mix_backward(self.pairs("train"), self.prompts, self._keep_out)
            return self.stream("backward/mix", rows, Output(folder, "mix", Example)), {}

        instruction_tokens = self.recipe.augment.max_tokens
        identity = {**self.rendering("backward"), **self._kept_out(), "instruction_tokens": instruction_tokens}
        self.stage("backward/mix", identity, inputs=["seed"], models={"base": self.base}, do=do)

    def mix(self, t: int) -> None:
        name, curated = f"iteration-{t}/mix", [self._responses(t)] if t else []

        def do(folder: Path) -> tuple[Work, Result]:
            web = self._curated(t) if t else iter(())
            rows = mix(self.pairs("train"), web, self.prompts, self.recipe.mix, self._keep_out)
            work = self.stream(name, rows, Output(folder, "mix", Example))
            if t and not any(row.origin == "web" for row in self.read(name, "mix", Example)):
                raise GateError(
                    f"{name}: none of the curated pairs can be trained on ({tell_reasons(work.counts)}); "
                    "raise model.max_tokens or lower corpus.max_chars"
                )
            return work, {}

        self.stage(name, self._mixing(), inputs=["seed", *curated], models={"base": self.base}, do=do)

    def draw_control(self) -> None:
        last = f"iteration-{self.course.published}"

        def do(folder: Path) -> tuple[Work, Result]:
            count = sum(row.origin == "web" for row in self.read(f"{last}/mix", "mix", Example))
            rows = draw_control(
                lambda: self.read(f"{last}/score", "scored", Scored), count, random_seed=self.recipe.random_seed
            )
            return self.stream("control/draw", rows, Output(folder, "drawn", Scored)), {}

        identity = {"random_seed": self.recipe.random_seed}
        self.stage("control/draw", identity, inputs=[f"{last}/score", f"{last}/mix"], do=do)

    def mix_control(self) -> None:
        def do(folder: Path) -> tuple[Work, Result]:
            drawn = self.read("control/draw", "drawn", Scored)
            rows = mix(self.pairs("train"), drawn, self.prompts, self.recipe.mix, self._keep_out)
            return self.stream("control/mix", rows, Output(folder, "mix", Example)), {}

        self.stage("control/mix", self._mixing(), inputs=["seed", "control/draw"], models={"base": self.base}, do=do)

    def finetune(
        self,
        room: str,
        *,
        settings: TrainSettings | None = None,
        start: ModelRef | None = None,
        random_seed: int | None = None,
    ) -> None:
        """Train a room's model on its mix: from the base model, as the recipe says, unless a study asks for another way."""
        name, recipe, start = f"{room}/finetune", self.recipe, start or self.base
        settings, random_seed = settings or recipe.train, recipe.random_seed if random_seed is None else random_seed

        def do(folder: Path) -> tuple[Work, Result]:
            data = tuple(shard_files(self.run_dir.folder(f"{room}/mix"), "mix"))
            rows = count_data(data)
            contract = find_contract(Path(start.path))
            spec = train_spec(
                name,
                folder,
                data,
                rounded_rows(rows.draws) if rows.examples else 0,
                start,
                settings,
                recipe.runtime,
                random_seed=random_seed,
                **(dataclasses.asdict(contract) if contract else {}),
            )
            counts = Counts(read=rows.examples, kept=rows.examples)
            for other in self._trained_rooms(room):
                if take_twin(spec, self.run_dir.folder(f"{other}/finetune")):
                    self.console.say(f"  the same rows and training as {other}: its model is taken, not trained again")
                    return Work(counts=counts), {**self.result(f"{other}/finetune"), "same_as": other}
            self.engines.close()  # the trainer needs the memory
            for line in tell_plan(spec, rows):
                self.console.say(f"  {line}")
            with self.console.bar(name, spec.steps, "steps") as bar:
                result = finetune(spec, self._trainer(), follow_steps(bar, self.console))
            model = find_model(spec.output)
            work = Work(counts=counts, seconds=result.seconds)
            return work, {"content_hash": model.content_hash, "training": dataclasses.asdict(result), "same_as": None}

        values = {key: value for key, value in identity_of(settings).items() if key != "preset"}  # a name for values
        identity = {"train": values, "random_seed": random_seed}
        self.stage(name, identity, inputs=[f"{room}/mix"], models={"base": start}, do=do)

    # -- candidates ------------------------------------------------------------------------------------------------

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
            failed = {name: found.reasons.pop(name) for name in ("engine_error",) if name in found.reasons}
            kept = len(chosen) - found.reasons.total() - sum(failed.values())
            return Work(counts=Counts(read=len(chosen), kept=kept, rejected=dict(found.reasons), failed=failed)), result

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

    def audit(self, t: int) -> None:
        name, recipe = f"iteration-{t}/audit", self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            holdout = list(self.pairs("holdout"))
            calls = count_calls(self.signals, samples=recipe.score.samples)
            with self.answers_bar(name, (1 + len(recipe.evaluate.corruptions)) * len(holdout) * calls):
                done = audit(
                    holdout,
                    self.signals,
                    self._score_task(t + 1).raters(),
                    recipe.evaluate,
                    model_name=f"M_{t}",
                    random_seed=recipe.random_seed,
                )
            atomic_write(folder / "audit.json", to_json({**done.verdict, "rows": done.rows}))
            if done.judge:
                atomic_write(folder / JUDGE, done.judge.to_bytes())
            errors = _pairs_with_errors(done.rows)
            failed = {ENGINE_ERROR: len(errors)} if errors else {}
            work = Work(counts=Counts(read=len(holdout), kept=len(holdout) - len(errors), failed=failed))
            return work, {**done.verdict, **self._replies(row["scores"] for row in done.rows)}

        models = {"model": self.model(f"iteration-{t}"), "backward": self.model("backward")}
        identity = {**self.scoring(), **self.statistics(), "corruptions": sorted(recipe.evaluate.corruptions)}
        self.stage(name, identity, inputs=["seed"], models=models, do=do)
        for note in self.result(name)["notes"]:
            self.console.say(f"  audit of {note}")

    def score(self, t: int) -> None:
        name, audited, recipe = f"iteration-{t}/score", f"iteration-{t - 1}/audit", self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            calls = count_calls(self.signals, samples=recipe.score.samples)
            candidates = ("augment", "candidates", Candidate)
            task = self._score_task(t, judge=self._judge_of(audited))
            work = self.map(name, task, candidates, Output(folder, "scored", Scored), calls)
            scores = describe_scores(lambda: self._scored(t), self.signals, self._audit_rows(audited))
            before = compare_models(self._scored(t - 1), self._scored(t), self.signals) if t > 1 else {}
            replies = self._replies(row.scores for row in self._scored(t))
            return work, {"scores": scores, "agreement": before, **replies}

        models = {"model": self.model(f"iteration-{t - 1}"), "backward": self.model("backward")}
        # what was learnt from the audit bears on the scores
        self.stage(name, self.scoring(), inputs=["augment", audited], models=models, do=do)
        for signal, entropy in self.result(name)["scores"]["entropy"].items():
            if entropy["collapsed"]:
                self.console.say(f"  warning: {signal} gives nearly all candidates the same value: it tells none apart")

    def correct(self, t: int) -> None:
        name, source, recipe = f"iteration-{t}/correct", f"iteration-{t}/score", self.recipe
        if not recipe.curate.labels:
            return
        labels = read_labels(self.run_dir.path)

        def do(folder: Path) -> tuple[Work, Result]:
            result = correct(labels, lambda: self._scored(t), recipe.evaluate, random_seed=recipe.random_seed)
            atomic_write(folder / "correction.json", to_json(result))
            count = len(labels.pairs)
            unused = {"no_p_good": result["unscored"]} if result["unscored"] else {}
            return Work(counts=Counts(read=count, kept=result["labels"], rejected=unused)), result

        self.stage(name, {**self.statistics(), "labels": labels.identity()}, inputs=[source], do=do)
        self.console.say(f"  {self.result(name)['told']}")

    def curate(self, t: int) -> None:
        name, source = f"iteration-{t}/curate", f"iteration-{t}/score"
        corrected = [f"iteration-{t}/correct"] if self.recipe.curate.labels else []
        people = self.result(corrected[0]) if corrected else None
        try:
            audited, scores = self.result(f"iteration-{t - 1}/audit"), self.result(source)["scores"]
            decision = decide(self.recipe.curate, audited, scores, people)
        except GateError as error:
            self.run_dir.refuse(name, str(error))
            raise

        def do(folder: Path) -> tuple[Work, Result]:
            rows = curate(lambda: self._corrected(t, people), decision)
            work = self.stream(name, rows, Output(folder, "curated", Scored))
            if not work.counts.kept:
                raise GateError(
                    f"{name}: no candidate passes ({tell_reasons(work.counts)}) with signal {decision.signal}, "
                    f"{decision.policy}={decision.value:g}; {advise_on_none(decision, {**work.counts.rejected, **work.counts.failed})}"
                )
            changed = self._count_changed(t) if t > 1 else None
            return work, {
                **dataclasses.asdict(decision),
                "changed": changed,
                "cuts": self._measure_cuts(t, people, decision.signal),
            }

        kept = ("signal", "policy", "value", "max_per_source", "alike")
        self.stage(
            name,
            {"decision": {field: getattr(decision, field) for field in kept}},
            inputs=[source, *corrected],  # of the audit only the decision bears on the rows
            do=do,
        )
        self.console.say(f"  curated by {decision.signal} ({decision.policy} {decision.value:g}): {decision.why}")
        for warning in decision.warnings:
            self.console.say(f"  warning: {warning}")

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

    def iterations(self) -> Iterator[int]:
        """Yield 1 to T; with `iterations: auto`, each t once the stop stage of the one before it says so."""
        t = 1
        while t <= self.course.iterations:
            yield t
            t += 1

    @property
    def course(self) -> Course:
        return find_course(self.recipe, self.run_dir)

    def stop(self, t: int) -> None:
        name, recipe = f"iteration-{t}/stop", self.recipe
        if recipe.iterations != "auto":
            return
        models = {f"M_{s}": self.model(f"iteration-{s}") for s in (t - 1, t)}
        audits = [f"iteration-{s}/audit" for s in (t - 1, t)]
        signal = self.result(f"iteration-{t}/curate")["signal"]

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = list(self.pairs("holdout"))
            with self.answers_bar(name, 2 * len(pairs)):
                result = judge_iteration(
                    pairs,
                    models,
                    self._compare_audits(audits, signal),
                    self.engine,
                    self.prompts,
                    recipe.evaluate,
                    random_seed=recipe.random_seed,
                    free=self.engines.close,
                )
            failed = {"engine_error": len(result["failed"])} if result["failed"] else {}
            return Work(counts=Counts(read=len(pairs), kept=len(pairs) - sum(failed.values()), failed=failed)), result

        identity = {**self.statistics(), **self.prompt_prints("answer"), "signal": signal}
        self.stage(name, identity, inputs=["seed", *audits], models=models, do=do)
        course = self.course
        ending = f"; M_{course.best} is kept" if course.settled else "; on to the next iteration"
        self.console.say(f"  {self.result(name)['why']}{ending}")

    # -- results ---------------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        forward = {"base": self.base, **{name: self.model(room) for name, room in self._forward_rooms()}}
        backward = {"base": self.base, "M_yx": self.model("backward")}
        recipe = self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = list(self.pairs("holdout"))
            with self.answers_bar("evaluate", len(pairs) * calls_per_pair(len(forward), len(backward))):
                result, per_pair = evaluate(
                    pairs,
                    forward,
                    backward,
                    self.engine,
                    self.prompts,
                    recipe.evaluate,
                    random_seed=recipe.random_seed,
                    free=self.engines.close,
                )
            atomic_write(folder / "evaluation.json", to_json(result))
            atomic_write(folder / "likelihoods.json", to_json(per_pair))
            failed = {"engine_error": len(result["failed"])} if result["failed"] else {}
            return Work(counts=Counts(read=len(pairs), kept=result["pairs"], failed=failed)), result

        models = {**forward, "backward": backward["M_yx"]}
        identity = {**self.statistics(), **self.prompt_prints("answer", "backward")}
        self.stage("evaluate", identity, inputs=["seed"], models=models, do=do)

    def human(self) -> None:
        recipe, audits = self.recipe, [f"iteration-{t}/audit" for t in range(self.course.iterations + 1)]
        if not recipe.evaluate.labels:
            return
        labels = read_labels(self.run_dir.path)

        def do(folder: Path) -> tuple[Work, Result]:
            found, rows = [], []
            calls = count_calls(self.signals, samples=recipe.score.samples)
            with self.answers_bar("human", len(labels.pairs) * len(audits) * calls):
                for t, audited in enumerate(audits):
                    done = audit_by_people(
                        labels,
                        self.signals,
                        self._score_task(t + 1, judge=self._judge_of(audited)).raters(),
                        recipe.evaluate,
                        model_name=f"M_{t}",
                        random_seed=recipe.random_seed,
                    )
                    found.append(done.verdict)
                    rows += done.rows
                    self.engines.close()  # one M_t is in memory at a time
            atomic_write(folder / "human.json", to_json({"models": found, "rows": rows}))
            errors = _pairs_with_errors(rows)
            failed = {ENGINE_ERROR: len(errors)} if errors else {}
            count = len(labels.pairs)
            work = Work(counts=Counts(read=count, kept=count - len(errors), failed=failed))
            return work, {"models": found, **self._replies(row["scores"] for row in rows)}

        models = {f"M_{t}": self.model(f"iteration-{t}") for t in range(len(audits))}
        identity = {**self.scoring(), **self.statistics(), "labels": labels.identity()}
        self.stage(
            "human",
            identity,
            inputs=["augment", *audits],
            models={**models, "backward": self.model("backward")},
            do=do,
        )
        for found in self.result("human")["models"]:
            for note in found["notes"]:
                self.console.say(f"  audit of {note}")

    def dataset(self) -> None:
        last = f"iteration-{self.course.published}"

        def do(folder: Path) -> tuple[Work, Result]:
            counts = write_dataset(
                folder,
                self.pairs("train"),
                lambda: self._curated(self.course.published),
                self.recipe,
                decision=self.result(f"{last}/curate"),
            )
            return Work(counts=counts), {}

        identity = {"prompts": identity_of(self.recipe.prompts)}
        source = self._responses(self.course.published)
        self.stage("dataset", identity, inputs=["seed", source], do=do)

    def report(self) -> None:
        names = [m.name for m in self.complete() if m.name != "report"]

        def do(folder: Path) -> tuple[Work, Result]:
            data = build_report(self.run_dir, self.recipe, self.complete())
            atomic_write(folder / "report.json", to_json(data))
            write_report(folder / "report.html", data)
            return Work(), {}

        self.stage("report", {}, inputs=names, do=do)

    # -- inner ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _keep_out(self) -> KeepOut:
        """What no model may be trained on, loaded when the first mix is made."""
        sets = self.recipe.corpus.decontaminate
        texts = (text for pair in self.pairs("holdout") for text in (pair.instruction, pair.response))
        return KeepOut(Overlap.of_texts("the held-out pairs", texts), Overlap.load(sets) if sets else None)

    def _kept_out(self) -> Result:
        files = set_files(self.recipe.corpus.decontaminate)
        return {"evaluation_sets": [[path.name, hash_file(path)] for path in files]} if files else {}

    def _mixing(self) -> Result:
        return {**self.rendering("answer"), **self._kept_out(), "mix": identity_of(self.recipe.mix)}

    def _scored(self, t: int) -> Iterator[Scored]:
        return self.read(f"iteration-{t}/score", "scored", Scored)

    def _responses(self, t: int) -> str:
        """Return the stage whose responses M_t learns."""
        return f"iteration-{t}/{'rewrite' if self.recipe.rewrite.enabled else 'curate'}"

    def _curated(self, t: int) -> Iterator[Scored]:
        if self.recipe.rewrite.enabled:
            return self.read(self._responses(t), "rewritten", Rewritten)
        return self.read(self._responses(t), "curated", Scored)

    def _corrected(self, t: int, people: Mapping[str, Any] | None) -> Iterator[Scored]:
        """Yield the scored candidates, their P(good) corrected where human labels were enough."""
        rows = self._scored(t)
        return apply_correction(rows, people["correction"]) if people and people["correction"] else rows

    def _measure_cuts(self, t: int, people: Mapping[str, Any] | None, signal: str) -> list[dict[str, Any]]:
        """Return precision and recall of every signal on the audit's rows, where iteration t cuts it."""
        name, evaluate = f"iteration-{t}/curate", self.recipe.evaluate
        kept = [direct_score(signal, row.scores[signal]) for row in self.read(name, "curated", Scored)]
        cuts = choose_cuts(
            (row.scores for row in self._corrected(t, people)),
            [*self.signals, P_GOOD],
            len(kept) / sum(1 for _ in self._scored(t)),
            decided=(signal, direct_score(signal, min(kept))),
            threshold=self.recipe.curate.threshold,
        )
        rows = self._audit_rows(f"iteration-{t - 1}/audit")
        if people and people["correction"]:
            rows = correct_scores(rows, people["correction"])
        seed = derive_seed(self.recipe.random_seed, "audit-bootstrap")
        return measure_cuts(rows, cuts, resamples=evaluate.resamples, confidence=evaluate.confidence, seed=seed)

    def _audit_rows(self, stage: str) -> list[dict[str, Any]]:
        path = self.run_dir.folder(stage) / "audit.json"
        try:
            rows: list[dict[str, Any]] = json.loads(path.read_bytes())["rows"]
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(f"{path} cannot be read ({error}); run again with --rerun-from {stage}") from error
        return rows

    def _compare_audits(self, stages: list[str], signal: str) -> AuditChange:
        before, now = (self._audit_rows(stage) for stage in stages)
        evaluate = self.recipe.evaluate
        return compare_audits(
            before,
            now,
            signal,
            resamples=evaluate.resamples,
            confidence=evaluate.confidence,
            seed=derive_seed(self.recipe.random_seed, "audit-bootstrap"),
        )

    def _judge_of(self, stage: str) -> Path | None:
        """Return the file of what an audit has learnt, None where it was too small to learn anything."""
        return self.run_dir.folder(stage) / JUDGE if self.result(stage)["calibration"] else None

    def _count_changed(self, t: int) -> Result:
        """Return how many candidates changed sides between the last curation and this one."""
        before, now = ({row.id for row in self.read(f"iteration-{i}/curate", "curated", Scored)} for i in (t - 1, t))
        return {"left": len(before - now), "joined": len(now - before), "stayed": len(before & now)}

    def _score_task(self, t: int, *, judge: Path | None = None) -> ScoreTask:
        return ScoreTask(
            judge=judge,
            model=self.spec(self.model(f"iteration-{t - 1}")),
            backward=self.spec(self.model("backward")),
            prompts=self.prompt_spec,
            settings=self.recipe.score,
            random_seed=self.recipe.random_seed,
            iteration=t,
            engines=self.engines,
        )

    def _replies(self, scores: Iterable[Mapping[str, float]]) -> Result:
        """Return what came of the sampled ratings among these scores; nothing, and nothing read, where none were drawn."""
        return {"replies": count_replies(scores)} if "sampled_rating" in self.signals else {}

    def _trained_rooms(self, room: str) -> list[str]:
        rooms = [name for _, name in self._forward_rooms() if name != room]
        return [name for name in rooms if self.run_dir.manifest(f"{name}/finetune")]

    def _forward_rooms(self) -> list[tuple[str, str]]:
        rooms = [(f"M_{t}", f"iteration-{t}") for t in range(self.course.iterations + 1)]
        return [*rooms, ("control", "control")] if self.recipe.evaluate.control else rooms

    def _trainer(self) -> Callable[[TrainSpec, Callable[[TrainStep], None] | None], TrainResult]:
        if self.recipe.runtime.engine == "fake":
            from humpback.training.fake import train_fake

            return lambda spec, on_step: train_fake(spec)
        if command := self.recipe.train.command:
            from humpback.training.own import train_by_command

            return lambda spec, on_step: train_by_command(spec, command, on_step=on_step)
        from humpback.training.launch import train

        return lambda spec, on_step: train(spec, on_step=on_step)


def _pairs_with_errors(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the pairs of an audit on which an engine failed."""
    return {row["pair_id"] for row in rows if any(why.startswith(ENGINE_ERROR) for why in row["missing"].values())}
