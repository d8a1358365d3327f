"""One sitting of a run: its recipe, folder, engines and executor, and how a stage is skipped, resumed or run.

Reading, writing, resuming, counting and progress are here, once, for every stage; `rooms/` says what each stage is, and
`opening.py` what a run decides before the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from humpback.engines import EngineSpec, resolve_model
from humpback.engines.answers import locate_cache
from humpback.engines.base import Engine, EngineTotals, ModelRef
from humpback.engines.cache import CachedEngine
from humpback.errors import DriftError, GateError, InputError, StorageError
from humpback.executor import Executor, PoolExecutor, SerialExecutor
from humpback.machine import environment
from humpback.opening import check_context, check_served, choose_signals, decide_numbers
from humpback.progress import Bar, Console, format_seconds, tell_counts, tell_totals
from humpback.recipe import Recipe, Signal, dump_recipe, read_rubric
from humpback.records import Pair, Record
from humpback.runner import Output, Work, run_map
from humpback.stages.table import known_names
from humpback.store.rundir import Manifest, RunDir
from humpback.store.shards import atomic_write, count_rows, read_records, shard_files
from humpback.streaming import run_stream
from humpback.tasks import Engines, PromptSpec

__all__ = ["Result", "Shelf", "Sitting"]

WITHOUT_ROWS = (
    "finetune",
    "gate",
    "audit",
    "correct",
    "stop",
    "evaluate",
    "answers",
    "human",
    "dataset",
    "report",
    "measure",
    "judge",
    "compare",
)
"""Stages whose kept rows are no Parquet files of their own folder."""

STAGE_VERSION = 7
"""Part of every stage's identity; raised when the same recipe would give other rows."""

R = TypeVar("R", bound=Record)
Result = dict[str, Any]
Do = Callable[[Path], tuple[Work, Result]]


class Shelf(Protocol):
    """Where a run finds stages that another one has made of the very same things."""

    def take(self, payload: Mapping[str, Any], folder: Path) -> str | None:
        """Put the stage of this identity into `folder`, complete; return whose it was, or None when there is none."""
        ...

    @property
    def folder(self) -> Path:
        """The folder that these runs have in common: what one of them decides is kept there for all."""
        ...


