"""Opens a model that a command names: a folder, a hub id, a .gguf file, package:NAME, `fake`, or the address of a server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from humpback.engines import EngineSpec, find_model, find_served, open_engine, resolve_model, steady_format
from humpback.engines.base import Capability, Heard
from humpback.engines.cache import CachedEngine
from humpback.errors import InputError
from humpback.progress import Console
from humpback.prompts import RUBRIC, SEED_TAG, WEB_TAG, Prompts
from humpback.recipe import ServerSettings, load_recipe

__all__ = ["ModelOptions", "TagChoice", "check_model", "choose_tag", "make_prompts", "opened", "specify"]

TagChoice = Literal["auto", "both", "seed", "none"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How models are run."""

    cache: Path
    """File of the answer cache."""
    engine: Literal["hf", "vllm"] = "hf"
    """For models that are not behind a server."""
    device: str = "auto"
    max_tokens: int = 2048
    """Longest prompt and answer together, in tokens."""
    server_model: str | None = None
    api_key_env: str | None = None
    tokenizer: str | None = None
    """Of a server's model: a folder, a hub id, or `estimate`; None takes what it serves."""
    quiet: bool = False
    """Show no progress."""


@contextlib.contextmanager
def opened(
    reference: str, options: ModelOptions, *, needs: Capability, hear: Callable[[Heard], None] | None = None
) -> Iterator[CachedEngine]:
    """Open the model, check that it can do what is needed, and free its memory in the end; `hear` hears of its answers."""
    with Console(quiet=options.quiet).bar(reference, None, "answers") as bar:

        def listen(heard: Heard) -> None:
            bar.hear(heard.totals, work=heard.work)
            if hear:
                hear(heard)

        engine = open_engine(specify(reference, options), listen)
        try:
            _require(engine, reference, needs)
            yield engine
        finally:
            engine.close()


def check_model(reference: str, options: ModelOptions, *, needs: Capability) -> None:
    """Raise InputError where the model cannot be had, or where the server that has it cannot do what is needed; loads no weights."""
    spec = specify(reference, options)
    if spec.server is None:
        return
    engine = open_engine(spec)
    try:
        _require(engine, reference, needs)
    finally:
        engine.close()


def _require(engine: CachedEngine, reference: str, needs: Capability) -> None:
    if needs not in engine.capabilities:
        told = f"{reference} cannot answer here: its engine has no {needs}. {engine.lacks(needs)}"
        raise InputError(told.strip())


def specify(reference: str, options: ModelOptions) -> EngineSpec:
    """Return what is opened for a reference; a server is asked what it serves."""
    served = reference.startswith(("http://", "https://"))
    server = None
    if served:
        server = ServerSettings(
            url=reference, model=options.server_model, api_key_env=options.api_key_env, tokenizer=options.tokenizer
        )
        model = find_served(server)
    elif (Path(reference) / "fake-model.json").exists():
        model = find_model(Path(reference))
    else:
        model = resolve_model(reference, Path.home() / ".cache" / "humpback")
    engine: Literal["hf", "vllm", "server", "fake"] = (
        "server" if served else "fake" if _is_fake(reference) else options.engine
    )
    return EngineSpec(
        model=model,
        engine=engine,
        device=options.device,
        dtype=steady_format(options.device) if engine == "hf" else "auto",
        batch_tokens=None,
        threads=None,
        cache=options.cache,
        max_tokens=options.max_tokens,
        server=server,
    )


def _is_fake(reference: str) -> bool:
    return reference == "fake" or (Path(reference) / "fake-model.json").exists()


def make_prompts(
    engine: CachedEngine, options: ModelOptions, *, rubric: str = RUBRIC, instruction_tokens: int = 0
) -> Prompts:
    """Return what renders prompts for this model."""
    return Prompts(
        engine.tokenizer, max_tokens=options.max_tokens, instruction_tokens=instruction_tokens, rubric=rubric
    )


def choose_tag(reference: str, tags: TagChoice) -> str:
    """Return the tag sentences that instructions get; `auto`: both for a model that a run has trained, none for others.

    A run's model gets the sentences of its run's recipe.
    """
    place = Path(reference).absolute()
    trained = place.name == "model" and place.parent.name == "finetune"
    if tags == "auto":
        tags = "both" if trained else "none"
    if tags == "none":
        return ""
    seed_tag, web_tag = SEED_TAG, WEB_TAG
    recipe = next((folder / "recipe.yaml" for folder in place.parents[:4] if (folder / "recipe.yaml").is_file()), None)
    if trained and recipe:
        wording = load_recipe(recipe).prompts
        seed_tag, web_tag = wording.seed_tag, wording.web_tag
    return " ".join(tag for tag in ((seed_tag, web_tag) if tags == "both" else (seed_tag,)) if tag)
