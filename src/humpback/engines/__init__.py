"""Engines: open one by name. Backends are imported when they are asked for, so none of their libraries is needed before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from humpback.engines.answers import AnswerCache
from humpback.engines.base import Engine, Heard, ModelRef
from humpback.engines.cache import CachedEngine
from humpback.engines.server.findings import Findings
from humpback.engines.vllm_process import Processes
from humpback.errors import MissingDependencyError
from humpback.recipe import NumberFormat, RuntimeSettings, ServerSettings, VLLMSettings

__all__ = [
    "Contract",
    "EngineSpec",
    "decide_format",
    "find_contract",
    "find_model",
    "find_served",
    "open_engine",
    "probe_server",
    "resolve_model",
    "steady_format",
]

SERVER_ROUNDS = 16
"""Rows of one call to a server, as a multiple of the requests in flight: at a call's end some places are empty."""
FAKE_TOKENS = 2048
VLLM_ROWS = 1024
"""Rows that vLLM is given at once, several times what it runs side by side."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """All that a worker process needs to open an engine."""

    model: ModelRef
    engine: Literal["hf", "vllm", "server", "fake"]
    device: str
    batch_tokens: int | None
    """Of one forward pass; None is what suits the engine's device."""
    threads: int | None
    cache: Path
    """File of the answer cache."""
    dtype: NumberFormat = "auto"
    """Of weights and activations, for hf and vllm; `auto` is decided by each process that opens the engine."""
    max_tokens: int = 2048
    """Longest prompt and answer together, in tokens (`model.max_tokens`)."""
    vllm: VLLMSettings = field(default_factory=VLLMSettings)
    server: ServerSettings | None = None
    """For the server engine."""


def open_engine(
    spec: EngineSpec, on_answers: Callable[[Heard], None] | None = None, processes: Processes | None = None
) -> CachedEngine:
    """Open an engine behind the answer cache; `on_answers` hears of every batch, and of what was kept.

    Engines that run in processes of their own share one per base model when they are given the same `processes`.
    """
    inner: Engine
    if spec.engine == "fake":
        from humpback.engines.fake import FakeEngine

        inner = FakeEngine(spec.model)
        batch_tokens, batch_rows = spec.batch_tokens or FAKE_TOKENS, 64
    elif spec.engine == "vllm":
        with _needs("vllm"):
            from humpback.engines.vllm import VLLMEngine

            inner = VLLMEngine(
                spec.model,
                spec.vllm,
                max_tokens=spec.max_tokens,
                device=spec.device,
                dtype=spec.dtype,
                threads=spec.threads,
                processes=processes,
            )
        batch_tokens, batch_rows = sys.maxsize, VLLM_ROWS  # like a server
    elif spec.engine == "server":
        assert spec.server is not None
        with _needs("server"):
            from humpback.engines.server.engine import ServerEngine
        inner = ServerEngine(spec.model, spec.server)
        # it makes its own batches, and tells each answer as it comes
        batch_tokens, batch_rows = sys.maxsize, SERVER_ROUNDS * spec.server.concurrency
    else:
        with _needs("hf"):
            from humpback.engines.hf import HFEngine
        opened = HFEngine(
            spec.model,
            device=spec.device,
            dtype=spec.dtype,
            batch_tokens=spec.batch_tokens,
            threads=spec.threads,
        )
        inner, batch_tokens, batch_rows = opened, opened.call_tokens, opened.call_rows
    return CachedEngine(
        inner, AnswerCache(spec.cache), batch_tokens=batch_tokens, batch_rows=batch_rows, on_answers=on_answers
    )


def decide_format(runtime: RuntimeSettings) -> tuple[NumberFormat, str]:
    """Return the number format that the run's engine is to compute in, so that all its processes take the same, and why.

    Only the hf engine decides here; vllm decides in its own process, and what a server computes in is its own affair.
    """
    if runtime.engine != "hf":
        return runtime.dtype, ""
    with _needs("hf"):
        import torch

        from humpback.engines.hf_format import choose_format, find_device
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)  # as the engine will
    chosen = choose_format(runtime.dtype, find_device(runtime.device))
    return chosen.format, str(chosen)


def steady_format(device: str) -> NumberFormat:
    """Return a number format that the kind of device alone decides, for figures that are to be compared: float32 on a CPU."""
    with _needs("hf"):
        from humpback.engines.hf_format import find_device
    return "float32" if find_device(device).type == "cpu" else "auto"


def resolve_model(reference: str, cache_folder: Path) -> ModelRef:
    """Find the base model a recipe names, converting it once when it is a GGUF file."""
    if reference == "fake":
        from humpback.engines.fake import fake_model

        return fake_model(None)
    with _needs("hf"):
        import transformers  # noqa: F401

        from humpback.engines import models
    return models.resolve_model(reference, cache_folder)


def probe_server(settings: ServerSettings) -> Findings:
    """Return what the server at `settings.url` was found able to do."""
    with _needs("server"):
        from humpback.engines.server.probe import probe_url
    return probe_url(settings)


def find_served(settings: ServerSettings) -> ModelRef:
    """Return the reference of the model that the server at `settings.url` serves."""
    from humpback.engines.server.identity import identify

    return identify(probe_server(settings), settings.tokenizer)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model trained on our rows must carry, so that whoever serves it asks as it was taught."""

    chat_template: str
    """Renders the prompts of the rows, BOS included."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer in the rows."""


def find_contract(folder: Path) -> Contract | None:
    """Return the contract of rows rendered for the model in a folder; None for the scripted one, which has no files."""
    if not (folder / "config.json").is_file():
        return None
    with _needs("hf"):
        from humpback.engines.hf_tokenizer import HFTokenizer
    tokenizer = HFTokenizer(folder)
    return Contract(chat_template=tokenizer.template, stop_ids=(tokenizer.end_of_turn[-1],))


def find_model(folder: Path) -> ModelRef:
    """Return the reference of a model folder that a run has written."""
    if (folder / "fake-model.json").exists():
        from humpback.engines.fake import fake_model

        return fake_model(folder)
    from humpback.engines import models

    return ModelRef(path=str(folder), content_hash=models.hash_model(folder))


class _needs:
    """Turns a missing package into an error that names the extra to install."""

    def __init__(self, extra: str) -> None:
        self.extra = extra

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, ImportError) and not isinstance(error, MissingDependencyError):
            raise MissingDependencyError(
                f"the {error.name} package is not installed; install it with: pip install 'humpback-lm[{self.extra}]'"
            ) from error
