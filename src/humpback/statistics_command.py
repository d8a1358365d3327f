"""`humpback statistics`: what the sets of a run, or of data set files, are made of. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from humpback.errors import InputError
from humpback.options import Json

if TYPE_CHECKING:
    from humpback.evaluation.describing import Measuring
    from humpback.evaluation.tallying import Row
    from humpback.recipe import EvaluationSet

__all__ = ["statistics"]


def statistics(
    places: Annotated[
        list[Path],
        typer.Argument(
            help="A run's folder, or data sets: .jsonl, .parquet or folders of them.", metavar="RUN|DATA..."
        ),
    ],
    seed_pairs: Annotated[
        Path | None, typer.Option("--seed", metavar="FILE", help="Pairs that the data sets are compared with.")
    ] = None,
    evaluation: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Evaluation prompts that none should hold; repeatable.")
    ] = None,
    instruction: Annotated[str, typer.Option(metavar="NAME", help="Column of the instruction.")] = "instruction",
    response: Annotated[str, typer.Option(metavar="NAME", help="Column of the response.")] = "response",
    sample: Annotated[int, typer.Option(min=20, max=100_000, help="Rows of each set whose words are tagged.")] = 1000,
    random_seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of samples and intervals; default the run's own, else 0.", show_default=False),
    ] = None,
    json_: Json = False,
) -> None:
    """Describe sets of pairs: counts, lengths, what they ask for, variety, languages, sources, overlap. No model is asked.

    Of a run: its seed, its candidates and what every iteration curated, as far as it is.
    """
    from humpback.evaluation.describing import Measuring
    from humpback.recipe import EvaluationSet

    if seed_pairs is not None and not seed_pairs.exists():
        raise InputError(
            f"--seed {seed_pairs} is no file of pairs; give one, or --random-seed for the number that samples are drawn by"
        )
    sets = [EvaluationSet(path=path, columns=[]) for path in evaluation or ()]
    runs = [place for place in places if (place / "recipe.yaml").is_file()]
    if runs and (len(places) > 1 or seed_pairs is not None):
        raise InputError(
            f"{runs[0]} is a run, which has its own seed and sets; give it alone, without other data or --seed"
        )
    if runs:
        data = _describe_run(runs[0], sets, sample, random_seed)
    else:
        how = Measuring(sample=sample, seed=random_seed or 0)
        data = _describe_files(places, seed_pairs, sets, how, instruction, response)
    if json_:
        print(json.dumps(data, indent=2))  # ASCII only
    else:
        _print(data)


def _describe_run(
    run: Path, evaluation: Sequence[EvaluationSet], sample: int, random_seed: int | None
) -> dict[str, Any]:
    from humpback.recipe import load_recipe
    from humpback.report.runsets import describe_run, measuring_of
    from humpback.store.rundir import RunDir

    recipe = load_recipe(run / "recipe.yaml")
    how = replace(measuring_of(recipe), sample=sample)
    if random_seed is not None:
        how = replace(how, seed=random_seed)
    return {"run": str(run), **describe_run(RunDir(run), recipe, how, evaluation)}


def _describe_files(
    places: Sequence[Path],
    seed: Path | None,
    evaluation: Sequence[EvaluationSet],
    how: Measuring,
    instruction: str,
    response: str,
) -> dict[str, Any]:
    """Return the statistics of data set files, with the rows of each that have no pair counted by reason."""
    from humpback.evaluation.describing import describe_sets
    from humpback.evaluation.tallying import Described
    from humpback.report.runsets import SEED, evaluation_reference, seed_reference

    left_out: dict[str, Counter[str]] = {}

    def rows(name: str, path: Path) -> Iterator[Row]:
        return _read(path, instruction, response, left_out.setdefault(name, Counter()))

    references = [evaluation_reference(evaluation)] if evaluation else []
    sets = [Described(name, rows(name, path)) for name, path in _names(places, {SEED} if seed else set())]
    if seed is not None:
        references.insert(0, seed_reference([row.instruction for row in _read(seed, instruction, response, Counter())]))
        sets.insert(0, Described(SEED, rows(SEED, seed), own=SEED))
    data = describe_sets(sets, references, how)
    return {**data, "left_out": {name: dict(counts) for name, counts in left_out.items()}}


def _names(places: Sequence[Path], taken: AbstractSet[str]) -> list[tuple[str, Path]]:
    """Return each place with a name of its own: the file's, or the whole path where another is called so or it is `taken`."""
    short = Counter(place.name for place in places)
    if len(set(places)) != len(places):
        raise InputError("a data set is given twice; give each once")
    short.update(taken)
    told = [place.name if place.name and short[place.name] == 1 else str(place) for place in places]
    return [(str(place.absolute()) if name in taken else name, place) for name, place in zip(told, places, strict=True)]


def _read(path: Path, instruction: str, response: str, left_out: Counter[str]) -> Iterator[Row]:
    from humpback.evaluation.tallying import Row
    from humpback.records import Rejected
    from humpback.seeds.datasets import read_dataset

    for found in read_dataset(path, instruction=instruction, response=response):
        if isinstance(found, Rejected):
            left_out[found.reason] += 1
        else:
            yield Row(found.instruction, found.response, found.source_uri)


def _print(data: dict[str, Any]) -> None:
    from humpback.report import figures, settables
    from humpback.report.terminal import print_table

    for table in settables.set_tables(data):
        print_table(*table)
    for row in data["sets"]:
        if lines := settables.verb_lines(row):
            title = f"Verbs of {row['name']}: the commonest of {row['asked']['different_verbs']:,}"
            print_table(title, ["verb", "n>", "share>", "objects"], lines)
    for name, counts in data.get("left_out", {}).items():
        if counts:
            print(figures.clean(f"{name}: rows without a pair are left out: {figures.reasons(counts)}"))
    for note in settables.notes(data):
        print(figures.clean(f"- {note}"))
