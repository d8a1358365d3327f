"""The whole run, top to bottom: the file to read first.

seed -> M_yx -> A -> M_0 -> A^(1) -> M_1 -> A^(2) -> M_2 ... -> dataset, evaluation, report (arXiv 2308.06259, section 2).
Every step is a stage with a folder of its own; a finished stage is skipped, an unfinished one resumed, a stale one refused.
"""

from __future__ import annotations

from pathlib import Path

from humpback.corpus.readers import check_inputs as check_corpus
from humpback.errors import InputError
from humpback.progress import Console
from humpback.recipe import Recipe
from humpback.rooms import Rooms
from humpback.seeds.readers import check_inputs as check_seed
from humpback.stages.table import stage_names
from humpback.store.rundir import RunDir, check_folder

__all__ = ["run", "self_align"]


def run(recipe: Recipe, folder: Path, *, console: Console, rerun_from: str | None = None) -> bool:
    """Run or resume a recipe in its folder; return False when there was nothing left to do."""
    names = [name for name, _ in stage_names(recipe)]
    if rerun_from is not None and rerun_from not in names:
        raise InputError(f"--rerun-from {rerun_from} is not a stage of this recipe; choose from: {', '.join(names)}")
    check_seed(recipe.seed.inputs)  # a missing file is told before anything is made or discarded
    check_corpus(recipe.corpus.inputs)
    sources = [given.path for given in recipe.corpus.inputs]
    check_folder(folder, sources, what="run folder", inputs="corpus.inputs", fix="--run NAME")
    with RunDir(folder) as run_dir:
        rooms = Rooms(recipe, run_dir, console)
        if rerun_from is not None:
            for name in reversed(names[names.index(rerun_from) :]):
                run_dir.discard(name)
        try:
            self_align(rooms, recipe.iterations, control=recipe.evaluate.control)
        finally:
            rooms.close()
        rooms.write_recipe()
        return rooms.worked


def self_align(stage: Rooms, iterations: int, *, control: bool) -> None:
    """Self-alignment with instruction backtranslation. Every model is fine-tuned from the base model."""
    stage.seed()
    stage.ingest()
    stage.dedup()

    stage.mix_backward()  # reversed seed pairs: the response is given, the instruction learnt
    stage.finetune("backward")  # M_yx
    stage.gate()  # is what M_yx writes on a few hundred segments worth writing for all?
    stage.augment()  # A: one instruction for every segment

    stage.mix(0)  # seed pairs only
    stage.finetune("iteration-0")  # M_0
    stage.audit(0)

    for t in range(1, iterations + 1):
        stage.score(t)  # M_(t-1) scores all of A
        stage.curate(t)  # A^(t), by a signal that the audit of M_(t-1) stands for
        stage.mix(t)  # seed with tag S_a and A^(t) with tag S_w
        stage.finetune(f"iteration-{t}")  # M_t
        stage.audit(t)

    if control:
        stage.draw_control()  # as many pairs as A^(T), at random: what is curation worth?
        stage.mix_control()
        stage.finetune("control")

    stage.evaluate()
    stage.dataset()
    stage.report()
