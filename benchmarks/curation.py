"""What curation can tell, on pairs that people wrote: every signal against every kind of corruption.

AUC of each signal, of the baselines and of P(good), on pairs that nothing was fitted on; of P(good) on kinds it never saw; whether a
stated precision is true over 20 splits; how many of 500 ratings cannot be read; and which output of an LLMBar pair each signal
prefers. Of an untuned model, and with `--run` of every M_t of a run too. Answers are kept, so that what was stopped goes on.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import ROOT, Goal, write_result
from study import Machine, machine_of, parser, read_human_pairs

from humpback.engines import EngineSpec, find_model, open_engine, resolve_model, steady_format
from humpback.engines.base import ModelRef
from humpback.evaluation.audit import Audit, AuditRow, audit_signals
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.judge import Judge
from humpback.evaluation.precision import measure_operating_points, promise_precision
from humpback.evaluation.raters import InstructionResponse, Missing, Raters
from humpback.evaluation.rating import count_replies, rating, sampled_rating
from humpback.evaluation.signals import SIGNALS, compute_signals
from humpback.prompts import Prompts
from humpback.recipe import NumberFormat
from humpback.records import Pair
from humpback.store.shards import read_records, shard_files

CHARS = (120, 800)
"""Responses of this many characters: long enough to be spoilt in every way, short enough for two cores."""
RATED_CHARS = 3000
"""Longest response of the pairs that are only rated: the longest segment."""
SIGNAL_NAMES = ("rating", "backward_lift", "forward_lift", "ifd", "probe")
SPLITS = 20
WANTED, PREVALENCE = (0.8, 0.9), 0.5
GOALS = {
    "random mismatch": (("mismatch_random",), 0.99),
    "hard mismatch": (("mismatch_hard",), 0.95),
    "navigation and advertising": (("navigation", "advertising"), 0.97),
    "truncation": (("cut_end", "cut_start"), 0.97),
    "forum and blog voice": (("voice",), 0.97),
    "over all": (("all",), 0.96),
}
UNSEEN_GOAL = 0.90
NOTE = (
    "{pairs} pairs (Dolly without context, Open Assistant), responses of {low} to {high} characters, and their corruptions; {model}, "
    "untuned (also as the backward model){others}; computed in {dtype}. Every figure of P(good), probe and words is on pairs of "
    "folds that nothing "
    "was fitted on, and wording, donors and languages of a fold are its own. `length` and `words` are baselines; `unseen`: P(good) on "
    "a kind that nothing was learnt from. Stated precision: {splits} splits of the pairs in half; a cut-off that promises "
    "{wanted} at {prevalence:g} good pairs is taken on one half and its real precision counted on the other; broken promises are a "
    "share of those that selected any pair (`made`; `selected_nothing` counts the others). `rating.*`: ratings of {rated} other pairs "
    "by token probabilities, by why they have no value; "
    "`sampled.*`: one reply each to {sampled} of them. LLMBar: Natural, {choices} pairs of outputs, the share in which the "
    "signal is higher (ifd: lower) for the better one; a coin has 0.5."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes of the study."""

    machine: Machine
    run: Path | None
    """Its models are asked too."""
    dtype: NumberFormat
    """What all models compute in: a format measured anew each time would mix two in one study."""
    pairs: int
    rated: int
    sampled: int
    choices: int | None
    """LLMBar's pairs of outputs; None is all."""


def main() -> None:
    options = read_options()
    pairs, others = choose_pairs(options)
    choices = read_choices(options.machine.data)[: options.choices]
    figures: dict[str, float] = {}
    goals: list[Goal] = []
    names = []
    for name, (model, backward) in find_models(options).items():
        found, promised = study_model(name, open_raters(options, model, backward), pairs, others, choices, options)
        prefix = "" if name == "untuned" else f"{name}."
        figures |= {prefix + key: value for key, value in found.items()}
        goals += promised
        names.append(name)
    low, high = CHARS
    note = NOTE.format(
        pairs=len(pairs),
        low=low,
        high=high,
        model=options.machine.base,
        dtype=options.dtype,
        others=f", and {', '.join(names[1:])} of a run" if names[1:] else "",
        splits=SPLITS,
        wanted=" or ".join(f"{wanted:g}" for wanted in WANTED),
        prevalence=PREVALENCE,
        rated=len(others),
        sampled=min(options.sampled, len(others)),
        choices=len(choices),
    )
    raw = {name: [value] for name, value in figures.items()}
    part = "run" if options.run else ""  # each model costs as much as the first: a run's get fewer pairs
    write_result("curation", raw=raw, goals=goals, note=note, folder=options.machine.folder, part=part)


