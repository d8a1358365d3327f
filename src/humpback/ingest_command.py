"""`humpback ingest`: its options, and what of the recipe's corpus section they say. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from humpback.errors import InputError, StoppedError
from humpback.options import Json, Quiet, Sets

__all__ = ["ingest"]


def ingest(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, archives, hub:OWNER/NAME or pydoc:topics.", metavar="INPUT..."),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.")] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="PAGE",
            help="Show one page's header tree and why each part is kept or not: a file, `-`, a URL, or a URL or "
            "location inside INPUT.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="RECIPE", help="Take its corpus section; options go before it.")
    ] = None,
    min_chars: Annotated[int | None, typer.Option(help="Shortest segment (600).", show_default=False)] = None,
    max_chars: Annotated[int | None, typer.Option(help="Longest segment (3000).", show_default=False)] = None,
    filters: Annotated[str | None, typer.Option(metavar="A,B", help="Rules a segment must pass; default all.")] = None,
    no_filters: Annotated[bool, typer.Option("--no-filters", help="No rules but the length.")] = False,
    languages: Annotated[str | None, typer.Option(metavar="en,de", help="Languages kept; default all.")] = None,
    pii: Annotated[
        str | None, typer.Option(metavar="mask|reject|keep", help="Personal data in segments (mask).")
    ] = None,
    licences: Annotated[str | None, typer.Option(metavar="A,B", help="Licences kept; default all.")] = None,
    near_duplicates: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Likeness at which texts are one (0.75); 0: exact only.")
    ] = None,
    decontaminate: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Evaluation set to keep out; repeatable.")
    ] = None,
    sample: Annotated[int | None, typer.Option(help="Keep this many segments.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="plain|markdown|html", help="How headers are marked.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the text.")] = None,
    title_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the title.")] = None,
    uri_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the address.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of documents that state none.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a Hugging Face data set.")] = None,
    set_: Sets = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Turn documents into clean, header-rooted segments, with the reason for everything dropped.

    Exit status: 0 done, 1 stopped (no segment is fit, a full disk; run it again to go on), 2 wrong or unreadable input.
    """
    from humpback.progress import Console
    from humpback.recipe import load_corpus

    columns = {
        "format": format_,
        "text": text_column,
        "title": title_column,
        "source_uri": uri_column,
        "licence": licence,
        "split": split,
    }
    chosen = {
        "min_chars": min_chars,
        "max_chars": max_chars,
        "filters": [] if no_filters else _names(filters),
        "languages": _names(languages),
        "pii": pii,
        "licences": _names(licences),
        "decontaminate": [{"path": path} for path in decontaminate] if decontaminate else None,
        "sample": sample,
    }
    given: dict[str, object] = {key: value for key, value in chosen.items() if value is not None}
    if near_duplicates is not None:
        given["near_duplicates"] = near_duplicates or None
    named = {key: value for key, value in columns.items() if value is not None}
    if explain is not None:
        from humpback.explaining import print_explanation

        loaded = load_corpus(
            recipe, {**given, "inputs": [{"path": path, **named} for path in inputs or ["-"]]}, set_ or ()
        )
        print_explanation(explain, loaded.corpus, search=bool(inputs), as_json=json_)
        return
    if folder is None:
        raise InputError("there is no folder to write to; give -o FOLDER (or --explain PAGE to look at one page)")
    if inputs:
        given["inputs"] = [{"path": path, **named} for path in inputs]
    elif recipe is None:
        raise InputError("there is no INPUT; give files or folders, or a --recipe that names them")
    elif named:
        raise InputError(f"{', '.join(named)} apply to INPUT, and none is given; set them in {recipe}")
    from humpback.ingesting import run_ingest
    from humpback.report.funnel import print_funnel

    loaded = load_corpus(recipe, given, set_ or ())
    try:
        worked = run_ingest(loaded, folder, workers=workers, console=Console(quiet=quiet))
    except KeyboardInterrupt:
        raise StoppedError(f"{folder} is interrupted; finished work is kept, and the same command resumes it") from None
    if not worked and not json_:
        typer.echo(f"Nothing left to do: {folder} is complete.")
    print_funnel(folder, as_json=json_)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
