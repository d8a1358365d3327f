"""The sets of pairs that a run holds so far, and what they should not repeat. In: a run folder. Out: their statistics.

The paper's table has seed, all candidates and A_k of an iteration; here every iteration that is curated has its row. What a run keeps
out of training (its held-out pairs, `corpus.decontaminate`) is what its instructions are compared with, beside the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from humpback.corpus.overlap import Overlap
from humpback.errors import InputError
from humpback.evaluation.describing import Measuring, describe_sets
from humpback.evaluation.tallying import Described, Reference, Row
from humpback.recipe import EvaluationSet, Recipe
from humpback.records import Candidate, Pair, Rewritten, Scored
from humpback.stages.table import find_course
from humpback.store.rundir import RunDir
from humpback.store.shards import read_records, shard_files

__all__ = ["MOST_NEAREST", "SEED", "describe_run", "evaluation_reference", "measuring_of", "seed_reference"]

SEED = "seed"
MOST_NEAREST = 5000
"""Instructions of the seed among which the nearest is looked for."""


def describe_run(
    run_dir: RunDir, recipe: Recipe, how: Measuring, evaluation: Sequence[EvaluationSet] = ()
) -> dict[str, Any]:
    """Return the statistics of every set of pairs that is complete; raise InputError when there is none."""
    if run_dir.manifest("seed") is None:
        raise InputError(f"{run_dir.path} has no seed yet; `humpback status {run_dir.path}` shows how far it is")
    instructions = [pair.instruction for pair in _pairs(run_dir, "train")]
    references = [seed_reference(instructions)]
    held_out = [pair.instruction for pair in _pairs(run_dir, "holdout")]
    references.append(Reference("held-out pairs", Overlap.of_texts("the held-out pairs", held_out)))
    sets = [*recipe.corpus.decontaminate, *evaluation]
    if sets:
        references.append(evaluation_reference(sets))
    return describe_sets(_sets(run_dir, recipe), references, how)


def measuring_of(recipe: Recipe) -> Measuring:
    """Return how the run's own report measures."""
    evaluate = recipe.evaluate
    return Measuring(resamples=evaluate.resamples, confidence=evaluate.confidence, seed=recipe.random_seed)


def seed_reference(instructions: Sequence[str]) -> Reference:
    """Return the seed as what other sets should not repeat."""
    return Reference(SEED, Overlap.of_texts("the seed", instructions), instructions[:MOST_NEAREST])


def evaluation_reference(sets: Sequence[EvaluationSet]) -> Reference:
    """Return evaluation sets, together, as what no set should hold."""
    return Reference("evaluation sets", Overlap.load(sets))


def _sets(run_dir: RunDir, recipe: Recipe) -> Iterator[Described]:
    pairs = (Row(pair.instruction, pair.response, pair.source_uri) for pair in _pairs(run_dir, "train"))
    yield Described(SEED, pairs, own=SEED)
    if run_dir.manifest("augment") is None:
        return
    files = shard_files(run_dir.folder("augment"), "candidates")
    yield Described("candidates", (_row(row) for row in read_records(files, Candidate)))
    for t in range(1, find_course(recipe, run_dir).iterations + 1):
        if run_dir.manifest(f"iteration-{t}/curate") is None:
            return
        files = shard_files(run_dir.folder(f"iteration-{t}/curate"), "curated")
        yield Described(f"curated, iteration {t}", (_row(row) for row in read_records(files, Scored)))
        if run_dir.manifest(f"iteration-{t}/rewrite") is not None:
            files = shard_files(run_dir.folder(f"iteration-{t}/rewrite"), "rewritten")
            yield Described(f"rewritten, iteration {t}", (_row(row) for row in read_records(files, Rewritten)))


def _pairs(run_dir: RunDir, split: str) -> Iterator[Pair]:
    files = shard_files(run_dir.folder("seed"), "pairs")
    return (pair for pair in read_records(files, Pair) if pair.split == split)


def _row(row: Candidate | Scored) -> Row:
    return Row(row.instruction, row.response, row.source_uri)
