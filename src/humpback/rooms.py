"""One method per stage: which part of the recipe, which inputs and which models it depends on, and what it reads and writes.

The methods hold no method of the paper (that is in `stages/`) and no bookkeeping (that is in `runner.py` and `store/`); they
connect the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from humpback.corpus.readers import input_files as corpus_files
from humpback.corpus.readers import read_documents
from humpback.engines import EngineSpec, find_model, resolve_model
from humpback.engines.base import EngineTotals, ModelRef
from humpback.errors import GateError, InputError, StorageError
from humpback.evaluation.likelihood import compare, instruction_nll, response_nll
from humpback.evaluation.signals import SIGNALS
from humpback.executor import Executor, PoolExecutor, SerialExecutor
from humpback.export.dataset import write_dataset
from humpback.progress import Bar, Console, format_seconds
from humpback.prompts import RUBRIC
from humpback.recipe import Recipe, dump_recipe, identity_of, read_rubric
from humpback.records import Candidate, Example, Pair, Record, Scored, Segment
from humpback.report.build import build_report
from humpback.report.page import write_report
from humpback.runner import Output, Work, environment, run_map, run_stream
from humpback.seeds.readers import input_files as seed_files
from humpback.seeds.readers import read_pairs
from humpback.stages.audit import audit
from humpback.stages.control import draw_control
from humpback.stages.curate import curate, decide
from humpback.stages.dedup import dedup
from humpback.stages.finetune import finetune, train_spec
from humpback.stages.mix import mix, mix_backward
from humpback.stages.table import stage_names
from humpback.store.fingerprint import hash_file
from humpback.store.rundir import Counts, Manifest, RunDir
from humpback.store.shards import atomic_write, count_rows, read_records, shard_files
from humpback.tasks import AugmentTask, Engines, IngestTask, PromptSpec, ScoreTask
from humpback.training.spec import TrainResult, TrainSpec, TrainStep

__all__ = ["Rooms"]

STAGE_VERSION = 1
"""Part of every stage's identity; raised when the same recipe would give other rows."""

R = TypeVar("R", bound=Record)
Result = dict[str, Any]
Do = Callable[[Path], tuple[Work, Result]]


