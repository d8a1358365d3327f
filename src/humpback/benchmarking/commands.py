"""The commands of evaluation, added to the command line. Nothing but typer is imported before one is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humpback.errors import InputError, StoppedError
from humpback.options import Answers, Device, Engine, Json, PromptSet, PromptsFolder, Quiet, Sample, Tags

if TYPE_CHECKING:
    from humpback.benchmarking.models import ModelOptions, TagChoice

__all__ = ["add_commands"]

OWN = (
    "answers.sqlite",
    "winrate.json",
    "held-out.json",
    "zero-shot.json",
    "reliability.json",
    "annotations.json",
    "model_outputs.json",
)
"""What the commands write: a folder with one of these is theirs, killed early or its answers gone."""
SIDE = "A model (folder, hub id, .gguf, package:NAME, server) or its outputs (.json, .jsonl)."


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line's own."""
    app.command("alpaca-eval")(alpaca_eval)
    app.command("winrate")(winrate)
    app.command("zero-shot")(zero_shot)
    app.command("held-out")(held_out)
    app.command("reliability")(reliability)


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
    prompts: PromptSet = None,
    prompts_folder: PromptsFolder = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="A leaderboard to show the differences to.")
    ] = None,
    leaderboard: Annotated[
        Path | None, typer.Option("--leaderboard", metavar="FILE", help="Write the figures as a leaderboard.")
    ] = None,
    json_: Json = False,
) -> None:
    """Compute AlpacaEval's figures from recorded annotations: win rates, also at equal lengths, without asking a judge.

    The evaluation set, as --prompts, joins files that number the prompts with files that have their texts.
    """
    from humpback.benchmarking.alpaca_command import run_alpaca_eval
    from humpback.benchmarking.sides import find_prompts

    run_alpaca_eval(
        annotations,
        outputs=outputs or (),
        difficulty_from=difficulty_from or (),
        prompts=find_prompts(prompts, prompts_folder),
        compare=compare,
        leaderboard=leaderboard,
        as_json=json_,
    )


def winrate(
    model: Annotated[str, typer.Argument(help=SIDE, metavar="MODEL")],
    baseline: Annotated[str, typer.Argument(help="What it is compared with, likewise.", metavar="BASELINE")],
    judge: Annotated[
        str, typer.Option("--judge", metavar="MODEL|URL", help="Who judges: a model, or a server's address.")
    ],
    prompts: PromptSet = None,
    prompts_folder: PromptsFolder = None,
    folder: Answers = Path("winrate"),
    by_probability: Annotated[
        bool, typer.Option("--by-probability", help="Read the judge's probabilities; it writes no reasoning.")
    ] = False,
    recheck: Annotated[
        int, typer.Option(min=0, help="Prompts on which the judge is asked again: none, or 8 and more.")
    ] = 50,
    sample: Sample = None,
    tags: Tags = "auto",
    temperature: Annotated[float, typer.Option(min=0, help="Of the models' answers.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Of the models' answers.")] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of a model.")] = 512,
    reply_tokens: Annotated[int, typer.Option(min=1, help="Longest reply of the judge.")] = 512,
    max_tokens: Annotated[int, typer.Option(min=64, help="Longest prompt and answer together.")] = 4096,
    engine: Engine = "hf",
    device: Device = "auto",
    judge_model: Annotated[str | None, typer.Option(help="The served judge's name.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable of the judge's key.")
    ] = None,
    judge_tokenizer: Annotated[
        str | None, typer.Option(help="The served judge's tokenizer: a folder, a hub id or `estimate`.")
    ] = None,
    price_in: Annotated[float | None, typer.Option(help="Price of a million tokens the judge reads.")] = None,
    price_out: Annotated[float | None, typer.Option(help="Price of a million tokens it writes.")] = None,
    quiet: Quiet = False,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and intervals.")] = 0,
    json_: Json = False,
) -> None:
    """Compare two models, or two files of outputs, by a judge that sees each pair in both orders.

    A prompt on which the judge gives no verdict in both orders is counted and shown; it is no loss. Killed, the same command goes on.
    """
    from dataclasses import replace

    from humpback.benchmarking.sides import find_prompts
    from humpback.benchmarking.winrate_command import Settings, run_winrate
    from humpback.engines.base import Sampling

    options = _options(folder / "answers.sqlite", engine=engine, device=device, max_tokens=max_tokens, quiet=quiet)
    settings = Settings(
        model=model,
        baseline=baseline,
        judge=judge,
        prompts=find_prompts(prompts, prompts_folder),
        by_probability=by_probability,
        reply_tokens=reply_tokens,
        recheck=recheck,
        sampling=Sampling(temperature=temperature, top_p=top_p, max_tokens=max_new_tokens),
        tags=_tags(tags),
        sample=sample,
        seed=seed,
        price_in=price_in,
        price_out=price_out,
        models=options,
        judging=replace(options, server_model=judge_model, api_key_env=api_key_env, tokenizer=judge_tokenizer),
    )
    with _resumable(folder):
        run_winrate(settings, folder, as_json=json_)


