"""The command line. Exit status: 0 done, 1 stopped and resumable, 2 wrong input or recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from humpback.errors import HumpbackError, InputError, StoppedError

__all__ = ["app", "main"]

app = typer.Typer(
    name="humpback",
    help="Self-alignment with instruction backtranslation: documents and a few pairs in, "
    "curated data, models and a report out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
RunPath = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented starter recipe."""
    from humpback.starter import write_starter

    write_starter(path, force=force)
    typer.echo(f"{path} is written; set its paths, then: humpback run {path}")


@app.command()
def run(
    recipe: RecipePath,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, dotted; repeatable.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--run", metavar="FOLDER", help="Run folder; default runs/RECIPE-NAME.")
    ] = None,
    rerun_from: Annotated[
        str | None, typer.Option("--rerun-from", metavar="STAGE", help="Rebuild this stage and all after it.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the closing tables.")] = False,
) -> None:
    """Run a recipe, or resume it where it stopped."""
    from humpback.pipeline import run as run_pipeline
    from humpback.progress import Console
    from humpback.recipe import load_recipe
    from humpback.report.summary import print_summary

    loaded = load_recipe(recipe, set_ or ())
    target = folder or Path("runs") / recipe.stem
    try:
        worked = run_pipeline(loaded, target, console=Console(quiet=quiet), rerun_from=rerun_from)
    except KeyboardInterrupt:  # typer would end with 130 and say nothing
        raise StoppedError(f"{target} is interrupted; finished work is kept, and the same command resumes it") from None
    if not worked:
        typer.echo(f"Nothing left to do: {target} is complete.")
    print_summary(target)


@app.command()
def status(run_folder: RunPath, json_: Json = False) -> None:
    """Show every stage of a run: state, rows read, kept, rejected, failed, and time."""
    from humpback.report.summary import print_status

    print_status(run_folder, as_json=json_)


@app.command()
def trace(
    run_folder: RunPath,
    row_id: Annotated[str, typer.Argument(help="Id of a row of any stage, or its beginning.", metavar="ROW_ID")],
    json_: Json = False,
) -> None:
    """Print a row's way from its source to the dataset and models it entered."""
    from humpback.trace import print_trace

    print_trace(run_folder, row_id, as_json=json_)


@app.command()
def doctor(json_: Json = False) -> None:
    """Say what this machine can do, what is missing, and how to get it."""
    from humpback.doctor import print_doctor

    print_doctor(as_json=json_)


@app.command(hidden=True)
def results(
    run_folder: RunPath, output: Annotated[Path, typer.Option("-o", "--output")] = Path("docs/results.md")
) -> None:
    """Write a complete run's results as Markdown."""
    from humpback.report.results import render_results

    text = render_results(run_folder)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{output} cannot be written: {error.strerror or error}; give -o a file in a folder that is there"
        ) from error


@app.command()
def version() -> None:
    """Print the version."""
    from humpback import __version__

    typer.echo(__version__)


def main() -> None:
    """Run the command line; a user's mistake ends with one message, not a traceback."""
    try:
        app()
    except HumpbackError as error:
        from humpback.report.figures import clean

        print(clean(f"error: {error}"), file=sys.stderr)  # it may quote a file that would steer the terminal
        sys.exit(error.exit_status)