def read_options() -> Options:
    asked = parser(__doc__, "curation")
    asked.add_argument("--run", type=Path, default=None, help="folder of a run whose M_0, M_1 ... are asked too")
    asked.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default=None, help="default: float32 on a CPU"
    )
    asked.add_argument("--pairs", type=int, default=120, help="pairs of the audit")
    asked.add_argument("--rated", type=int, default=500, help="pairs that are only rated")
    asked.add_argument("--sampled", type=int, default=500, help="of those, pairs that a reply is drawn for")
    given = asked.parse_args()
    if given.small:
        given.pairs, given.rated, given.sampled = 24, 6, 3
    return Options(
        machine=machine_of(given, "curation"),
        run=given.run,
        dtype=given.dtype or ("auto" if given.small else steady_format(given.device)),
        pairs=given.pairs,
        rated=given.rated,
        sampled=given.sampled,
        choices=4 if given.small else None,
    )


def choose_pairs(options: Options) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of the audit, and others to be rated, by content hash; none that the run was trained on."""
    trained = set()
    if options.run:
        held = read_records(shard_files(options.run / "seed", "pairs"), Pair)
        trained = {pair.id for pair in held if pair.split == "train"}
    fresh = [pair for pair in read_human_pairs(options.machine.data) if pair.id not in trained]
    fresh.sort(key=lambda pair: pair.id)
    audited = [p for p in fresh if CHARS[0] <= len(p.response) <= CHARS[1]][: options.pairs]
    taken = {pair.id for pair in audited}
    others = [p for p in fresh if p.id not in taken and len(p.response) <= RATED_CHARS][: options.rated]
    return audited, others


def find_models(options: Options) -> dict[str, tuple[ModelRef, ModelRef]]:
    """Return each model that rates, with the backward model beside it."""
    base = resolve_model(options.machine.base, ROOT / ".cache")
    models = {"untuned": (base, base)}
    if options.run:
        backward = find_model(options.run / "backward" / "finetune" / "model")
        for folder in sorted(options.run.glob("iteration-*/finetune/model")):
            models[f"M_{folder.parts[-3].removeprefix('iteration-')}"] = (find_model(folder), backward)
    return models


def open_raters(options: Options, model: ModelRef, backward: ModelRef) -> Raters:
    machine = options.machine
    model_engine, backward_engine = (
        open_engine(
            EngineSpec(
                model=ref,
                engine=machine.engine,
                device=machine.device,
                batch_tokens=machine.batch_tokens,
                threads=machine.threads,
                dtype=options.dtype,
                cache=machine.work / "answers.sqlite",
            )
        )
        for ref in (model, backward)
    )
    if model == backward:
        backward_engine = model_engine  # its weights are loaded once
    prompts = Prompts(model_engine.tokenizer, max_tokens=8192 if machine.small else 2048, instruction_tokens=128)
    return Raters(model=model_engine, backward=backward_engine, prompts=prompts, min_label_mass=0.5, samples=1)


def study_model(
    name: str,
    raters: Raters,
    pairs: Sequence[Pair],
    others: Sequence[Pair],
    choices: Sequence[Mapping[str, Any]],
    options: Options,
) -> tuple[dict[str, float], list[Goal]]:
    """Return one model's figures and goals."""
    print(f"{name}: audit of {len(pairs)} pairs", flush=True)
    audit = audit_signals(pairs, SIGNAL_NAMES, raters, random_seed=0, resamples=2000, confidence=0.95)
    if audit.fitted is None:
        raise SystemExit(audit.note)
    figures, goals = list_figures(audit), list_goals(audit)
    for wanted in WANTED:
        kept, broken, empty = count_promises(audit.rows, wanted)
        counts = {"made": kept + broken, "broken": broken, "selected_nothing": empty}
        figures |= {f"promises.{wanted:g}.{name}": float(count) for name, count in counts.items()}
        if kept + broken:
            told = f"share of {kept + broken} promises of {wanted:g} that were broken"
            goals.append(Goal.at_most(told, broken / (kept + broken), 0.05))
    print(f"{name}: ratings of {len(others)} pairs", flush=True)
    found = count_ratings(others, options.sampled, raters)
    figures |= found
    goals.append(Goal.at_most("ratings by token probabilities without a value", found["rating.without_value"], 0))
    print(f"{name}: LLMBar", flush=True)
    judged = judge_choices(choices, raters, audit.fitted.judge)
    figures |= {f"llmbar.{signal}": value for signal, value in judged.items()}
    for engine in {id(e): e for e in (raters.model, raters.backward)}.values():
        engine.close()
    return figures, [replace(goal, name=f"{name}: {goal.name}") for goal in goals]