class Rooms:
    """The stages of one run, bound to its recipe and folder."""

    def __init__(self, recipe: Recipe, run_dir: RunDir, console: Console) -> None:
        self.recipe, self.run_dir, self.console = recipe, run_dir, console
        self.worked = False
        runtime = recipe.runtime
        cache = Path(runtime.model_cache) if runtime.model_cache else Path.home() / ".cache" / "humpback"
        self.base = resolve_model(recipe.model.base, cache)
        self.engines = Engines()
        self.executor: Executor = PoolExecutor(runtime.workers) if runtime.workers > 1 else SerialExecutor()
        self.prompt_spec = PromptSpec(
            max_tokens=recipe.model.max_tokens,
            instruction_tokens=recipe.augment.max_tokens,
            rubric=read_rubric(recipe.prompts) or RUBRIC,
            seed_tag=recipe.prompts.seed_tag,
            web_tag=recipe.prompts.web_tag,
        )
        engine = self.engines.get(self._spec(self.base))
        try:
            self.prompts = self.prompt_spec.bind(engine)
        except ValueError as error:
            raise InputError(f"model.base={recipe.model.base}: {error}; use another base model") from error
        lacking = [name for name in recipe.score.signals if SIGNALS[name].needs not in engine.capabilities]
        if lacking:
            raise InputError(f"engine {runtime.engine} cannot compute score.signals={lacking}; remove them or change it")

    def close(self) -> None:
        self.engines.close()

    def write_recipe(self) -> None:
        """Write the recipe, every default spelled out, unless it is there already."""
        path, text = self.run_dir.path / "recipe.yaml", dump_recipe(self.recipe).encode()
        if not path.exists() or path.read_bytes() != text:
            atomic_write(path, text)

    # -- data ------------------------------------------------------------------------------------------------------

    def seed(self) -> None:
        settings = self.recipe.seed
        files = {str(path): hash_file(path) for path in seed_files(settings.inputs)}

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = read_pairs(settings, random_seed=self.recipe.random_seed)
            return self._stream("seed", pairs, Output(folder, "pairs", Pair)), {}

        identity = {"seed": identity_of(settings), "random_seed": self.recipe.random_seed, "files": files}
        self._stage("seed", identity, do=do)

    def ingest(self) -> None:
        settings = self.recipe.corpus
        files = {str(path): hash_file(path) for path in corpus_files(settings.inputs)}

        def do(folder: Path) -> tuple[Work, Result]:
            documents = read_documents(settings.inputs, max_line_bytes=settings.max_line_bytes)
            with self.console.bar("ingest", None, "documents") as bar:
                work = run_map(
                    IngestTask(settings=settings),
                    documents,
                    Output(folder, "segments", Segment),
                    executor=self.executor,
                    shard_rows=self.recipe.runtime.shard_rows,
                    on_shard=lambda rows, _: bar.advance(rows),
                )
            if not work.counts.kept:
                raise GateError(
                    f"no segment of the corpus is fit ({_reasons(work.counts)}); see {folder}/rejected-*.parquet, "
                    "and change corpus.inputs, corpus.min_chars or corpus.max_chars"
                )
            return work, {}

        corpus = {key: value for key, value in identity_of(settings).items() if key != "sample"}
        self._stage("ingest", {"corpus": corpus, "files": files}, do=do)

    def dedup(self) -> None:
        sample, random_seed = self.recipe.corpus.sample, self.recipe.random_seed

        def do(folder: Path) -> tuple[Work, Result]:
            rows = dedup(lambda: self._read("ingest", "segments", Segment), sample=sample, random_seed=random_seed)
            return self._stream("dedup", rows, Output(folder, "segments", Segment)), {}

        self._stage("dedup", {"sample": sample, "random_seed": random_seed}, inputs=["ingest"], do=do)

    # -- models ----------------------------------------------------------------------------------------------------

    def mix_backward(self) -> None:
        def do(folder: Path) -> tuple[Work, Result]:
            rows = mix_backward(self._pairs("train"), self.prompts)
            return self._stream("backward/mix", rows, Output(folder, "mix", Example)), {}

        self._stage("backward/mix", self._rendering(), inputs=["seed"], models={"base": self.base}, do=do)

    def mix(self, t: int) -> None:
        name, curated = f"iteration-{t}/mix", [f"iteration-{t}/curate"] if t else []

        def do(folder: Path) -> tuple[Work, Result]:
            web = self._read(curated[0], "curated", Scored) if t else iter(())
            return self._stream(name, mix(self._pairs("train"), web, self.prompts), Output(folder, "mix", Example)), {}

        self._stage(name, self._rendering(), inputs=["seed", *curated], models={"base": self.base}, do=do)

    def draw_control(self) -> None:
        last = f"iteration-{self.recipe.iterations}"

        def do(folder: Path) -> tuple[Work, Result]:
            count = count_rows(shard_files(self.run_dir.folder(f"{last}/curate"), "curated"))
            rows = draw_control(
                lambda: self._read(f"{last}/score", "scored", Scored), count, random_seed=self.recipe.random_seed
            )
            return self._stream("control/draw", rows, Output(folder, "drawn", Scored)), {}

        identity = {"random_seed": self.recipe.random_seed}
        self._stage("control/draw", identity, inputs=[f"{last}/score", f"{last}/curate"], do=do)

    def mix_control(self) -> None:
        def do(folder: Path) -> tuple[Work, Result]:
            rows = mix(self._pairs("train"), self._read("control/draw", "drawn", Scored), self.prompts)
            return self._stream("control/mix", rows, Output(folder, "mix", Example)), {}

        self._stage("control/mix", self._rendering(), inputs=["seed", "control/draw"], models={"base": self.base}, do=do)

    def finetune(self, room: str) -> None:
        name, recipe = f"{room}/finetune", self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            data = tuple(shard_files(self.run_dir.folder(f"{room}/mix"), "mix"))
            examples = count_rows(data)
            spec = train_spec(
                name, folder, data, examples, self.base, recipe.train, recipe.runtime, random_seed=recipe.random_seed
            )
            self.engines.close()  # the trainer needs the memory
            with self.console.bar(name, spec.steps, "steps") as bar:
                result = finetune(spec, self._trainer(), _follow(bar.advance))
            model = find_model(spec.output)
            work = Work(counts=Counts(read=examples, kept=examples), seconds=result.seconds)
            return work, {"content_hash": model.content_hash, "training": dataclasses.asdict(result)}

        identity = {"train": identity_of(recipe.train), "random_seed": recipe.random_seed}
        self._stage(name, identity, inputs=[f"{room}/mix"], models={"base": self.base}, do=do)

    # -- candidates ------------------------------------------------------------------------------------------------

    def augment(self) -> None:
        backward, recipe = self._model("backward"), self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            task = AugmentTask(
                backward=self._spec(backward),
                prompts=self.prompt_spec,
                settings=recipe.augment,
                random_seed=recipe.random_seed,
                engines=self.engines,
            )
            work = self._map("augment", task, ("dedup", "segments", Segment), Output(folder, "candidates", Candidate), 1)
            if not work.counts.kept:
                raise GateError(
                    f"the backward model wrote no usable instruction ({_reasons(work.counts)}); read "
                    f"{folder}/rejected-*.parquet, and give more seed pairs or train longer (train.epochs)"
                )
            return work, {}

        identity = {"augment": identity_of(recipe.augment), "random_seed": recipe.random_seed, **self._prompts("backward")}
        self._stage("augment", identity, inputs=["dedup"], models={"backward": backward}, do=do)

    def audit(self, t: int) -> None:
        name, recipe = f"iteration-{t}/audit", self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            holdout = list(self._pairs("holdout"))
            calls = 3 * sum(SIGNALS[signal].calls for signal in recipe.score.signals)  # true and two corruptions
            with self._answers_bar(name, len(holdout) * calls):
                rows, verdict = audit(
                    holdout,
                    recipe.score.signals,
                    self._score_task(t + 1).raters(),
                    recipe.evaluate,
                    model_name=f"M_{t}",
                    random_seed=recipe.random_seed,
                )
            atomic_write(folder / "audit.json", _json({**verdict, "rows": rows}))
            return Work(counts=Counts(read=len(holdout), kept=len(holdout))), verdict

        models = {"model": self._model(f"iteration-{t}"), "backward": self._model("backward")}
        identity = {"score": identity_of(recipe.score), **self._statistics(), **self._prompts()}
        self._stage(name, identity, inputs=["seed"], models=models, do=do)
        for note in self._result(name)["notes"]:
            self.console.say(f"  audit of {note}")

    def score(self, t: int) -> None:
        name = f"iteration-{t}/score"

        def do(folder: Path) -> tuple[Work, Result]:
            calls = sum(SIGNALS[signal].calls for signal in self.recipe.score.signals)
            candidates = ("augment", "candidates", Candidate)
            return self._map(name, self._score_task(t), candidates, Output(folder, "scored", Scored), calls), {}

        models = {"model": self._model(f"iteration-{t - 1}"), "backward": self._model("backward")}
        identity = {"score": identity_of(self.recipe.score), **self._prompts()}
        self._stage(name, identity, inputs=["augment"], models=models, do=do)

    def curate(self, t: int) -> None:
        name, source = f"iteration-{t}/curate", f"iteration-{t}/score"
        decision = decide(self.recipe.curate, self._result(f"iteration-{t - 1}/audit"))

        def do(folder: Path) -> tuple[Work, Result]:
            rows = curate(lambda: self._read(source, "scored", Scored), decision)
            work = self._stream(name, rows, Output(folder, "curated", Scored))
            if not work.counts.kept:
                raise GateError(
                    f"{name}: no candidate passes ({_reasons(work.counts)}) with signal {decision.signal}, "
                    f"{decision.policy}={decision.value:g}; lower curate.threshold, or choose curate.signal and curate.top"
                )
            return work, dataclasses.asdict(decision)

        self._stage(
            name,
            {"curate": identity_of(self.recipe.curate), "decision": dataclasses.asdict(decision)},
            inputs=[source, f"iteration-{t - 1}/audit"],
            do=do,
        )
        self.console.say(f"  curated by {decision.signal} ({decision.policy} {decision.value:g}): {decision.why}")
        for warning in decision.warnings:
            self.console.say(f"  warning: {warning}")

    # -- results ---------------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        forward = {"base": self.base, **{name: self._model(room) for name, room in self._forward_rooms()}}
        backward = {"base": self.base, "M_yx": self._model("backward")}
        recipe = self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = list(self._pairs("holdout"))
            draw = {
                "random_seed": recipe.random_seed,
                "resamples": recipe.evaluate.resamples,
                "confidence": recipe.evaluate.confidence,
            }
            tags = {"both tags": self.prompts.both_tags, "seed tag": self.prompts.seed_tag}
            result: Result = {"pairs": len(pairs), "response_nll": {}}
            with self._answers_bar("evaluate", len(pairs) * (len(tags) * len(forward) + len(backward))):
                nlls: dict[str, dict[str, Any]] = {label: {} for label in tags}
                for name, model in forward.items():
                    engine = self.engines.get(self._spec(model))
                    for label, tag in tags.items():
                        nlls[label][name] = response_nll(pairs, engine, self.prompts, tag)
                    self.engines.close()
                for label in tags:
                    result["response_nll"][label] = compare(nlls[label], **draw)
                asked = {
                    name: instruction_nll(pairs, self.engines.get(self._spec(model)), self.prompts)
                    for name, model in backward.items()
                }
                result["instruction_nll"] = compare(asked, **draw)
            per_pair = {label: {m: dataclasses.asdict(v) for m, v in by.items()} for label, by in nlls.items()}
            per_pair["instruction"] = {name: dataclasses.asdict(values) for name, values in asked.items()}
            atomic_write(folder / "evaluation.json", _json(result))
            atomic_write(folder / "likelihoods.json", _json(per_pair))
            return Work(counts=Counts(read=len(pairs), kept=len(pairs))), result

        models = {**forward, "backward": backward["M_yx"]}
        self._stage("evaluate", {**self._statistics(), **self._prompts()}, inputs=["seed"], models=models, do=do)

    def dataset(self) -> None:
        last = f"iteration-{self.recipe.iterations}"

        def do(folder: Path) -> tuple[Work, Result]:
            counts = write_dataset(
                folder,
                self._pairs("train"),
                lambda: self._read(f"{last}/curate", "curated", Scored),
                self.recipe,
                decision=self._result(f"{last}/curate"),
            )
            return Work(counts=counts), {}

        identity = {"prompts": identity_of(self.recipe.prompts)}
        self._stage("dataset", identity, inputs=["seed", f"{last}/curate"], do=do)

    def report(self) -> None:
        names = [m.name for m in self._complete() if m.name != "report"]

        def do(folder: Path) -> tuple[Work, Result]:
            data = build_report(self.run_dir, self.recipe, self._complete())
            atomic_write(folder / "report.json", _json(data))
            write_report(folder / "report.html", data)
            return Work(), {}

        self._stage("report", {}, inputs=names, do=do)

    # -- inner -----------------------------------------------------------------------------------------------------

    def _stage(
        self,
        name: str,
        identity: Mapping[str, Any],
        *,
        do: Do,
        inputs: list[str] | None = None,
        models: Mapping[str, ModelRef] | None = None,
    ) -> None:
        """Skip, resume or run one stage, and write its manifest."""
        payload = {
            "stage": name,
            "version": STAGE_VERSION,
            **identity,
            "inputs": {source: self._fingerprint(source) for source in inputs or []},
            "models": {role: model.content_hash for role, model in (models or {}).items()},
        }
        if not self.run_dir.begin(name, payload):
            return
        self.write_recipe()
        self.worked = True
        started, before = time.monotonic(), dataclasses.asdict(self.engines.totals())
        self.console.say(f"{name} ...")
        work, result = do(self.run_dir.folder(name))
        if work.totals == EngineTotals():
            after = dataclasses.asdict(self.engines.totals())
            work.totals = EngineTotals(**{key: after[key] - before[key] for key in after})
        seconds = work.seconds or time.monotonic() - started
        iteration = int(name[10 : name.index("/")]) if name.startswith("iteration-") else None
        self.run_dir.finish(
            name,
            iteration,
            work.counts,
            seconds=seconds,
            result=result,
            engine=dataclasses.asdict(work.totals),
            environment=environment(),
        )
        self.console.say(f"{name}: {_summary(work.counts)} in {format_seconds(time.monotonic() - started)}")

    def _stream(self, name: str, rows: Iterator[Any], output: Output[Any]) -> Work:
        with self.console.bar(name, None, "rows") as bar:
            return run_stream(rows, output, shard_rows=self.recipe.runtime.shard_rows, bar=bar)

    def _map(
        self, name: str, task: Any, source: tuple[str, str, type[Record]], output: Output[Any], calls: int
    ) -> Work:
        """Run a map stage that asks engines `calls` times per row; progress counts their answers."""
        total = count_rows(shard_files(self.run_dir.folder(source[0]), source[1]))
        pooled = isinstance(self.executor, PoolExecutor)
        with self._answers_bar(name, total * calls) as bar:

            def on_shard(rows: int, fresh: bool) -> None:
                if pooled or not fresh:  # a fresh shard of this process has shown its answers as they came
                    bar.advance(rows * calls)

            return run_map(
                task,
                self._read(*source),
                output,
                executor=self.executor,
                shard_rows=self.recipe.runtime.shard_rows,
                on_shard=on_shard,
            )

    @contextlib.contextmanager
    def _answers_bar(self, name: str, total: int) -> Iterator[Bar]:
        with self.console.bar(name, total, "answers") as bar:
            self.engines.on_answers = bar.advance
            try:
                yield bar
            finally:
                self.engines.on_answers = None

    def _read(self, stage: str, prefix: str, kind: type[R]) -> Iterator[R]:
        return read_records(shard_files(self.run_dir.folder(stage), prefix), kind)

    def _pairs(self, split: str) -> Iterator[Pair]:
        return (pair for pair in self._read("seed", "pairs", Pair) if pair.split == split)

    def _score_task(self, t: int) -> ScoreTask:
        return ScoreTask(
            model=self._spec(self._model(f"iteration-{t - 1}")),
            backward=self._spec(self._model("backward")),
            prompts=self.prompt_spec,
            settings=self.recipe.score,
            iteration=t,
            engines=self.engines,
        )

    def _spec(self, model: ModelRef) -> EngineSpec:
        runtime = self.recipe.runtime
        return EngineSpec(
            model=model,
            engine=runtime.engine,
            device=runtime.device,
            batch_tokens=runtime.batch_tokens,
            threads=runtime.threads,
            cache=Path(runtime.cache) if runtime.cache else self.run_dir.path / "answers.sqlite",
        )

    def _model(self, room: str) -> ModelRef:
        folder = self.run_dir.folder(f"{room}/finetune") / "model"
        if not folder.is_dir():
            raise StorageError(f"{folder} is gone; run again with --rerun-from {room}/finetune")
        return ModelRef(path=str(folder), content_hash=self._result(f"{room}/finetune")["content_hash"])

    def _forward_rooms(self) -> list[tuple[str, str]]:
        rooms = [(f"M_{t}", f"iteration-{t}") for t in range(self.recipe.iterations + 1)]
        return [*rooms, ("control", "control")] if self.recipe.evaluate.control else rooms

    def _trainer(self) -> Callable[[TrainSpec, Callable[[TrainStep], None] | None], TrainResult]:
        if self.recipe.runtime.engine == "fake":
            from humpback.training.fake import train_fake

            return lambda spec, on_step: train_fake(spec)
        from humpback.training.launch import train

        return lambda spec, on_step: train(spec, on_step=on_step)

    def _result(self, stage: str) -> Mapping[str, Any]:
        return self._done(stage).result

    def _fingerprint(self, stage: str) -> str:
        return self._done(stage).fingerprint

    def _done(self, stage: str) -> Manifest:
        manifest = self.run_dir.manifest(stage)
        if manifest is None:
            raise StorageError(f"stage {stage} is not complete; run again with --rerun-from {stage}")
        return manifest

    def _complete(self) -> list[Manifest]:
        names = stage_names(self.recipe)
        return [manifest for name, _ in names if (manifest := self.run_dir.manifest(name)) is not None]

    # -- identity --------------------------------------------------------------------------------------------------

    def _prompts(self, *kinds: str) -> Result:
        prints = self.prompts.fingerprint()
        return {"prompts": {kind: prints[kind] for kind in kinds or prints}, "max_tokens": self.recipe.model.max_tokens}

    def _rendering(self) -> Result:
        return {**self._prompts("answer", "backward"), "instruction_tokens": self.recipe.augment.max_tokens}

    def _statistics(self) -> Result:
        evaluate = self.recipe.evaluate
        draw = {"resamples": evaluate.resamples, "confidence": evaluate.confidence}
        return {"statistics": draw, "random_seed": self.recipe.random_seed}


def _follow(advance: Callable[[int, int, str], None]) -> Callable[[TrainStep], None]:
    state = {"step": 0}

    def on_step(step: TrainStep) -> None:
        advance(step.step - state["step"], step.tokens, f"loss {step.loss:.3f}")
        state["step"] = step.step

    return on_step


def _reasons(counts: Counts) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in {**counts.rejected, **counts.failed}.items()) or "no rows"


def _summary(counts: Counts) -> str:
    parts = [f"{counts.read} read", f"{counts.kept} kept"]
    for label, reasons in (("rejected", counts.rejected), ("failed", counts.failed)):
        if reasons:
            told = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
            parts.append(f"{sum(reasons.values())} {label} ({told})")
    return ", ".join(parts)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogatepass")
