"""Options and arguments that several commands have, each declared once. Nothing but typer is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Answers",
    "Device",
    "Engine",
    "Json",
    "PromptSet",
    "PromptsFolder",
    "Quiet",
    "Recipe",
    "Run",
    "Sample",
    "Sets",
    "Tags",
]

Recipe = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
Run = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, dotted; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only what was found.")]

Engine = Annotated[str, typer.Option(metavar="hf|vllm", help="What runs models that are not served.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Sample = Annotated[int | None, typer.Option(min=1, help="Take this many, by the seed.")]
Tags = Annotated[
    str, typer.Option(metavar="auto|both|seed|none", help="Tag sentences; auto: both for models of a run.")
]
PromptSet = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE|NAME",
        help="Prompts: JSON or JSONL of instruction, prompt or turns, and category; or the name of a set.",
    ),
]
PromptsFolder = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", envvar="HUMPBACK_PROMPTS", help="Where the sets are that --prompts can name."),
]
Answers = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where answers and results are kept.")]
