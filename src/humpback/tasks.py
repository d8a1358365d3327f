"""Map stages bound to their settings and engines, ready to be sent to a worker process. Engines open there, on first use."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humpback.corpus.overlap import Overlap
from humpback.corpus.readers import read_unit
from humpback.corpus.units import Unit
from humpback.engines import EngineSpec, open_engine
from humpback.engines.base import EngineTotals, Heard
from humpback.engines.cache import CachedEngine
from humpback.engines.vllm_process import Processes
from humpback.evaluation.judge import Judge, load_judge
from humpback.evaluation.signals import Raters
from humpback.prompts import Prompts
from humpback.recipe import AugmentSettings, CorpusSettings, RewriteSettings, ScoreSettings
from humpback.records import Candidate, Document, MarkedSegment, Rejected, Rewritten, Scored, Segment
from humpback.stages.augment import augment
from humpback.stages.dedup import mark_segment
from humpback.stages.ingest import ingest
from humpback.stages.rewrite import rewrite
from humpback.stages.score import score

__all__ = ["AugmentTask", "Engines", "IngestTask", "PromptSpec", "RewriteTask", "ScoreTask"]


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """What Prompts needs besides a tokenizer."""

    max_tokens: int
    instruction_tokens: int
    rubric: str
    seed_tag: str
    web_tag: str

    def bind(self, engine: CachedEngine) -> Prompts:
        return Prompts(
            engine.tokenizer,
            max_tokens=self.max_tokens,
            instruction_tokens=self.instruction_tokens,
            rubric=self.rubric,
            seed_tag=self.seed_tag,
            web_tag=self.web_tag,
        )


class Engines:
    """Opens each engine once per process. What travels to another process is only how to open them."""

    def __init__(self) -> None:
        self.on_answers: Callable[[Heard], None] | None = None
        self._open: dict[EngineSpec, CachedEngine] = {}
        self._closed = EngineTotals()
        self._processes = Processes()

    def get(self, spec: EngineSpec) -> CachedEngine:
        """Return the engine, opened at the first call; its weights load when it is first asked."""
        if spec not in self._open:
            self._open[spec] = open_engine(spec, self._tell, self._processes)
        return self._open[spec]

    def totals(self) -> EngineTotals:
        """Return what all engines have computed in this process, closed ones included."""
        totals = dataclasses.replace(self._closed)
        for engine in self._open.values():
            totals.add(engine.totals)
        return totals

    def attention(self) -> str:
        """Return how the engines of this process attend, each way once; "" where none tells."""
        return "; ".join(sorted({engine.attention for engine in self._open.values()} - {""}))

    def close(self) -> None:
        """Free every engine's memory."""
        self._closed = self.totals()
        for engine in self._open.values():
            engine.close()
        self._open.clear()

    def _tell(self, heard: Heard) -> None:
        if self.on_answers:
            self.on_answers(heard)

    def __getstate__(self) -> dict[str, Any]:
        return {"on_answers": None, "_open": {}, "_closed": EngineTotals(), "_processes": Processes()}


def _tell_nobody() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class IngestTask:
    """A unit of the input, read where it is worked on, to segments, with the marks that finding duplicates needs of them."""

    settings: CorpusSettings
    on_document: Callable[[], None] = _tell_nobody
    """Hears of every record read in this process; a worker process has nobody to tell."""

    def __call__(self, unit: Unit, tally: Counter[str]) -> Iterator[MarkedSegment | Rejected]:
        for outcome in ingest(self._read(unit), self.settings, overlap=self._overlap, tally=tally):
            yield outcome if isinstance(outcome, Rejected) else mark_segment(outcome)

    def _read(self, unit: Unit) -> Iterator[Document | Rejected]:
        for document in read_unit(unit, max_record_bytes=self.settings.max_line_bytes):
            self.on_document()
            yield document

    @functools.cached_property
    def _overlap(self) -> Overlap | None:
        """The evaluation sets, loaded once per process."""
        return Overlap.load(self.settings.decontaminate) if self.settings.decontaminate else None

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "on_document": _tell_nobody}


@dataclass(frozen=True, kw_only=True)
class AugmentTask:
    """Segments to candidates."""

    backward: EngineSpec
    prompts: PromptSpec
    settings: AugmentSettings
    random_seed: int
    engines: Engines
    one_to_one: bool = True

    def __call__(self, records: Sequence[Segment]) -> Iterator[Candidate | Rejected]:
        engine = self.engines.get(self.backward)
        return augment(records, engine, self.prompts.bind(engine), self.settings, random_seed=self.random_seed)

    def totals(self) -> EngineTotals:
        return self.engines.totals()


@dataclass(frozen=True, kw_only=True)
class RewriteTask:
    """Curated pairs to the same pairs with a new response, or the old one and why."""

    scoring: ScoreTask
    settings: RewriteSettings
    one_to_one: bool = True

    def __call__(self, records: Sequence[Scored]) -> Iterator[Rewritten]:
        return rewrite(records, self.scoring.raters(), self.settings, random_seed=self.scoring.random_seed)

    def totals(self) -> EngineTotals:
        return self.scoring.engines.totals()


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """Candidates to scored candidates."""

    model: EngineSpec
    backward: EngineSpec
    prompts: PromptSpec
    settings: ScoreSettings
    random_seed: int
    iteration: int
    engines: Engines
    judge: Path | None = None
    """File of what the audit of `model` has learnt; None while that audit is made, or where it learnt nothing."""
    one_to_one: bool = True

    def raters(self) -> Raters:
        model = self.engines.get(self.model)
        return Raters(
            model=model,
            backward=self.engines.get(self.backward),
            prompts=self.prompts.bind(model),
            min_label_mass=self.settings.min_label_mass,
            samples=self.settings.samples,
            sample_temperature=self.settings.sample_temperature,
            reasoning_tokens=self.settings.reasoning_tokens,
            random_seed=self.random_seed,
            judge=self._judge,
        )

    @functools.cached_property
    def _judge(self) -> Judge | None:
        """Loaded once per process."""
        return load_judge(self.judge) if self.judge else None

    def __call__(self, records: Sequence[Candidate]) -> Iterator[Scored | Rejected]:
        return score(records, self.settings.wanted, self.raters(), iteration=self.iteration)

    def totals(self) -> EngineTotals:
        return self.engines.totals()
