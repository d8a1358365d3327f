"""`humpback winrate`: two models, or two files of outputs, compared by a judge. In: sides, prompts, a judge. Out: a report.

The folder holds what was asked (`answers.sqlite`: the same command goes on where it stopped), what the judge has cost so far
(`spent.json`), each side's outputs and the annotations in AlpacaEval's form, and `winrate.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from humpback.benchmarking import winrates
from humpback.benchmarking.alpacaeval import draw, write_json
from humpback.benchmarking.comparisons import Comparison
from humpback.benchmarking.judging import PAIR_RUBRIC, Pairing, Rulings, draw_twice, judge_by_probability, judge_twice
from humpback.benchmarking.models import ModelOptions, TagChoice, make_prompts, opened
from humpback.benchmarking.sides import Answers, Question, answer, is_outputs, read_questions, shared_questions
from humpback.benchmarking.spending import Ledger
from humpback.benchmarking.trust import Asked, doubt_judge
from humpback.engines.base import Capability, EngineTotals, Sampling
from humpback.errors import InputError, StageError

__all__ = ["Settings", "run_winrate"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How two sides are compared."""

    model: str
    baseline: str
    judge: str
    """A model's folder, hub id, file or package, or a server's address."""
    prompts: Path | None
    """None takes the prompts of two files of outputs."""
    by_probability: bool
    """Read the judge's probabilities of the five numbers, and no reply."""
    reply_tokens: int
    """Room for the judge's reasoning."""
    recheck: int
    """Prompts on which the judge is asked again, for its self-consistency; 0 leaves that open."""
    sampling: Sampling
    """How models answer."""
    tags: TagChoice
    sample: int | None
    """Prompts drawn by the seed; None takes all."""
    seed: int
    price_in: float | None
    price_out: float | None
    """Of the judge's tokens, per million, in any currency; None states no cost."""
    models: ModelOptions
    """How the two models are run."""
    judging: ModelOptions
    """How the judge is run: a server's name, key and tokenizer are its own."""


@dataclass(frozen=True, kw_only=True)
class _Judged:
    rulings: list[Rulings | None]
    """None where a side has no output."""
    again: dict[int, Rulings] | None
    totals: EngineTotals
    """Of this sitting."""
    spent: Ledger
    """Of all."""


def run_winrate(settings: Settings, folder: Path, *, as_json: bool) -> None:
    """Compare, write the folder and print the report."""
    questions = _choose_questions(settings)
    sides = [
        answer(side, questions, settings.models, sampling=settings.sampling, tags=settings.tags, seed=settings.seed)
        for side in (settings.model, settings.baseline)
    ]
    if sides[0].name == sides[1].name:
        raise InputError(
            f"both sides are {sides[0].name}; a model compared with itself says nothing: give two models, or change "
            "`generator` in one file"
        )
    judged = _judge(settings, questions, sides, folder)
    comparisons = _compare(questions, sides, judged.rulings)
    judge = winrates.examine_judge([r for r in judged.rulings if r], judged.again, seed=settings.seed)
    report = _report(settings, sides, judged, comparisons, judge)
    for name, side in zip(("model", "baseline"), sides, strict=True):
        write_json(folder / f"{name}_outputs.json", _outputs(side, questions))
    write_json(folder / "annotations.json", _annotations(settings, questions, sides, judged.rulings, comparisons))
    write_json(folder / "winrate.json", report)
    if not any(c.share is not None for c in comparisons):
        kinds = ", ".join(f"{count} {kind}" for kind, count in judge.rulings.items())
        raise StageError(
            f"{settings.judge} gave no usable verdict on {len(questions)} prompts ({kinds or 'nothing to judge'}); details are in "
            f"{folder / 'annotations.json'}; try another judge, more --reply-tokens or --by-probability"
        )
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        from humpback.benchmarking.winrate_print import print_winrate

        print_winrate(report, folder)


def _choose_questions(settings: Settings) -> list[Question]:
    files = [Path(side) for side in (settings.model, settings.baseline) if is_outputs(side)]
    if settings.prompts is not None:
        questions = read_questions(settings.prompts)
    elif len(files) == 2:
        questions = shared_questions(files[0], files[1])
    else:
        own = f"; --prompts {files[0]} takes those of the outputs" if files else ""
        raise InputError(f"a model needs --prompts to answer; only two files of outputs bring their own{own}")
    return draw(questions, settings.sample, settings.seed)


def _judge(settings: Settings, questions: Sequence[Question], sides: Sequence[Answers], folder: Path) -> _Judged:
    pairs = list(zip(questions, sides[0].outputs, sides[1].outputs, strict=True))
    pairings = [
        Pairing(instruction=question.text, model=model, baseline=baseline)
        for question, model, baseline in pairs
        if model is not None and baseline is not None
    ]
    names = {
        "model": sides[0].name,
        "baseline": sides[1].name,
        "judge": settings.judging.server_model or settings.judge,
    }
    ledger = Ledger(folder / "spent.json", names)
    needs: Capability = "choice_logprobs" if settings.by_probability else "generate"
    with opened(settings.judge, settings.judging, needs=needs, hear=ledger.hear) as engine:
        prompts = make_prompts(engine, settings.judging, rubric=PAIR_RUBRIC)
        again: dict[int, Rulings] | None = None
        if settings.by_probability:
            found = judge_by_probability(pairings, engine, prompts)
        else:
            room, seed = settings.reply_tokens, settings.seed
            places = draw_twice(pairings, settings.recheck, seed)
            found, again = judge_twice(pairings, engine, prompts, reply_tokens=room, seed=seed, places=places)
        totals = replace(engine.totals)
    rulings = iter(found)
    return _Judged(
        rulings=[None if model is None or baseline is None else next(rulings) for _, model, baseline in pairs],
        again=again,
        totals=totals,
        spent=ledger,
    )


