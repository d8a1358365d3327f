"""Does curation help? The same number of curated, random and worst-scored pairs, trained on with the seed for as many steps.

A run's own stages make candidates from segments, M_yx, M_0, its audit and the scores. Then each arm takes its pairs from the
same candidates, and is mixed, trained and measured as a run's models are: nats per token of held-out responses, and how much
the instruction helps with them (forward lift), on pairs that neither the seed nor the audit holds. Stopped, it goes on where it was.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import Measured, Options, measure_arms
from harness import ROOT, Goal, write_result
from study import machine_of, parser, read_human_pairs, seed_inputs

from humpback.corpus.dedup import normalise
from humpback.evaluation.likelihood import without_errors
from humpback.evaluation.stats import Interval, bootstrap_ratio, bootstrap_ratio_difference
from humpback.progress import Console
from humpback.recipe import Recipe
from humpback.records import Pair, Scored, content_id
from humpback.rooms import Rooms
from humpback.stages.curate import Decision, decide
from humpback.store.rundir import RunDir
from humpback.store.shards import atomic_write

AGAINST = (("curated", "random"), ("curated", "worst"), ("random", "worst"), ("curated", "seed"), ("random", "seed"))
MEASURES = ("nll", "lift")
RESAMPLES, CONFIDENCE = 2000, 0.95
SURPLUS = 4
"""Segments read per candidate wanted: filters, duplicates and unfit instructions take some."""
NOTE = (
    "{model}, {method}; {seed} seed pairs (Dolly without context, Open Assistant) and, in every arm but `seed`, {kept} of "
    "{candidates} candidates from segments of at most 2,000 characters: best, worst and at random by {signal} ({why}). Every arm "
    "takes {steps} steps; `random` draws anew with each of {seeds} training seeds. Measured on {pairs} pairs that neither the seed "
    "nor the audit holds: nll, nats per token of the response under both tags; lift, nats per token that the instruction saves. "
    "Differences are paired by pair and pooled over the seeds: `.low` and `.high` are the 95 % interval when pairs are "
    "resampled, `.low_seeds` and `.high_seeds` when seeds are too. For nll less is better, for lift more. The arms differ in "
    "the length of their responses (chars, label_tokens): more tokens of loss per step are part of what is compared."
)


def main() -> None:
    options = read_options()
    machine = options.machine
    with RunDir(machine.work / "run") as run_dir:
        rooms = Rooms(write_recipe(options), run_dir, Console())
        try:
            decision = run_stages(rooms)
            pool = read_pool(rooms, decision, options.candidates)
            pairs = choose_pairs(rooms, machine.data, options.pairs)
            measured = measure_arms(rooms, pool, pairs, decision, options)
            seed_pairs = sum(1 for _ in rooms.pairs("train"))
        finally:
            rooms.close()
    figures, goals, left = compare(measured, options)
    facts = next(iter(measured["curated"])).facts
    note = NOTE.format(
        model=machine.base,
        method=f"{options.method}, learning rate {options.learning_rate:g}",
        seed=seed_pairs,
        kept=options.kept,
        candidates=len(pool),
        signal=decision.signal,
        why=decision.why,
        steps=f"{facts['steps']:.0f}",
        seeds=options.seeds,
        pairs=left,
    )
    write_result("curation_helps", raw=figures, goals=goals, note=note, folder=machine.folder)


def read_options() -> Options:
    asked = parser(__doc__, "curation_helps")
    asked.add_argument("--candidates", type=int, default=400, help="candidates that the arms choose from")
    asked.add_argument("--kept", type=int, default=None, help="candidates that an arm trains on (default: two fifths)")
    asked.add_argument("--seed-pairs", type=int, default=200, help="seed pairs trained on")
    asked.add_argument("--audit-pairs", type=int, default=120, help="held-out pairs that P(good) is learnt from")
    asked.add_argument("--pairs", type=int, default=200, help="pairs measured on")
    asked.add_argument("--seeds", type=int, default=3, help="trainings of each arm")
    asked.add_argument("--signal", default="auto", help="curate.signal: auto, p_good, probe, forward_lift ...")
    asked.add_argument("--method", choices=("lora", "full"), default="lora")
    asked.add_argument("--learning-rate", type=float, default=None, help="default: 1e-3 for lora, 1e-5 for full")
    asked.add_argument("--epochs", type=float, default=1.0)
    asked.add_argument("--train-batch-tokens", type=int, default=None)
    given = asked.parse_args()
    if given.small:
        given.candidates, given.seed_pairs, given.audit_pairs, given.pairs, given.seeds = 24, 12, 24, 10, 2
    return Options(
        machine=machine_of(given, "curation_helps"),
        candidates=given.candidates,
        kept=given.kept or given.candidates * 2 // 5,
        seed_pairs=given.seed_pairs,
        audit_pairs=given.audit_pairs,
        pairs=given.pairs,
        seeds=given.seeds,
        signal=given.signal,
        method=given.method,
        learning_rate=given.learning_rate or {"lora": 1e-3, "full": 1e-5}[given.method],
        epochs=given.epochs,
        train_batch_tokens=given.train_batch_tokens,
    )


# -- candidates --------------------------------------------------------------------------------------------------------


def write_recipe(options: Options) -> Recipe:
    """Return the recipe of the run that makes the candidates, and write the part of the segments that it reads."""
    machine = options.machine
    segments = machine.work / "segments.jsonl"
    draw_segments(machine.data / "corpus" / "segments.jsonl.gz", SURPLUS * options.candidates, segments)
    final = options.learning_rate / 10 if options.method == "lora" else 0.9 * options.learning_rate
    return Recipe.model_validate(
        {
            "iterations": 1,
            "model": {"base": machine.base, "max_tokens": 2048},
            "seed": {
                "inputs": [given.model_dump() for given in seed_inputs(machine.data)],
                "sample": options.seed_pairs + options.audit_pairs,
                "holdout": options.audit_pairs,
                "max_response_chars": 1500,
            },
            "corpus": {
                "inputs": [{"path": str(segments), "header_path": "heading_path", "source_uri": "id"}],
                "sample": options.candidates * 3 // 2,
                "max_chars": 2000,
            },
            "augment": {"max_tokens": 64},
            "gate": {"segments": 0},  # what is asked here is what curation makes of the candidates that there are
            "curate": {"signal": options.signal, "policy": "top", "top": options.kept},
            "train": {
                "method": options.method,
                "learning_rate": options.learning_rate,
                "final_learning_rate": final,
                "dropout": 0.0 if options.method == "lora" else 0.1,
                "epochs": options.epochs,
            },
            "evaluate": {"control": False},
            "runtime": {
                "engine": machine.engine,
                "device": machine.device,
                "batch_tokens": machine.batch_tokens,
                "train_batch_tokens": options.train_batch_tokens,
                "threads": machine.threads,
                "model_cache": str(ROOT / ".cache"),
            },
        }
    )


def draw_segments(source: Path, count: int, target: Path) -> None:
    """Write `count` of the segments, by the hash of their id: reading all of them takes longer than what follows."""
    if target.exists() and sum(1 for _ in target.open("rb")) == count:
        return
    with gzip.open(source, "rt", encoding="utf-8") as file:
        lines = sorted(file, key=lambda line: content_id("study", json.loads(line)["id"]))[:count]
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, "".join(lines).encode())


def run_stages(rooms: Rooms) -> Decision:
    """Run what makes and scores the candidates; return by which signal they would be curated."""
    rooms.seed()
    rooms.ingest()
    rooms.dedup()
    rooms.mix_backward()
    rooms.finetune("backward")
    rooms.augment()
    rooms.mix(0)
    rooms.finetune("iteration-0")
    rooms.audit(0)
    rooms.score(1)
    found = decide(rooms.recipe.curate, rooms.result("iteration-0/audit"), rooms.result("iteration-1/score")["scores"])
    rooms.engines.close()
    return found


def read_pool(rooms: Rooms, decision: Decision, count: int) -> list[Scored]:
    """Return the candidates that every arm chooses from: scored, short enough to be trained on, no instruction twice."""
    rows: dict[str, Scored] = {}
    for row in rooms.read("iteration-1/score", "scored", Scored):
        prompts = rooms.prompts
        rendered = prompts.render(prompts.answer(row.instruction, prompts.web_tag), prompts.target(row.response))
        if decision.signal in row.scores and not isinstance(rendered, str):
            rows.setdefault(normalise(row.instruction), row)
    pool = sorted(rows.values(), key=lambda row: content_id("pool", row.id))[:count]
    if len(pool) < count:
        rooms.console.say(f"only {len(pool)} of {count} candidates are left: some segments and instructions were unfit")
    return pool


def choose_pairs(rooms: Rooms, data: Path, count: int) -> list[Pair]:
    """Return pairs to measure on, none of whose responses the run holds."""
    held = {normalise(pair.response) for split in ("train", "holdout") for pair in rooms.pairs(split)}
    longest = rooms.recipe.seed.max_response_chars
    fresh = [p for p in read_human_pairs(data) if len(p.response) <= longest and normalise(p.response) not in held]
    return sorted(fresh, key=lambda pair: content_id("measure", pair.id))[:count]


# -- figures -----------------------------------------------------------------------------------------------------------


def compare(
    measured: Mapping[str, Sequence[Measured]], options: Options
) -> tuple[dict[str, list[float]], list[Goal], int]:
    """Return every figure, what is told of them in the page, and how many pairs all models could answer."""
    tables = [{f"{arm}-{i}": m.given for arm, models in measured.items() for i, m in enumerate(models)}]
    tables.append({f"{arm}-{i}": m.alone for arm, models in measured.items() for i, m in enumerate(models)})
    (given, alone), _ = without_errors(tables)
    tokens = given["base-0"].tokens
    raw: dict[str, list[float]] = {}
    nats: dict[tuple[str, str], list[Any]] = {}
    for arm, models in measured.items():
        names = [f"{arm}-{i}" for i in range(len(models))]
        nats["nll", arm] = [np.array(given[name].nats) for name in names]
        nats["lift", arm] = [np.array(alone[name].nats) - np.array(given[name].nats) for name in names]
        for measure in MEASURES:
            found = [_ratio(values, tokens) for values in nats[measure, arm]]
            raw[f"{measure}.{arm}"] = [interval.value for interval in found]
        for fact in models[0].facts:
            raw[f"{fact}.{arm}"] = [m.facts[fact] for m in models]
    goals = []
    for measure in MEASURES:
        for arm, against in AGAINST:
            first, second = nats[measure, arm], nats[measure, against]
            raw[f"{measure}.{arm}-{against}"] = [
                _difference(a, b, tokens).value for a, b in zip(first, second, strict=True)
            ]
            pooled = _difference(np.mean(first, axis=0), np.mean(second, axis=0), tokens)
            low, high = resample_both([a - b for a, b in zip(first, second, strict=True)], tokens)
            bounds = {"low": pooled.low, "high": pooled.high, "low_seeds": low, "high_seeds": high}
            raw |= {f"{measure}.{arm}-{against}.{k}": [v] for k, v in bounds.items() if v is not None}
            name = f"{measure} of {arm} minus {against}, mean of {options.seeds} seeds"
            goals.append(Goal(name=f"{name} ({_tell(pooled.low)} to {_tell(pooled.high)})", value=pooled.value))
    return raw, goals, len(tokens)


def _ratio(values: Any, tokens: Sequence[int]) -> Interval:
    return bootstrap_ratio(values, tokens, resamples=RESAMPLES, confidence=CONFIDENCE, seed=0)


def _difference(first: Any, second: Any, tokens: Sequence[int]) -> Interval:
    return bootstrap_ratio_difference(first, second, tokens, resamples=RESAMPLES, confidence=CONFIDENCE, seed=0)


def resample_both(differences: Sequence[Any], tokens: Sequence[int]) -> tuple[float, float]:
    """Return the interval of a mean difference per token when training seeds are drawn again as well as pairs."""
    draw = random.Random(0)
    by_seed, counts = np.stack(differences), np.asarray(tokens)
    means = []
    for _ in range(RESAMPLES):
        seeds = draw.choices(range(len(by_seed)), k=len(by_seed))
        rows = draw.choices(range(len(counts)), k=len(counts))
        means.append(by_seed[np.ix_(seeds, rows)].mean(0).sum() / counts[rows].sum())
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def _tell(bound: float | None) -> str:
    return "none" if bound is None else f"{bound:+.4f}"


if __name__ == "__main__":
    main()