def list_figures(audit: Audit) -> dict[str, float]:
    figures = {
        f"auc.{entry.signal}.{kind}": interval.value for entry in audit.signals for kind, interval in entry.auc.items()
    }
    for entry in audit.signals:
        if entry.signal in (P_GOOD, "length"):
            figures |= {f"auc_like_length.{entry.signal}.{kind}": value for kind, value in entry.like_length.items()}
    fitted = audit.fitted
    assert fitted is not None
    figures |= {f"auc_unseen.{kind}": interval.value for kind, interval in fitted.unseen.items()}
    return figures | {"ece": fitted.reliability.ece, "brier": fitted.reliability.brier}


def list_goals(audit: Audit) -> list[Goal]:
    by_kind = next(entry.auc for entry in audit.signals if entry.signal == P_GOOD)
    goals = [
        Goal.at_least(f"AUC of P(good), {name}", min(by_kind[kind].value for kind in kinds), goal)
        for name, (kinds, goal) in GOALS.items()
    ]
    fitted = audit.fitted
    assert fitted is not None
    worst = min(interval.value for interval in fitted.unseen.values())
    return [*goals, Goal.at_least("AUC of P(good) on the worst kind never seen", worst, UNSEEN_GOAL)]


def count_promises(rows: Sequence[AuditRow], wanted: float) -> tuple[int, int, int]:
    """Return how many of the splits' promises were kept, how many broken, and how many selected no pair to be true of."""
    by_pair: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        if P_GOOD in row.scores:
            by_pair.setdefault(row.pair_id, ([], []))[row.kind != "true"].append(row.scores[P_GOOD])
    kept = broken = empty = 0
    for split in range(SPLITS):
        ids = sorted(by_pair)
        random.Random(split).shuffle(ids)
        known, others = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        points = measure_operating_points(
            [score for i in known for score in by_pair[i][0]], [by_pair[i][1] for i in known], confidence=0.95
        )
        promise = promise_precision(points, wanted, PREVALENCE)
        if promise is None or not promise.kept_promise:
            continue
        real = find_precision([by_pair[i] for i in others], promise.point.threshold)
        if real is None:
            empty += 1
            continue
        kept, broken = kept + (real >= wanted), broken + (real < wanted)
    return kept, broken, empty


def find_precision(pairs: Sequence[tuple[list[float], list[float]]], threshold: float) -> float | None:
    """Return the share of good pairs among those selected; None where none is."""
    true, spoilt = ([score for pair in pairs for score in pair[side]] for side in (0, 1))
    good = PREVALENCE * sum(score >= threshold for score in true) / len(true)
    bad = (1 - PREVALENCE) * sum(score >= threshold for score in spoilt) / len(spoilt)
    return good / (good + bad) if good + bad else None


def count_ratings(pairs: Sequence[Pair], sampled: int, raters: Raters) -> dict[str, float]:
    """Return how many pairs have no rating by token probabilities, by reason, and what came of the sampled replies."""
    texts = [InstructionResponse(pair.instruction, pair.response) for pair in pairs]
    missing = Counter(value.reason.partition(":")[0] for value in rating(texts, raters) if isinstance(value, Missing))
    replies = [
        value.counts if isinstance(value, Missing) else value for value in sampled_rating(texts[:sampled], raters)
    ]
    return {
        "rating.without_value": float(missing.total()),
        **{f"rating.{reason}": float(count) for reason, count in missing.items()},
        **{f"sampled.{kind}": float(count) for kind, count in count_replies(replies).items()},
    }


def read_choices(data: Path) -> list[Mapping[str, Any]]:
    path = data / "evaluation" / "judging" / "llmbar-natural.json"
    rows: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def judge_choices(rows: Sequence[Mapping[str, Any]], raters: Raters, judge: Judge) -> dict[str, float]:
    """Return for each signal in how many of the pairs it prefers the better output; a tie or a missing value is half."""
    texts = [InstructionResponse(row["input"], row[f"output_{side}"]) for row in rows for side in (1, 2)]
    scored = compute_signals(texts, SIGNAL_NAMES, Raters(**{**vars(raters), "judge": judge}))
    shares = {}
    for name in (*SIGNAL_NAMES, P_GOOD):
        won = 0.0
        for row, first, second in zip(rows, scored[::2], scored[1::2], strict=True):
            if name not in first.scores or name not in second.scores:
                won += 0.5
                continue
            values = [
                SIGNALS[name].direct(s.scores[name]) if name in SIGNALS else s.scores[name] for s in (first, second)
            ]
            better, worse = values if row["label"] == 1 else values[::-1]
            won += 1.0 if better > worse else 0.5 if better == worse else 0.0
        shares[name] = won / len(rows)
    return shares


if __name__ == "__main__":
    main()
