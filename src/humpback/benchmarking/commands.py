"""The commands of evaluation, added to the command line. Nothing but typer is imported before one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_commands"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line's own."""
    app.command("alpaca-eval")(alpaca_eval)


def alpaca_eval(
    annotations: Annotated[
        list[Path],
        typer.Option("--annotations", metavar="FILE", help="annotations.json, or a CSV of preferences; repeatable."),
    ],
    outputs: Annotated[
        list[Path] | None,
        typer.Option("--outputs", metavar="FILE", help="A model's model_outputs.json: lengths are its; repeatable."),
    ] = None,
    difficulty_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--difficulty-from",
            metavar="FILE",
            help="Annotations of other models, which say how hard the prompts are (default: --annotations).",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="The evaluation set, to join files with ids and with texts."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="A leaderboard to show the differences to.")
    ] = None,
    leaderboard: Annotated[
        Path | None, typer.Option("--leaderboard", metavar="FILE", help="Write the figures as a leaderboard.")
    ] = None,
    json_: Json = False,
) -> None:
    """Compute AlpacaEval's figures from recorded annotations: win rates, also at equal lengths, without asking a judge."""
    from humpback.benchmarking.alpaca_command import run_alpaca_eval

    run_alpaca_eval(
        annotations,
        outputs=outputs or (),
        difficulty_from=difficulty_from or (),
        prompts=prompts,
        compare=compare,
        leaderboard=leaderboard,
        as_json=json_,
    )
