"""`humpback held-out`: likelihood of held-out pairs, compared between models, and agreement with human preferences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from humpback.benchmarking.alpacaeval import write_json
from humpback.benchmarking.heldout import (
    Pairs,
    Preference,
    by_instruction,
    by_source,
    group_instructions,
    prefer_by_judge,
    prefer_by_likelihood,
    read_heldout,
    read_preferences,
)
from humpback.benchmarking.judging import PAIR_RUBRIC
from humpback.benchmarking.models import ModelOptions, TagChoice, choose_tag, make_prompts, opened
from humpback.benchmarking.winrate_print import tell
from humpback.benchmarking.winrates import rate
from humpback.errors import InputError, StageError
from humpback.evaluation.likelihood import Likelihoods, compare, instruction_nll, response_nll, without_errors

__all__ = ["run_heldout"]

RESAMPLES = 2000
CONFIDENCE = 0.95
INSTRUCTION_TOKENS = 256
"""Room kept for the instruction after a long response, as a run's backward model has."""


def run_heldout(
    models: Sequence[str],
    folder: Path,
    options: ModelOptions,
    *,
    pairs: Sequence[Path],
    preferences: Path | None,
    tags: TagChoice,
    seed: int,
    as_json: bool,
) -> None:
    """Measure every model, write the folder and print the figures."""
    if not pairs and preferences is None:
        raise InputError("there is nothing to measure; give --pairs FILE, --preferences FILE, or both")
    if len(set(models)) < len(models):
        raise InputError("a model is named twice; name each once")
    held = read_heldout(pairs) if pairs else None
    preferred = read_preferences(preferences) if preferences else []
    groups = group_instructions(preference.instruction for preference in preferred)
    kinds: dict[str, dict[str, Likelihoods]] = {"response": {}, "instruction": {}}
    accuracies: dict[str, dict[str, object]] = {}
    for model in models:
        tag = choose_tag(model, tags)
        with opened(model, options, needs="loglikelihood") as engine:
            prompts = make_prompts(engine, options, instruction_tokens=INSTRUCTION_TOKENS)
            if held:
                kinds["response"][model] = response_nll(held.pairs, engine, prompts, tag)
                kinds["instruction"][model] = instruction_nll(held.pairs, engine, prompts)
            if preferred:
                wins = dict(prefer_by_likelihood(preferred, engine, prompts, tag))
                if "choice_logprobs" in engine.capabilities:
                    judge = make_prompts(engine, options, rubric=PAIR_RUBRIC)
                    wins["judge"] = prefer_by_judge(preferred, engine, judge)
                accuracies[model] = {way: _accuracy(values, groups, seed) for way, values in wins.items()}
    report = {
        "likelihood": _likelihood(held, kinds, seed) if held else None,
        "preference": {
            "n": len(preferred),
            "instructions": len(set(groups)),
            "first_better": _first(preferred),
            "models": accuracies,
        }
        if preferred
        else None,
    }
    write_json(folder / "held-out.json", report)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        from humpback.report.figures import clean

        print(clean("\n".join([*_likelihood_lines(report["likelihood"]), *_preference_lines(report["preference"])])))


def _accuracy(wins: Sequence[float | None], groups: Sequence[int], seed: int) -> dict[str, object]:
    given = [(win, group) for win, group in zip(wins, groups, strict=True) if win is not None]
    found = rate([win for win, _ in given], seed=seed, groups=[group for _, group in given])
    return {**asdict(found), "failed": len(wins) - len(given)}


def _first(preferences: Sequence[Preference]) -> float:
    return sum(preference.better == 0 for preference in preferences) / len(preferences)


def _likelihood(held: Pairs, kinds: Mapping[str, Mapping[str, Likelihoods]], seed: int) -> dict[str, object]:
    """Return each model's nats per token and all differences, over all pairs and by source."""
    kept, failed = without_errors(list(kinds.values()))
    if len(failed) == len(held.pairs):
        raise StageError(f"no held-out pair could be computed; the first reason: {next(iter(failed.values()))}")
    told: dict[str, object] = {
        "pairs": len(held.pairs),
        "instructions": len(set(held.instructions.values())),
        "with_context": held.with_context,
        "failed": len(failed),
    }
    sources = sorted(set(held.sources.values()))
    for kind, table in zip(kinds, kept, strict=True):
        groups = {"all": table}
        if len(sources) > 1:
            for source in sources:
                own = {model: by_source(values, held.sources, source) for model, values in table.items()}
                groups["source all" if source == "all" else source] = own  # `all` is of all sources
        told[kind] = {
            name: compare(
                {model: by_instruction(values, held.instructions) for model, values in group.items()},
                random_seed=seed,
                resamples=RESAMPLES,
                confidence=CONFIDENCE,
            )
            for name, group in groups.items()
            if next(iter(group.values())).pair_ids
        }
    return told


def _likelihood_lines(told: object) -> list[str]:
    if not isinstance(told, dict):
        return []
    lines = [
        f"{told['pairs']} held-out pairs of {told['instructions']} instructions, {told['failed']} failed, {told['with_context']} left "
        "out for their context; nats per token, lower is better; 95 % by bootstrap over instructions (n)"
    ]
    for kind in ("response", "instruction"):
        for source, found in told[kind].items():
            for row in found["models"]:
                lines.append(f"{kind}, {source}: {row['model']} {_bounds(row, '.4f')}, n = {row['n']}")
            for row in found["differences"]:
                lines.append(f"{kind}, {source}: {row['model']} less {row['against']} {_bounds(row, '+.4f')}")
    return lines


def _bounds(row: Mapping[str, object], form: str) -> str:
    value, low, high = row["value"], row["low"], row["high"]
    if low is None:
        return f"{value:{form}} (too few instructions for an interval)"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def _preference_lines(told: object) -> list[str]:
    if not isinstance(told, dict):
        return []
    lines = [
        f"{told['n']} human preferences about {told['instructions']} instructions; always the first output would be right in "
        f"{100 * told['first_better']:.0f} %; 95 % by bootstrap over instructions"
    ]
    for model, ways in told["models"].items():
        lines += [f"{model}, by {way}: {tell(found)}, {found['failed']} failed" for way, found in ways.items()]
    return lines
