"""The stage table: every stage of a recipe, in the order it runs, and how many iterations a run has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from humpback.recipe import Recipe
from humpback.store.rundir import RunDir

__all__ = ["Course", "compare_names", "compares", "find_course", "known_names", "stage_names"]


class Course(NamedTuple):
    """How many iterations a run has, and which model it keeps."""

    iterations: int
    """T; with `iterations: auto` as far as it is known, the iteration at work included."""
    best: int
    """M_best is the model that is kept."""
    settled: bool
    """Whether T is final."""
    why: str

    @property
    def published(self) -> int:
        """The iteration whose curated pairs are the dataset: the best model's; the first when that is M_0, which has none."""
        return max(self.best, 1)


def find_course(recipe: Recipe, run_dir: RunDir) -> Course:
    """Return the course of a run: the recipe's T, or what its stop stages have found so far."""
    if recipe.iterations != "auto":
        return Course(recipe.iterations, recipe.iterations, True, "set in the recipe")
    for t in range(1, recipe.max_iterations + 1):
        manifest = run_dir.manifest(f"iteration-{t}/stop")
        if manifest is None:
            return Course(t, t - 1, False, f"iteration {t} is not judged yet")
        improved = manifest.result["improved"]
        # a folder written before audits were compared must still be told that its stop stage is stale
        if not manifest.result.get("goes_on", improved):
            best = t if improved else t - 1
            return Course(t, best, True, str(manifest.result["why"]))
    t = recipe.max_iterations
    return Course(t, t, True, f"M_{t} is still better than M_{t - 1}; max_iterations={t} ends it")


def known_names(recipe: Recipe, run_dir: RunDir) -> list[str]:
    """Return every stage of a run, in the order it runs, as far as its iterations are known."""
    return [name for name, _ in stage_names(recipe, find_course(recipe, run_dir).iterations)]


def stage_names(recipe: Recipe, iterations: int | None = None) -> list[tuple[str, int | None]]:
    """Return every stage with its iteration; without a number, of the most iterations that the recipe can have."""
    most = recipe.max_iterations if recipe.iterations == "auto" else recipe.iterations
    return list(_stage_names(recipe, most if iterations is None else iterations))


def compare_names(recipe: Recipe, iterations: int | None = None) -> list[str]:
    """Return the stages that ask a judge; without a number, of the most iterations that the recipe can have."""
    most = recipe.max_iterations if recipe.iterations == "auto" else recipe.iterations
    return [
        f"iteration-{t}/compare" for t in range((most if iterations is None else iterations) + 1) if compares(recipe, t)
    ]


def compares(recipe: Recipe, t: int) -> bool:
    """Tell whether M_t is compared: M_0 only with outputs of others, as it is else the baseline itself."""
    judge = recipe.evaluate.judge
    return judge is not None and (t > 0 or judge.baseline is not None)


def _stage_names(recipe: Recipe, iterations: int) -> Iterator[tuple[str, int | None]]:
    yield from ((name, None) for name in ("seed", "ingest", "dedup", "backward/mix", "backward/finetune"))
    if recipe.gate.segments:
        yield "backward/gate", None
    yield "augment", None
    yield from ((f"iteration-0/{name}", 0) for name in ("mix", "finetune", "audit"))
    auto = recipe.iterations == "auto"  # only then a judge decides: else it is asked last, and nothing waits for it
    if auto and compares(recipe, 0):
        yield "iteration-0/compare", 0
    compare = ("compare",) if auto and compares(recipe, 1) else ()
    stop = ("stop",) if auto else ()
    correct = ("correct",) if recipe.curate.labels else ()
    rewrite = ("rewrite",) if recipe.rewrite.enabled else ()
    for t in range(1, iterations + 1):
        for name in ("score", *correct, "curate", *rewrite, "mix", "finetune", "audit", *compare, *stop):
            yield f"iteration-{t}/{name}", t
    if recipe.evaluate.control:
        yield from ((f"control/{name}", None) for name in ("draw", "mix", "finetune"))
    yield "evaluate", None
    if recipe.evaluate.answers:
        yield "answers", None
    if not auto:
        yield from ((f"iteration-{t}/compare", t) for t in range(iterations + 1) if compares(recipe, t))
    if recipe.evaluate.labels:
        yield "human", None
    yield from ((name, None) for name in ("dataset", "report"))
