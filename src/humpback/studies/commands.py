"""`humpback study`: the commands, added to the command line. Nothing but typer is imported before one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humpback.options import Json, Quiet

if TYPE_CHECKING:
    from humpback.studies.grid import Study

__all__ = ["study_app"]

study_app = typer.Typer(
    help="Run a grid of cells that share what they have in common.", no_args_is_help=True, rich_markup_mode=None
)

File = Annotated[Path, typer.Argument(help="The study, a YAML file.", metavar="FILE")]
Folder = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="The study's folder; default studies/FILE-NAME.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell the cells and what they cost.")]


@study_app.command()
def ablation(
    file: File, folder: Folder = None, dry_run: DryRun = False, quiet: Quiet = False, json_: Json = False
) -> None:
    """Change one thing or several, train a model for each, and compare all with the first.

    Exit status: 0 done, 1 some cells failed or it was stopped (run it again to go on), 2 wrong input.
    """
    from humpback.studies.grid import AblationStudy

    _study(file, AblationStudy, folder, dry_run=dry_run, quiet=quiet, as_json=json_)


@study_app.command()
def scaling(
    file: File, folder: Folder = None, dry_run: DryRun = False, quiet: Quiet = False, json_: Json = False
) -> None:
    """Train on growing numbers of pairs of several kinds, and fit metric = alpha * log(N) + C for each.

    Exit status: 0 done, 1 some cells failed or it was stopped (run it again to go on), 2 wrong input.
    """
    from humpback.studies.grid import ScalingStudy

    _study(file, ScalingStudy, folder, dry_run=dry_run, quiet=quiet, as_json=json_)


def _study(file: Path, kind: type[Study], folder: Path | None, *, dry_run: bool, quiet: bool, as_json: bool) -> None:
    import json

    from humpback.errors import StoppedError
    from humpback.progress import Console
    from humpback.studies.grid import load_study
    from humpback.studies.markdown import write_markdown
    from humpback.studies.page import PAGE, print_results, write_page
    from humpback.studies.running import check_done, plan_study, run_study

    study, cells = load_study(file, kind)
    target = folder or Path("studies") / file.stem
    if dry_run:
        for cell in cells:
            typer.echo(f"{cell.name}, seed {cell.seed}" + (f": invalid: {cell.fault}" if cell.fault else ""))
        for line in plan_study(study, cells, target).lines():
            typer.echo(line)
        return
    try:
        found = run_study(study, cells, target, console=Console(quiet=quiet or as_json))
    except KeyboardInterrupt:
        raise StoppedError(f"{target} is interrupted; finished work is kept, and the same command resumes it") from None
    write_page(target / PAGE, file.stem, found)
    write_markdown(target / "study.md", file.stem, found)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_results(found)
        typer.echo(f"page     {target / PAGE}")
    check_done(found, target)