class Sitting:
    """A run being worked on, bound to its recipe and folder."""

    def __init__(
        self,
        recipe: Recipe,
        run_dir: RunDir,
        console: Console,
        *,
        shelf: Shelf | None = None,
        rebuilt: Sequence[str] = (),
    ) -> None:
        """`shelf` lends finished stages of other runs: the runs of a study.

        `rebuilt` stages are forgotten when the run comes to the first of them, and not before. Those before it are compared with
        the recipe first: a run that is refused there must not have lost what comes after.
        """
        self.recipe, self.run_dir, self.console, self._shelf = recipe, run_dir, console, shelf
        self.worked = False
        self._rebuilt = tuple(rebuilt)
        runtime = recipe.runtime
        check_served(recipe)
        cache = Path(runtime.model_cache) if runtime.model_cache else Path.home() / ".cache" / "humpback"
        self.base = resolve_model(recipe.model.base, cache)
        self.engines = Engines()
        self.executor: Executor = PoolExecutor(runtime.workers) if runtime.workers > 1 else SerialExecutor()
        # vLLM answers all rows from one process: with a worker each, the model would be loaded as often
        self.answering: Executor = SerialExecutor() if runtime.engine == "vllm" else self.executor
        self.prompt_spec = PromptSpec(
            max_tokens=recipe.model.max_tokens,
            instruction_tokens=recipe.augment.max_tokens,
            rubric=read_rubric(recipe.prompts),
            seed_tag=recipe.prompts.seed_tag,
            web_tag=recipe.prompts.web_tag,
        )
        self.decisions = (
            shelf.folder if shelf else run_dir.path
        )  # models that are compared compute in one number format
        self.dtype, self.dtype_told = decide_numbers(runtime, self.decisions)
        engine = self.engines.get(self.spec(self.base))
        try:
            self.prompts = self.prompt_spec.bind(engine)
        except ValueError as error:
            raise InputError(f"model.base={recipe.model.base}: {error}; use another base model") from error
        check_context(self.base, recipe.model.max_tokens)
        score = recipe.score.model_copy(update={"signals": self._open_signals(engine)})
        self.recipe = recipe.model_copy(update={"score": score})  # what the run is from here on, on disk too

    def _open_signals(self, engine: CachedEngine) -> list[Signal]:
        """Return the signals of the run, and tell what an unfinished one has decided."""
        recipe, complete, served = self.recipe, self._is_complete(), self.recipe.runtime.engine == "server"
        if complete and served:  # to ask a server of our own what it can do takes a start of it
            known: list[Signal] = self._done("iteration-0/audit").identity["score"]["signals"]
            return recipe.score.signals or known  # others than the run was made with are told as drift
        try:
            signals, left_out = choose_signals(recipe, engine)
        finally:
            if served:
                self.engines.close()  # a server of our own was started only to be asked what it can do
        if recipe.score.signals is None and not complete:
            self.console.say(f"signals: {', '.join(signals)}{left_out}")
        if self.dtype_told and not complete:
            self.console.say(f"numbers: {self.dtype_told}")
        return signals

    @property
    def signals(self) -> list[Signal]:
        return self.recipe.score.wanted

    def close(self) -> None:
        self.engines.close()

    def _is_complete(self) -> bool:
        # manifests are not read here: a damaged one must not keep --rerun-from from making its stage anew
        return not self._rebuilt and all(
            self.run_dir.state(name) == "done" for name in known_names(self.recipe, self.run_dir)
        )

    def write_recipe(self) -> None:
        """Write the recipe, every default spelled out, unless it is there already."""
        path, text = self.run_dir.path / "recipe.yaml", dump_recipe(self.recipe).encode()
        if not path.exists() or path.read_bytes() != text:
            atomic_write(path, text)

    # -- work ------------------------------------------------------------------------------------------------------

    def stage(
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
        if name in self._rebuilt[:1]:
            for left in reversed(self._rebuilt):
                self.run_dir.discard(left)
            self._rebuilt = ()
        self._refuse_stale(name)
        if not self.run_dir.begin(name, payload):
            self._check_rows(name)
            return
        self.write_recipe()
        self.worked = True
        if self._shelf and (owner := self._shelf.take(payload, self.run_dir.folder(name))) is not None:
            self._check_rows(name)
            self.console.say(f"{name}: made already, by {owner}")
            return
        started, before = time.monotonic(), self.engines.totals()
        self.console.say(f"{name} ...")
        try:
            work, result = do(self.run_dir.folder(name))
        except (InputError, GateError) as error:
            self.run_dir.refuse(name, str(error))
            raise
        if work.totals == EngineTotals():
            work.totals = self.engines.totals().since(before)
        seconds = work.seconds or time.monotonic() - started
        iteration = int(name[10 : name.index("/")]) if name.startswith("iteration-") else None
        self.run_dir.finish(
            name,
            iteration,
            work.counts,
            seconds=seconds,
            result=result,
            engine=dataclasses.asdict(work.totals),
            environment=environment() | self._tell_ways(),
        )
        told = tell_counts(work.counts)
        if work.totals.requests:
            told += f" · {tell_totals(work.totals, seconds)}"
        self.console.say(f"{name}: {told} in {format_seconds(time.monotonic() - started)}")

    def _tell_ways(self) -> dict[str, str]:
        """Return how engines compute here, which changes no answer but rounding, and the speed a lot."""
        told = {"numbers": self.dtype_told, "attention": self.engines.attention()}
        return {name: words for name, words in told.items() if words}

    def _check_rows(self, name: str) -> None:
        """Refuse a complete stage whose rows are gone: hours later, what reads them would be made again for nothing."""
        if name.rpartition("/")[2].partition("-")[0] in WITHOUT_ROWS:  # `judge-` and a digest is a judge's
            return
        folder = self.run_dir.folder(name)
        rows = count_rows([path for path in sorted(folder.glob("*.parquet")) if not path.name.startswith("rejected-")])
        if rows != self._done(name).kept:
            raise StorageError(
                f"{folder} holds {rows} of the {self._done(name).kept} rows it kept; run again with --rerun-from {name}"
            )

    def _refuse_stale(self, name: str) -> None:
        """Refuse to work on a stage when a later one is there already: that one was made without it."""
        if self.run_dir.state(name) != "waiting":
            return
        names = known_names(self.recipe, self.run_dir)
        later_ones = (later for later in names[names.index(name) + 1 :] if later not in self._rebuilt)
        stale = [later for later in later_ones if self.run_dir.state(later) != "waiting"]
        if stale:
            raise DriftError(
                f"stage {name} is new to {self.run_dir.path}, and {stale[0]}, which comes after it, was made without it. "
                f"Either run again with --rerun-from {name}, which makes it and everything after it, or keep what is "
                "there and give the new recipe another run folder (--run NAME)."
            )

    def stream(self, name: str, rows: Iterator[Any], output: Output[Any]) -> Work:
        with self.console.bar(name, None, "rows") as bar:
            return run_stream(rows, output, shard_rows=self.recipe.runtime.shard_rows, bar=bar)

    def map(self, name: str, task: Any, source: tuple[str, str, type[Record]], output: Output[Any], calls: int) -> Work:
        """Run a map stage that asks engines `calls` times per row; progress counts their answers."""
        total = count_rows(shard_files(self.run_dir.folder(source[0]), source[1]))
        pooled = isinstance(self.answering, PoolExecutor)
        with self.answers_bar(name, total * calls) as bar:
            bar.rows_total = total

            def on_shard(work: Work, fresh: bool) -> None:
                answers = work.counts.read * calls
                if not fresh:
                    bar.skip(answers)
                elif pooled:  # a shard of this process has shown its answers as they came
                    bar.hear(work.totals, work=answers * (1 - work.totals.cache_hits / max(work.totals.requests, 1)))
                bar.finish_rows(work.counts.read, answers)

            return run_map(
                task,
                self.read(*source),
                output,
                executor=self.answering,
                shard_rows=self.recipe.runtime.shard_rows,
                on_shard=on_shard,
            )

    @contextlib.contextmanager
    def answers_bar(self, name: str, total: int) -> Iterator[Bar]:
        with self.console.bar(name, total, "answers") as bar:
            self.engines.on_answers = lambda heard: bar.hear(heard.totals, work=heard.work)
            try:
                yield bar
            finally:
                self.engines.on_answers = None

    def read(self, stage: str, prefix: str, kind: type[R]) -> Iterator[R]:
        return read_records(shard_files(self.run_dir.folder(stage), prefix), kind)

    def pairs(self, split: str) -> Iterator[Pair]:
        return (pair for pair in self.read("seed", "pairs", Pair) if pair.split == split)

    def engine(self, model: ModelRef) -> Engine:
        return self.engines.get(self.spec(model))

    def spec(self, model: ModelRef) -> EngineSpec:
        runtime = self.recipe.runtime
        return EngineSpec(
            model=model,
            engine=runtime.engine,
            device=runtime.device,
            dtype=self.dtype,
            batch_tokens=runtime.batch_tokens,
            threads=runtime.threads,
            cache=locate_cache(runtime.cache, self.run_dir.path),
            max_tokens=self.recipe.model.max_tokens,
            vllm=runtime.vllm,
            server=runtime.server if runtime.engine == "server" else None,
        )

    def model(self, room: str) -> ModelRef:
        folder = self.run_dir.folder(f"{room}/finetune") / "model"
        if not folder.is_dir():
            raise StorageError(f"{folder} is gone; run again with --rerun-from {room}/finetune")
        return ModelRef(path=str(folder), content_hash=self.result(f"{room}/finetune")["content_hash"])

    def result(self, stage: str) -> Mapping[str, Any]:
        return self._done(stage).result

    def _fingerprint(self, stage: str) -> str:
        return self._done(stage).fingerprint

    def _done(self, stage: str) -> Manifest:
        manifest = self.run_dir.manifest(stage)
        if manifest is None:
            raise StorageError(f"stage {stage} is not complete; run again with --rerun-from {stage}")
        return manifest

    def complete(self) -> list[Manifest]:
        names = (name for name in known_names(self.recipe, self.run_dir) if name not in self._rebuilt)
        return [manifest for name in names if (manifest := self.run_dir.manifest(name)) is not None]