def _compare(
    questions: Sequence[Question], sides: Sequence[Answers], rulings: Sequence[Rulings | None]
) -> list[Comparison]:
    return [
        Comparison(
            model=sides[0].name,
            baseline=sides[1].name,
            prompt=question.text,
            share=ruling.share if ruling else None,
            model_chars=len(sides[0].outputs[place] or ""),
            baseline_chars=len(sides[1].outputs[place] or ""),
            category=question.category,
        )
        for place, (question, ruling) in enumerate(zip(questions, rulings, strict=True))
    ]


def _report(
    settings: Settings,
    sides: Sequence[Answers],
    judged: _Judged,
    comparisons: Sequence[Comparison],
    judge: winrates.JudgeFigures,
) -> dict[str, object]:
    given = [ruling for ruling in judged.rulings if ruling is not None]
    shares = [c.share for c in comparisons if c.share is not None]
    return {
        "model": sides[0].name,
        "baseline": sides[1].name,
        "judge": settings.judge,
        "verdicts": "probability" if settings.by_probability else "reply",
        "judge_is_a_side": settings.judge in (settings.model, settings.baseline),
        "prompts": len(comparisons),
        "judged": len(shares),
        "without_output": sum(ruling is None for ruling in judged.rulings),
        "without_verdict": sum(ruling is not None and ruling.share is None for ruling in judged.rulings),
        "one_order_only": sum((r.model_first.first is None) != (r.baseline_first.first is None) for r in given),
        "rulings": dict(judge.rulings),
        "wins": sum(share > 0.5 for share in shares),
        "losses": sum(share < 0.5 for share in shares),
        "ties": sum(share == 0.5 for share in shares),
        "win_rate": asdict(winrates.rate(shares, seed=settings.seed)),
        "sign_test_p": winrates.sign_test(shares),
        "length_controlled": asdict(winrates.control_length(comparisons, seed=settings.seed)),
        "by_category": {k: asdict(v) for k, v in winrates.by_category(comparisons, seed=settings.seed).items()},
        "by_length": {k: asdict(v) for k, v in winrates.by_length(comparisons, seed=settings.seed).items()},
        "content_hashes": {place: side.content_hash for place, side in zip(("model", "baseline"), sides, strict=True)},
        "mean_chars": {side.name: _mean_chars(side) for side in sides},
        "sides": {side.name: _side(side) for side in sides},
        "judge_figures": asdict(judge),
        "doubt": _doubt(settings, sides, judged),
        "cost": _cost(settings, judged),
    }


def _doubt(settings: Settings, sides: Sequence[Answers], judged: _Judged) -> str | None:
    """Return why the judge is not to be believed on these answers; None where it is."""
    columns = zip(sides[0].outputs, sides[1].outputs, judged.rulings, strict=True)
    again = judged.again or {}
    # second rulings are told by the place among those that were ruled on
    ruled = [(model or "", baseline or "", rulings) for model, baseline, rulings in columns if rulings is not None]
    return doubt_judge(
        [Asked(*one, again.get(place)) for place, one in enumerate(ruled)],
        rechecked=judged.again is not None and settings.recheck > 0,
        resamples=winrates.RESAMPLES,
        confidence=winrates.CONFIDENCE,
        seed=settings.seed,
    )


def _mean_chars(side: Answers) -> float | None:
    lengths = [len(output) for output in side.outputs if output is not None]
    return sum(lengths) / len(lengths) if lengths else None


def _side(side: Answers) -> dict[str, object]:
    totals = asdict(side.totals) if side.totals else None
    missing = sum(output is None for output in side.outputs)
    return {"cut": side.cut, "without_output": missing, "errors": list(side.errors), "engine": totals}


def _cost(settings: Settings, judged: _Judged) -> dict[str, object]:
    """Return what judging has cost over all sittings, and how many answers this one asked for and found."""
    spent = judged.spent.totals
    # no sitting at all: another comparison in this folder has paid for every answer
    priced = settings.price_in is not None and settings.price_out is not None and judged.spent.sittings > 0
    price = ((settings.price_in or 0) * spent.tokens_in + (settings.price_out or 0) * spent.tokens_out) / 1e6
    return {
        "sittings": judged.spent.sittings,
        "judge_seconds": spent.seconds,
        "judge_requests": judged.totals.requests,
        "from_cache": judged.totals.cache_hits,
        "tokens_in": spent.tokens_in,
        "tokens_out": spent.tokens_out,
        "price": price if priced else None,
    }


def _outputs(side: Answers, questions: Sequence[Question]) -> list[object]:
    return [
        {"instruction": question.text, "output": output, "generator": side.name, "dataset": question.category}
        for question, output in zip(questions, side.outputs, strict=True)
        if output is not None
    ]


def _annotations(
    settings: Settings,
    questions: Sequence[Question],
    sides: Sequence[Answers],
    rulings: Sequence[Rulings | None],
    comparisons: Sequence[Comparison],
) -> list[object]:
    """Return AlpacaEval's annotations with both orders' rulings beside; a prompt without a verdict has preference null."""
    return [
        {
            "instruction": question.text,
            "output_1": sides[1].outputs[place] or "",
            "generator_1": sides[1].name,
            "dataset": question.category,
            "output_2": sides[0].outputs[place] or "",
            "generator_2": sides[0].name,
            "annotator": settings.judge,
            "preference": None if share is None else 1 + share,
            "orders": asdict(ruling) if ruling else None,
        }
        for place, (question, ruling) in enumerate(zip(questions, rulings, strict=True))
        for share in [comparisons[place].share]
    ]
