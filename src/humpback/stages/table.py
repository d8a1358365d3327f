"""The stage table: every stage of a recipe, in the order it runs."""

from __future__ import annotations

from collections.abc import Iterator

from humpback.recipe import Recipe

__all__ = ["stage_names"]


def stage_names(recipe: Recipe) -> list[tuple[str, int | None]]:
    """Return every stage of a recipe in the order it runs, with its iteration."""
    return list(_stage_names(recipe.iterations, gate=bool(recipe.gate.segments), control=recipe.evaluate.control))


def _stage_names(iterations: int, *, gate: bool, control: bool) -> Iterator[tuple[str, int | None]]:
    yield from ((name, None) for name in ("seed", "ingest", "dedup", "backward/mix", "backward/finetune"))
    if gate:
        yield "backward/gate", None
    yield "augment", None
    for t in range(iterations + 1):
        for name in ("mix", "finetune", "audit") if t == 0 else ("score", "curate", "mix", "finetune", "audit"):
            yield f"iteration-{t}/{name}", t
    if control:
        yield from ((f"control/{name}", None) for name in ("draw", "mix", "finetune"))
    yield from ((name, None) for name in ("evaluate", "dataset", "report"))