def zero_shot(
    models: Annotated[list[str], typer.Argument(help="Models; each is compared with the first.", metavar="MODEL...")],
    tasks: Annotated[
        list[Path], typer.Option("--task", metavar="FILE", help="JSON lines of {query, choices, gold}; repeatable.")
    ],
    folder: Answers = Path("zero-shot"),
    sample: Sample = None,
    prefix: Annotated[str, typer.Option(help="Put before every prompt, for models that need one: <bos>.")] = "",
    max_tokens: Annotated[int, typer.Option(min=64, help="Longest prompt and choice together.")] = 2048,
    engine: Engine = "hf",
    device: Device = "auto",
    quiet: Quiet = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and the intervals.")] = 0,
    json_: Json = False,
) -> None:
    """Multiple-choice tasks by likelihood, without examples: accuracy by choice, per character and per token."""
    from humpback.benchmarking.zeroshot_command import run_zeroshot

    options = _options(folder / "answers.sqlite", engine=engine, device=device, max_tokens=max_tokens, quiet=quiet)
    with _resumable(folder):
        run_zeroshot(models, tasks, folder, options, sample=sample, prefix=prefix, seed=seed, as_json=json_)


def held_out(
    models: Annotated[
        list[str], typer.Argument(help="Models; each is compared with those before.", metavar="MODEL...")
    ],
    pairs: Annotated[
        list[Path] | None,
        typer.Option("--pairs", metavar="FILE", help="Held-out {instruction, response}, also source; repeatable."),
    ] = None,
    preferences: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Human labels: {input, output_1, output_2, label}.")
    ] = None,
    folder: Answers = Path("held-out"),
    tags: Tags = "auto",
    max_tokens: Annotated[int, typer.Option(min=64, help="Longest prompt and answer together.")] = 2048,
    engine: Engine = "hf",
    device: Device = "auto",
    quiet: Quiet = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    json_: Json = False,
) -> None:
    """Likelihood of held-out responses and instructions, paired between models, and agreement with human preferences."""
    from humpback.benchmarking.heldout_command import run_heldout

    options = _options(folder / "answers.sqlite", engine=engine, device=device, max_tokens=max_tokens, quiet=quiet)
    with _resumable(folder):
        run_heldout(
            models,
            folder,
            options,
            pairs=pairs or (),
            preferences=preferences,
            tags=_tags(tags),
            seed=seed,
            as_json=json_,
        )


def reliability(
    models: Annotated[
        list[str], typer.Argument(help="Models; a run's folder stands for all its models.", metavar="MODEL|RUN...")
    ],
    pairs: Annotated[
        Path,
        typer.Option(
            "--pairs",
            metavar="FILE|RUN",
            help="{instruction, response}, also label or good; {input, output_1, output_2, label}; or a run's labels.",
        ),
    ],
    folder: Answers = Path("reliability"),
    rubric: Annotated[
        str, typer.Option(metavar="paper|additive|FILE", help="The rating prompt of all models.")
    ] = "paper",
    samples: Annotated[
        int,
        typer.Option(min=0, help="Replies per pair that reason first, their mean is the score; 0 reads probabilities."),
    ] = 0,
    sample: Sample = None,
    max_tokens: Annotated[int, typer.Option(min=64, help="Longest prompt and reply together.")] = 2048,
    engine: Engine = "hf",
    device: Device = "auto",
    quiet: Quiet = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample, the replies and the intervals.")] = 0,
    json_: Json = False,
) -> None:
    """Rate the same pairs with several models: scores of each, kappa and ICC between them, agreement with human labels."""
    from humpback.benchmarking.reliability_command import run_reliability

    options = _options(folder / "answers.sqlite", engine=engine, device=device, max_tokens=max_tokens, quiet=quiet)
    with _resumable(folder):
        run_reliability(
            models,
            pairs,
            folder,
            options,
            rubric=rubric,
            samples=samples,
            sample=sample,
            seed=seed,
            as_json=json_,
        )


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Tell an interrupted person that nothing is lost; typer would end with 130 and say nothing."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"{folder} is interrupted; answers are kept, and the same command goes on") from None


def _options(cache: Path, *, engine: str, device: str, max_tokens: int, quiet: bool) -> ModelOptions:
    from humpback.benchmarking.models import ModelOptions

    if engine not in ("hf", "vllm"):
        raise InputError(f"--engine {engine} is unknown; give hf or vllm, or a server's address in the model's place")
    _check_output(cache)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{cache.parent} cannot be made: {error.strerror}; give another -o FOLDER") from error
    return ModelOptions(
        cache=cache, engine="vllm" if engine == "vllm" else "hf", device=device, max_tokens=max_tokens, quiet=quiet
    )


def _check_output(cache: Path) -> None:
    """Refuse a folder of something else: results among documents would be read as documents by the next run."""
    folder = cache.parent
    if (folder / "recipe.yaml").exists():
        raise InputError(f"output folder {folder} is a run's own; name one in it, such as -o {folder / 'compared'}")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in OWN):
        raise InputError(
            f"output folder {folder} holds files of something else; name a new or an empty folder (-o FOLDER)"
        )


def _tags(name: str) -> TagChoice:
    for known in ("auto", "both", "seed", "none"):
        if name == known:
            return known
    raise InputError(f"--tags {name} is unknown; give auto, both, seed or none")
