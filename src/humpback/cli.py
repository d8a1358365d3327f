"""The command line. Exit status: 0 done, 1 stopped and resumable, 2 wrong input or recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from humpback.benchmarking.commands import add_commands
from humpback.errors import HumpbackError, InputError, StoppedError
from humpback.ingest_command import ingest
from humpback.options import Json, Quiet, Recipe, Run, Sets
from humpback.statistics_command import statistics
from humpback.studies.commands import study_app

__all__ = ["app", "main"]

INTERRUPTED = 130
"""How typer ends after Ctrl-C; it is no status of ours."""

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

cache_app = typer.Typer(
    help="Look into an answer cache, or make it smaller.", no_args_is_help=True, rich_markup_mode=None
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _common(
    told: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
    recipe: Recipe,
    set_: Sets = None,
    folder: Annotated[
        Path | None, typer.Option("--run", metavar="FOLDER", help="Run folder; default runs/RECIPE-NAME.")
    ] = None,
    rerun_from: Annotated[
        str | None, typer.Option("--rerun-from", metavar="STAGE", help="Rebuild this stage and all after it.")
    ] = None,
    quiet: Quiet = False,
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


app.command()(ingest)
app.command()(statistics)


@app.command()
def train(
    spec: Annotated[
        Path, typer.Argument(help="YAML or JSON with base_model, data (a folder `mix`) and output.", metavar="SPEC")
    ],
    set_: Sets = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell rows, steps, epochs, tokens and, by ten steps on trial, the time.")
    ] = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Train one model on the rows of a mix, without a run; the same command resumes it."""
    from humpback.finetuning import run_train
    from humpback.progress import Console

    try:
        console = Console(quiet=quiet or json_)
        run_train(spec, set_ or (), console=console, as_json=json_, plan_only=plan)
    except KeyboardInterrupt:
        raise StoppedError(f"{spec} is interrupted; the same command goes on from the last checkpoint") from None


@app.command()
def gguf(
    model: Annotated[Path, typer.Argument(help="A model folder, such as .../finetune/model.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .gguf file to write.")],
    kind: Annotated[str, typer.Option("--type", metavar="auto|f32|f16|bf16|q8_0", help="Of the weights.")] = "auto",
    converter: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="llama.cpp's converter; default the one on the path.")
    ] = None,
) -> None:
    """Write a model as one GGUF file for llama.cpp, with a Modelfile for Ollama; the converter is llama.cpp's own."""
    from humpback.export.gguf import TYPES, export_gguf, find_converter

    if kind not in TYPES:
        raise InputError(f"--type {kind} is not one of {', '.join(TYPES)}")
    for path in export_gguf(model, output, converter=find_converter(converter), kind=kind):
        typer.echo(path)


@app.command()
def status(run_folder: Run, json_: Json = False) -> None:
    """Show every stage of a run: state, rows read, kept, rejected, failed, and time."""
    from humpback.report.status import print_status

    print_status(run_folder, as_json=json_)


@app.command()
def trace(
    run_folder: Run,
    row_id: Annotated[str, typer.Argument(help="Id of a row of any stage, or its beginning.", metavar="ROW_ID")],
    json_: Json = False,
) -> None:
    """Print a row's way from its source to the dataset and models it entered."""
    from humpback.trace_print import print_trace

    print_trace(run_folder, row_id, as_json=json_)


@app.command()
def label(
    run_folder: Run,
    count: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pairs this labeller is to label, earlier ones included.")
    ] = 50,
    labeller: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who labels; default this machine's user.", show_default=False)
    ] = None,
    show_scores: Annotated[bool, typer.Option("--show-scores", help="Show scores, verdict and source too.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write labels as .csv or .jsonl.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take labels from a .csv or .jsonl file.")
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Precision of the curation and agreement of labellers.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print --stats as JSON.")] = False,
) -> None:
    """Judge a run's pairs yourself, one by one; with evaluate.labels the run audits its signals by what you say.

    Keys: 1 to 5 (4 and 5 are good), or g good and b bad; s skip, u undo, n note, SPACE more, p back, q quit.
    Every answer is kept in RUN/labels.jsonl at once, and the same command goes on where you stopped. With --labeller,
    --export writes the sheet of that labeller to fill in elsewhere; without, every label there is.
    """
    from humpback.labelling.command import run_label

    run_label(
        run_folder,
        count=count,
        labeller=labeller,
        show_scores=show_scores,
        export_to=export,
        import_from=import_,
        stats=stats,
        as_json=json_,
    )


@app.command()
def doctor(
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Say what an OpenAI-compatible server can do instead.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model of the server.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="NAME", help="Environment variable of the server's key.")
    ] = None,
    json_: Json = False,
) -> None:
    """Say what this machine can do, what is missing, and how to get it."""
    from humpback.doctor import print_doctor, print_server

    if server is not None:
        print_server(server, model=model, api_key_env=api_key_env, as_json=json_)
    elif model or api_key_env:
        raise InputError("--model and --api-key-env ask a server; give its address as --server URL")
    else:
        print_doctor(as_json=json_)


CachePath = Annotated[Path, typer.Argument(help="A run's folder, or the file of an answer cache.", metavar="RUN|FILE")]


@cache_app.command("stats")
def cache_stats(place: CachePath, json_: Json = False) -> None:
    """Show what an answer cache holds: answers and bytes, by model and call, and their age."""
    from humpback.caching import print_cache

    print_cache(place, as_json=json_)


@cache_app.command("prune")
def cache_prune(
    place: CachePath,
    model: Annotated[
        str | None, typer.Option(metavar="HASH", help="Answers of this model: its hash, or its name in the run.")
    ] = None,
    older_than: Annotated[
        int | None, typer.Option(metavar="DAYS", min=0, help="Answers not used for more days than this.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The longest unused, until the file is this small: 2GB.")
    ] = None,
    unused: Annotated[bool, typer.Option("--unused", help="Answers of models the run has no more.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
) -> None:
    """Remove answers from an answer cache and give the space back. A finished stage needs none of them."""
    from humpback.caching import Pruning, prune_cache

    pruning = Pruning(model=model, older_than=older_than, max_size=max_size, unused=unused, all=all_)
    prune_cache(place, pruning, dry_run=dry_run)


@app.command()
def results(
    run_folder: Run,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.md", help="Where to write.")] = Path(
        "docs/results.md"
    ),
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


# the order of --help: a run from its recipe to its labels first, then what compares models
add_commands(app)
app.add_typer(study_app, name="study")
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Run the command line; a user's mistake ends with one message, not a traceback."""
    try:
        app()
    except HumpbackError as error:
        from humpback.report.figures import clean

        print(clean(f"error: {error}"), file=sys.stderr)  # it may quote a file that would steer the terminal
        sys.exit(error.exit_status)
    except SystemExit as ending:
        if ending.code != INTERRUPTED:
            raise
        # Ctrl-C before a command could say what it had begun: typer says nothing
        print("error: interrupted; what was finished is kept, and the same command goes on", file=sys.stderr)
        sys.exit(StoppedError.exit_status)
