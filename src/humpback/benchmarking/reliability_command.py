"""`humpback reliability`: one rubric, several models, a fixed sample. In: models or runs, pairs. Out: what each says, and agreement.

Answers are kept in the folder: a killed command goes on, and another model, or the same models with more pairs, asks only what is new.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from humpback.benchmarking.alpacaeval import write_json
from humpback.benchmarking.models import ModelOptions, make_prompts, opened
from humpback.benchmarking.ratedpairs import Item, Items, read_items
from humpback.benchmarking.winrates import rate
from humpback.errors import InputError, StageError
from humpback.evaluation.agreement import weighted_auc
from humpback.evaluation.raters import InstructionResponse, Missing, Raters, Values
from humpback.evaluation.rating import rating, sampled_rating
from humpback.evaluation.reliability import (
    LEVELS,
    Draw,
    Figure,
    compare_raters,
    correlate_raters,
    intraclass,
    to_levels,
)
from humpback.recipe import PromptSettings, ScoreSettings, read_rubric
from humpback.store.fingerprint import derive_seed

__all__ = ["expand_models", "run_reliability"]

RESAMPLES = 1000
CONFIDENCE = 0.95
Floats = npt.NDArray[np.float64]
Row = dict[str, object]


class Rated(NamedTuple):
    """What one model says of the items."""

    scores: Floats
    """NaN where it gave none."""
    missing: Counter[str]
    """Why not: the first word of the reason."""
    masses: Sequence[float]
    """Probability on the five scores, of ratings read from probabilities."""


def run_reliability(
    references: Sequence[str],
    pairs: Path,
    folder: Path,
    options: ModelOptions,
    *,
    rubric: str,
    samples: int,
    sample: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Rate every item with every model, write the folder and print what agrees with what.

    A score is the mean of `samples` replies; 0 reads it from probabilities.
    """
    models = expand_models(references)
    items = read_items(pairs, sample=sample, seed=seed)
    wording = read_rubric(PromptSettings(rubric=rubric))
    rated = {model: _rate(model, items, options, wording, samples, seed) for model in models}
    draw = Draw(RESAMPLES, CONFIDENCE, derive_seed(seed, "reliability-bootstrap"))
    groups = [item.group for item in items.items]
    report: Row = {
        "pairs": {
            "kind": items.kind,
            "items": len(items.items),
            "instructions": len(set(groups)),
            "left_out": items.left_out,
        },
        "rubric": rubric,
        "way": f"mean of {samples} repl{'ies' if samples > 1 else 'y'}"
        if samples
        else "probabilities of the five scores",
        "models": [_describe(model, own) for model, own in rated.items()],
        "between": [
            {
                "model": one,
                "against": other,
                **_plain(compare_raters(rated[one].scores, rated[other].scores, groups, draw)),
            }
            for one, other in itertools.combinations(rated, 2)
        ],
        "icc": _icc(rated, groups, draw),
        "human": [{"model": model, **_by_people(own, items, draw)} for model, own in rated.items()],
    }
    write_json(folder / "reliability.json", report)
    if all(np.isnan(own.scores).all() for own in rated.values()):
        reasons = sum((own.missing for own in rated.values()), Counter[str]())
        raise StageError(
            f"no model gave a rating that can be used ({', '.join(f'{n} {why}' for why, n in reasons.most_common(3))}); take another "
            "--rubric, more --max-tokens, or --samples N to read replies"
        )
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        from humpback.benchmarking.reliability_print import print_reliability

        print_reliability(report, folder)


