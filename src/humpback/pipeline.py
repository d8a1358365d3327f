"""The whole run, top to bottom: the file to read first.

seed -> M_yx -> A -> M_0 -> A^(1) -> M_1 -> A^(2) -> M_2 ... -> dataset, evaluation, report (arXiv 2308.06259, section 2).
Every step is a stage with a folder of its own; a finished stage is skipped, an unfinished one resumed, a stale one refused.
"""

from __future__ import annotations

from pathlib import Path

from humpback.corpus.readers import check_inputs as check_corpus
from humpback.errors import DriftError, InputError
from humpback.progress import Console
from humpback.recipe import Recipe
from humpback.rooms import Rooms
from humpback.rooms.asking import check_judge
from humpback.seeds.readers import check_inputs as check_seed
from humpback.stages.table import find_course, known_names, stage_names
from humpback.store.rundir import RunDir, check_folder

__all__ = ["find_extra_iterations", "run", "self_align", "write_candidates"]


def run(recipe: Recipe, folder: Path, *, console: Console, rerun_from: str | None = None) -> bool:
    """Run or resume a recipe in its folder; return False when there was nothing left to do."""
    before = RunDir(folder)
    if rerun_from is not None and rerun_from in [name for name, _ in stage_names(recipe)]:
        before.drop_damaged(rerun_from)  # a stop stage's manifest is read for the names of the stages
    names = known_names(recipe, before)
    if rerun_from is not None and rerun_from not in names:
        raise InputError(f"--rerun-from {rerun_from} is not a stage of this recipe; choose from: {', '.join(names)}")
    check_seed(recipe.seed.inputs)  # a missing file is told before anything is made or discarded
    check_corpus(recipe.corpus.inputs)
    if recipe.evaluate.judge:
        check_judge(recipe.evaluate.judge, recipe.evaluate.confidence)
    sources = [given.path for given in recipe.corpus.inputs]
    check_folder(folder, sources, what="run folder", inputs="corpus.inputs", fix="--run NAME")
    with RunDir(folder) as run_dir:
        extra = find_extra_iterations(recipe, run_dir, refuse=rerun_from is None)
        rebuilt = [] if rerun_from is None else [*names[names.index(rerun_from) :], *extra]
        rooms = Rooms(recipe, run_dir, console, rebuilt=rebuilt)
        try:
            rooms.tell_cost()
            self_align(rooms, control=recipe.evaluate.control)
        finally:
            rooms.close()
        rooms.write_recipe()
        return rooms.worked


def find_extra_iterations(recipe: Recipe, run_dir: RunDir, *, refuse: bool) -> list[str]:
    """Return, or refuse, iterations that the folder holds and the run does not have: a lowered T leaves such behind."""
    iterations = find_course(recipe, run_dir).iterations
    numbers = (int(path.name[10:]) for path in run_dir.path.glob("iteration-*") if path.name[10:].isdecimal())
    extra = sorted(t for t in numbers if t > iterations)
    if extra and refuse:
        names = known_names(recipe, run_dir)
        following = next(name for name in names if name.startswith(("control/", "evaluate")))
        raise DriftError(
            f"{run_dir.path} holds iteration-{extra[0]}, and this recipe ends with iteration {iterations}. Either run again "
            f"with --rerun-from {following}, which removes it and makes what follows anew, or keep it and give the new "
            "recipe another run folder (--run NAME)."
        )
    return [f"iteration-{t}" for t in extra]


def self_align(stage: Rooms, *, control: bool) -> None:
    """Self-alignment with instruction backtranslation. Every model is fine-tuned from the base model."""
    write_candidates(stage)
    stage.compare(0)  # with outputs of others, where a judge is to compare every model with those

    for t in stage.iterations():  # 1 to T, or while M_t is better than M_(t-1)
        stage.score(t)  # M_(t-1) scores all of A
        stage.correct(t)  # and people, where asked for, correct what it says
        stage.curate(t)  # A^(t), by a signal that the audit of M_(t-1) stands for
        stage.rewrite(t)  # where asked for, documents are written anew as answers
        stage.mix(t)  # seed with tag S_a and A^(t) with tag S_w
        stage.finetune(f"iteration-{t}")  # M_t
        stage.audit(t)
        stage.compare(t)  # where a judge's word may end the loop
        stage.stop(t)

    if control:
        stage.draw_control()  # as many pairs as A^(T), at random: what is curation worth?
        stage.mix_control()
        stage.finetune("control")

    stage.evaluate()
    stage.answers()  # where asked for: what the kept model writes to held-out instructions, to be read
    stage.compare_all()  # where it decides nothing
    stage.human()  # what people say of the candidates decides nothing, so more labels make nothing else anew
    stage.dataset()
    stage.report()


def write_candidates(stage: Rooms) -> None:
    """Write an instruction for every segment, train the model that is first to score them, and audit it."""
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
