"""What a run decides, or refuses, as it opens: the number format of its answers, its signals, and whether its engine can do it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from humpback.engines import decide_format
from humpback.engines.base import Capability, ModelRef
from humpback.engines.cache import CachedEngine
from humpback.errors import InputError, StorageError
from humpback.evaluation.signals import SIGNALS
from humpback.machine import environment
from humpback.recipe import NumberFormat, Recipe, RuntimeSettings, Signal
from humpback.stages.table import stage_names
from humpback.store.shards import atomic_write
from humpback.training.spec import FINISHED, PRECISION

__all__ = ["check_context", "check_served", "choose_signals", "decide_numbers", "forget_precision"]

NEEDS: Mapping[Capability, str] = {
    "generate": "augment writes instructions by it",
    "loglikelihood": "evaluate compares models by it",
}
"""What a run asks of its engine whatever its signals are, and for what."""

FORMAT = "numbers.json"
"""In the folder of a run, or of a study for all its cells: the number format that `runtime.dtype: auto` decided on, and where."""


def decide_numbers(runtime: RuntimeSettings, folder: Path) -> tuple[NumberFormat, str]:
    """Return the number format of answers and why: what is resumed goes on in the one that it began in on this machine.

    `auto` is measured, and a busy machine may measure otherwise the next time; one stage's answers would be of two formats.
    """
    path = folder / FORMAT
    on = {"device": runtime.device, "cpu": environment()["cpu"]}
    if runtime.dtype == "auto" and path.exists():
        kept, told = _read_decision(path, on)
        if kept is not None:
            return kept, told
    decided, told = decide_format(runtime)
    if told and runtime.dtype == "auto":
        atomic_write(path, json.dumps({"on": on, "format": decided, "told": told}).encode())
    return decided, told


def _read_decision(path: Path, on: Mapping[str, object]) -> tuple[NumberFormat | None, str]:
    """Return what was decided on this machine and why, None where it was another."""
    try:
        kept = json.loads(path.read_bytes())
        decided, told = kept["format"], str(kept["told"])
        if decided in get_args(NumberFormat):
            return (decided, told) if kept["on"] == on else (None, "")
        fault = f"format is {decided!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
    raise StorageError(
        f"{path} does not say which number format answers are computed in ({fault}); delete the file, and the format is decided anew, "
        "or set runtime.dtype to the one that the manifests of the stages name (environment.numbers)"
    )


def forget_precision(folder: Path) -> None:
    """Let the next training of a run, or of a study's cells, decide on its number format anew where nothing is trained in the old one.

    A decision is kept for the models that are compared; where none of them is left, nor a checkpoint to go on from, it would bind
    the run to the speeds of a machine that it may have left.
    """
    trainings = [path for pattern in ("*/finetune", "cells/*/*/finetune") for path in folder.glob(pattern)]
    traces = ("manifest.json", f"work/{FINISHED}", "work/checkpoint-*")
    if not any(any(training.glob(trace)) for training in trainings for trace in traces):
        for decision in (*(training / "work" / PRECISION for training in trainings), folder / PRECISION):
            decision.unlink(missing_ok=True)


def check_served(recipe: Recipe) -> None:
    """Refuse a server that is there for a run whose own models it cannot have."""
    server = recipe.runtime.server
    if recipe.runtime.engine != "server" or server is None:
        return
    trained = [name.removesuffix("/finetune") for name, _ in stage_names(recipe) if name.endswith("/finetune")]
    if server.url is not None and trained:
        raise InputError(
            f"runtime.server.url={server.url} serves one model that is there already (url is for `humpback doctor --server` "
            "and the Python API), and this run trains its own "
            f"({', '.join(trained)}) and asks them; set runtime.server.command instead of url, for example: "
            "vllm serve {model} --host 127.0.0.1 --port {port}"
        )
    if server.tokenizer not in (None, recipe.model.base):
        raise InputError(
            f"runtime.server.tokenizer={server.tokenizer} is not the tokenizer of the models that this run trains and serves, "
            "which is their base model's; leave it out"
        )


def choose_signals(recipe: Recipe, engine: CachedEngine) -> tuple[list[Signal], str]:
    """Return the signals to compute, and in words what null leaves out; refuse an engine that cannot do what the run asks."""
    name, can = recipe.runtime.engine, engine.capabilities

    def tell(capability: Capability) -> str:
        why = engine.lacks(capability)
        return f" ({why})" if why else ""

    for capability, purpose in NEEDS.items():
        if capability not in can:
            raise InputError(
                f"engine {name} cannot give {capability}{tell(capability)}, and a run needs it: {purpose}; "
                "set runtime.engine=hf or vllm, or serve the models with vLLM"
            )
    needs = {signal: SIGNALS[signal].needs for signal in recipe.score.wanted}
    lacking = {signal: need for signal, need in needs.items() if need is not None and need not in can}
    if not lacking:
        return recipe.score.wanted, ""
    told = tell(next(iter(lacking.values())))
    if recipe.score.signals is not None:
        raise InputError(
            f"engine {name} cannot compute score.signals={list(lacking)}{told}; remove them, leave score.signals out to "
            "have all that it can, or set runtime.engine=hf"
        )
    if recipe.curate.signal in lacking:
        raise InputError(
            f"engine {name} cannot compute curate.signal={recipe.curate.signal}{told}; choose another signal, or set "
            "runtime.engine=hf"
        )
    left_out = f"; without {', '.join(lacking)}: engine {name} gives no {', '.join(sorted(set(lacking.values())))}"
    return [signal for signal in recipe.score.wanted if signal not in lacking], left_out


def check_context(base: ModelRef, max_tokens: int) -> None:
    config = Path(base.path) / "config.json"
    if config.exists():
        context = json.loads(config.read_bytes()).get("max_position_embeddings")
        if isinstance(context, int) and context < max_tokens:
            raise InputError(f"model.max_tokens={max_tokens} exceeds the base model's context; use at most {context}")