def expand_models(references: Sequence[str]) -> list[str]:
    """Return the models named; a run's folder stands for all its models M_0, M_1 ... that are there."""
    models: list[str] = []
    for reference in references:
        run = Path(reference)
        if not (run / "recipe.yaml").is_file():
            models.append(reference)
            continue
        found = [path for path in run.glob("iteration-*/finetune/model") if path.parts[-3][10:].isdecimal()]
        if not found:
            raise InputError(f"run {run} has no model M_0 yet; `humpback status {run}` shows how far it is")
        models += [str(path) for path in sorted(found, key=lambda path: int(path.parts[-3][10:]))]
    twice = [model for model, count in Counter(models).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice, and would agree with itself; name each model once")
    return models


def _rate(model: str, items: Items, options: ModelOptions, wording: str, samples: int, seed: int) -> Rated:
    with opened(model, options, needs="generate" if samples else "choice_logprobs") as engine:
        settings = ScoreSettings()
        raters = Raters(
            model=engine,
            backward=engine,  # ratings ask it nothing
            prompts=make_prompts(engine, options, rubric=wording),
            min_label_mass=settings.min_label_mass,
            samples=max(samples, 1),
            sample_temperature=0.0 if samples == 1 else settings.sample_temperature,
            reasoning_tokens=settings.reasoning_tokens,
            random_seed=seed,
        )
        asked = [InstructionResponse(item.instruction, item.response) for item in items.items]
        answers: Sequence[Values | Missing] = (sampled_rating if samples else rating)(asked, raters)
    name = "sampled_rating" if samples else "rating"
    missing = Counter(a.reason.partition(" ")[0].rstrip(":") for a in answers if isinstance(a, Missing))
    given = [None if isinstance(answer, Missing) else answer for answer in answers]
    return Rated(
        scores=np.array([np.nan if values is None else values[name] for values in given]),
        missing=missing,
        masses=[values["rating_label_mass"] for values in given if values is not None and not samples],
    )


def _describe(model: str, own: Rated) -> Row:
    """Return the distribution of one model's scores, and why some are missing."""
    scores = own.scores[~np.isnan(own.scores)]
    levels = Counter(to_levels(scores))
    none = not len(scores)
    return {
        "model": model,
        "rated": len(scores),
        "missing": dict(own.missing),
        "mean": None if none else float(scores.mean()),
        "sd": None if len(scores) < 2 else float(scores.std(ddof=1)),
        "quartiles": None if none else [float(value) for value in np.quantile(scores, (0.25, 0.5, 0.75))],
        "levels": {str(level): levels[level] for level in range(LEVELS[0], LEVELS[1] + 1)},
        "label_mass": sum(own.masses) / len(own.masses) if own.masses else None,
    }


def _plain(figures: NamedTuple) -> Row:
    return {name: asdict(figure) for name, figure in figures._asdict().items()}


def _icc(rated: Mapping[str, Rated], groups: Sequence[int], draw: Draw) -> Row | None:
    """Return both ICCs over the models that rated two items or more; None for one model, which has nobody to agree with."""
    if len(rated) < 2:
        return None
    scores = {model: own.scores for model, own in rated.items() if np.count_nonzero(~np.isnan(own.scores)) > 1}
    left_out = [model for model in rated if model not in scores]
    if len(scores) < 2:
        none = Figure(
            value=None, n=0, reason=f"{len(scores)} of {len(rated)} models rated two items or more; 2 are the least"
        )
        return {"models": len(scores), "left_out": left_out, "agreement": asdict(none), "consistency": asdict(none)}
    agreement, consistency = intraclass(np.stack(list(scores.values()), axis=1), groups, draw)
    return {
        "models": len(scores),
        "left_out": left_out,
        "agreement": asdict(agreement),
        "consistency": asdict(consistency),
    }


def _by_people(own: Rated, items: Items, draw: Draw) -> Row:
    """Return how far one model agrees with people, by what people said: None where they said no such thing."""
    told: Row = dict.fromkeys(("preference", "auc", "weighted_kappa", "spearman"))
    groups = [item.group for item in items.items]
    if items.kind == "preferences":
        wins = _prefer(own.scores, items.items)
        given = [(win, group) for win, group in zip(wins, groups[::2], strict=True) if win is not None]
        told["preference"] = {
            **asdict(rate([win for win, _ in given], seed=draw.seed, groups=[group for _, group in given])),
            "ties": sum(win == 0.5 for win, _ in given),
            "failed": len(wins) - len(given),
        }
    labels = np.array([np.nan if item.label is None else item.label for item in items.items])
    if not np.isnan(labels).all():
        told["weighted_kappa"] = asdict(compare_raters(own.scores, labels, groups, draw).weighted_kappa)
        told["spearman"] = asdict(correlate_raters(own.scores, labels, groups, draw))
    judged = [(s, item) for s, item in zip(own.scores, items.items, strict=True) if item.good is not None and s == s]
    if any(item.good is not None for item in items.items):
        found = weighted_auc(
            [float(score) for score, _ in judged],
            [bool(item.good) for _, item in judged],
            [item.weight for _, item in judged],
            **draw._asdict(),
            groups=[item.group for _, item in judged],
        )
        told["auc"] = asdict(
            found or Figure(value=None, n=len(judged), reason=_why_no_auc([item for _, item in judged]))
        )
    return told


def _why_no_auc(judged: Sequence[Item]) -> str:
    if not judged:
        return "no pair that people judged has a rating"
    return f"people call all {len(judged)} rated pairs {'good' if judged[0].good else 'bad'}, so there is nothing to tell them from"


def _prefer(scores: Floats, items: Sequence[Item]) -> list[float | None]:
    """Return 1 where the output that people prefer has the higher score, a half for a tie, None where one has none."""
    wins: list[float | None] = []
    for place in range(0, len(items), 2):  # the outputs of one preference stand together
        own = {
            bool(item.better): float(score)
            for item, score in zip(items[place : place + 2], scores[place:], strict=False)
        }
        good, bad = own[True], own[False]
        wins.append(None if np.isnan(good + bad) else 0.5 if good == bad else float(good > bad))
    return wins
