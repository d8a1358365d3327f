"""What the pipeline itself costs per row: read, render, shard, cache, write and count, with a scripted model that costs nothing.

Augment, then score by all three signals, over generated segments. Seconds inside the scripted engine are taken off. The
alternative is the same stages with the engine called directly: no answer cache, so nothing is kept when the run is killed.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Goal, Repetition, median, options, series_of, write_result

from humpback.engines import EngineSpec
from humpback.engines.base import EngineTotals, ModelRef
from humpback.engines.fake import FakeEngine
from humpback.executor import SerialExecutor
from humpback.prompts import RUBRIC, SEED_TAG, WEB_TAG
from humpback.recipe import AugmentSettings, ScoreSettings
from humpback.records import Candidate, Scored, Segment, content_id
from humpback.runner import Output, Work, run_map
from humpback.store.shards import read_records, shard_files, write_records
from humpback.tasks import AugmentTask, Engines, PromptSpec, ScoreTask

SEGMENTS = 5_000
REPETITIONS = 3
SHARD_ROWS = 512
BATCH_TOKENS = 8192
"""The default of 2,048 times the bytes in a real token: so many answers are committed at once as with a real model."""
WORDS = ("river", "mountain", "copper", "lantern", "bridge", "garden", "window", "engine", "bread", "winter", "market")
NOTE = (
    "Augment and score (rating, backward lift, forward lift: six requests per segment) over generated segments of about 1,200 "
    "characters with the scripted engine, in one process. `outside` is wall time less the time inside the engine, per segment. "
    "`cached` is the pipeline as it is; `direct` calls the engine without the answer cache, and would lose a whole shard's answers "
    "to a kill. The scripted tokenizer makes one token of each byte, about four times as many as a real one, so cache keys cost more "
    "here than with a real model; the batch budget is four times the default to make up for it."
)


class DirectEngine:
    """The scripted engine without a cache, its seconds counted as the cache counts them."""

    def __init__(self, model: ModelRef) -> None:
        self.inner = FakeEngine(model)
        self.model, self.tokenizer, self.capabilities = model, self.inner.tokenizer, self.inner.capabilities
        self.totals = EngineTotals()

    def generate(self, *asked: Any) -> Any:
        return self._time(self.inner.generate, *asked)

    def choice_logprobs(self, *asked: Any) -> Any:
        return self._time(self.inner.choice_logprobs, *asked)

    def loglikelihood(self, *asked: Any) -> Any:
        return self._time(self.inner.loglikelihood, *asked)

    def close(self) -> None:
        """Nothing to free."""

    def _time(self, call: Any, *asked: Any) -> Any:
        started = time.monotonic()
        answers = call(*asked)
        self.totals.seconds += time.monotonic() - started
        self.totals.requests += len(answers)
        return answers


class DirectEngines(Engines):
    """Opens engines without the answer cache."""

    def get(self, spec: EngineSpec) -> Any:
        if spec not in self._open:
            self._open[spec] = DirectEngine(spec.model)  # type: ignore[assignment]
        return self._open[spec]


def main() -> None:
    asked = options(__doc__)
    rows = 60 if asked.small else SEGMENTS
    with tempfile.TemporaryDirectory(prefix="humpback-overhead-") as name:
        folder = Path(name)
        write_segments(folder / "segments", rows)
        repetitions = []
        for number in range(1 if asked.small else REPETITIONS):
            repetition = Repetition(number)
            for variant in repetition.order("cached", "direct"):
                engines = Engines() if variant == "cached" else DirectEngines()
                measure(repetition, variant, folder, engines, rows)
            repetitions.append(repetition)
    raw = series_of(repetitions)
    cached, direct = (median(raw, f"{variant}_outside_ms_per_row") for variant in ("cached", "direct"))
    goals = [
        Goal(name="rows/s of the pipeline's own work, higher is better", value=1000 / cached),
        Goal(name="the same without the answer cache", value=1000 / direct),
        Goal(name="milliseconds per segment that the answer cache costs, lower is better", value=cached - direct),
    ]
    write_result("overhead", raw=raw, goals=goals, note=f"{rows} segments. {NOTE}", folder=asked.folder)


def write_segments(folder: Path, rows: int) -> None:
    draw = random.Random(0)
    for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
        segments = [segment(index, draw) for index in range(start, min(start + SHARD_ROWS, rows))]
        write_records(folder / f"segments-{shard:05d}.parquet", Segment, segments)


def segment(index: int, draw: random.Random) -> Segment:
    text = " ".join(f"{' '.join(draw.choices(WORDS, k=12)).capitalize()} {index}." for _ in range(14))
    return Segment(
        id=content_id(text),
        text=text,
        header_path="Generated",
        source_uri=f"generated#{index}",
        offset=0,
        title="",
        licence="",
        language="en",
        document_id=content_id(str(index)),
    )


def measure(repetition: Repetition, variant: str, folder: Path, engines: Engines, rows: int) -> None:
    """Run both stages in a folder of their own and keep the variant's figures."""
    place = folder / f"{variant}-{repetition.number}"
    with repetition.time(f"{variant}_s"):
        works = run_stages(folder / "segments", place, engines)
    for work in works:
        if work.counts.kept != rows:
            raise SystemExit(f"{variant}: {work.counts} is not {rows} kept rows")
    engine_s = engines.totals().seconds
    repetition.add(f"{variant}_engine_s", engine_s)
    repetition.add(f"{variant}_outside_ms_per_row", 1000 * (repetition.figures[f"{variant}_s"] - engine_s) / rows)
    engines.close()


def run_stages(segments: Path, place: Path, engines: Engines) -> tuple[Work, Work]:
    prompts = PromptSpec(max_tokens=8192, instruction_tokens=128, rubric=RUBRIC, seed_tag=SEED_TAG, web_tag=WEB_TAG)
    backward, model = (spec(name, place / "answers.sqlite") for name in ("backward", "model"))
    augment = AugmentTask(
        backward=backward, prompts=prompts, settings=AugmentSettings(), random_seed=0, engines=engines
    )
    score = ScoreTask(
        model=model,
        backward=backward,
        prompts=prompts,
        settings=ScoreSettings(),
        iteration=1,
        random_seed=0,
        engines=engines,
    )
    candidates = Output(place / "augment", "candidates", Candidate)
    how = {"executor": SerialExecutor(), "shard_rows": SHARD_ROWS}
    first = run_map(augment, read_records(shard_files(segments, "segments"), Segment), candidates, **how)
    written = read_records(shard_files(candidates.folder, "candidates"), Candidate)
    return first, run_map(score, written, Output(place / "score", "scored", Scored), **how)


def spec(name: str, cache: Path) -> EngineSpec:
    model = ModelRef(path=name, content_hash=content_id(name))
    return EngineSpec(model=model, engine="fake", device="cpu", batch_tokens=BATCH_TOKENS, threads=None, cache=cache)


if __name__ == "__main__":
    main()
