"""How to compute, not what: the section `runtime`, with what engines need to be started.

In: plain values of the recipe. Out: settings outside identity, so that a run may go on with others: another machine, another engine.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Literal

from pydantic import Field, field_validator, model_validator

from humpback.recipe.section import Section

__all__ = ["NumberFormat", "Reporter", "RuntimeSettings", "ServerSettings", "TrainingDevices", "VLLMSettings"]

NumberFormat = Literal["auto", "float32", "bfloat16", "float16"]
Reporter = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class VLLMSettings(Section):
    """The `vllm` engine. It batches by itself: `runtime.batch_tokens` does not bear on it."""

    python: str | None = None
    """Interpreter of an environment that has vLLM, for example .venv-vllm/bin/python; null is this one."""
    max_model_len: int | None = Field(None, ge=64)
    """Longest prompt and answer together, in tokens; null is model.max_tokens, and less is refused."""
    gpu_memory_utilization: float = Field(0.45, gt=0, le=1)
    """Share of a GPU's memory for one model. While scoring, two are loaded: M_t and the backward model."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that hold one model together."""
    enforce_eager: bool = False
    """Start faster and answer slower: no compilation, no CUDA graphs."""
    max_loras: int = Field(2, ge=1)
    """Adapters of one base model that are answered with at the same time."""
    start_timeout_s: float = Field(1800, gt=0)
    """Longest time to load a model, in seconds; then its process is started again."""
    stall_timeout_s: float = Field(600, gt=0)
    """Longest silence of an engine at work, in seconds; then its process is replaced and what it owes is asked again."""


class ServerSettings(Section):
    """An OpenAI-compatible server, for `engine: server`. A run needs `command`: it trains models, and starts a server for each.

    `url`, a server that is there, is for `humpback doctor --server` and the Python API.
    """

    command: str | None = None
    """Starts a server that humpback stops again, with {model} and {port} to be filled in: `vllm serve {model} --port {port}`."""
    url: str | None = None
    """A server that is there and serves one model, for example http://127.0.0.1:8000/v1; a recipe's run is refused it."""
    model: str | None = None
    """Name under which the server serves it; null takes the only one it lists."""
    tokenizer: str | None = None
    """With `url`, a folder or hub id, or `estimate` for a chat endpoint whose tokenizer is not to be had; null takes the model's
    own, which is what a run needs."""
    api_key_env: str | None = None
    """Environment variable that holds the key, for example OPENAI_API_KEY; null sends none."""
    concurrency: int = Field(64, ge=1, le=4096)
    """Most requests in flight; fewer while the server is overloaded, or no faster for more."""
    timeout_s: float = Field(120, gt=0)
    """Longest wait for one reply; then the request is sent again."""
    deadline_s: float = Field(300, gt=0)
    """Longest time for one row, all tries together; then the row fails."""
    patience_s: float = Field(300, gt=0)
    """A server that answers nothing for this long stops the run."""
    start_s: float = Field(900, gt=0)
    """Longest time from starting `command` to its first answer."""

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):  # not shown: it may be the key itself
            raise ValueError(
                "runtime.server.api_key_env is not the name of an environment variable (capitals, digits, _); "
                "never write a key into a recipe: export OPENAI_API_KEY=... and set api_key_env: OPENAI_API_KEY"
            )
        return value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urllib.parse.urlsplit(value)
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown: it may hold a key
            raise ValueError(
                "runtime.server.url holds a user, a query or a fragment; give the bare address, and the key's variable "
                "as runtime.server.api_key_env"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"runtime.server.url={value} is no web address; for example http://127.0.0.1:8000/v1")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> ServerSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError(
                "runtime.server needs either command (started for each model: what a run needs) or url (a server that is "
                "there: for `humpback doctor --server` and the Python API)"
            )
        if self.command is not None:
            lacking = [name for name in ("{model}", "{port}") if name not in self.command]
            if lacking:
                raise ValueError(
                    f"runtime.server.command={self.command} lacks {' and '.join(lacking)}; for example: "
                    "vllm serve {model} --host 127.0.0.1 --port {port}"
                )
        return self


class TrainingDevices(Section):
    """What trains, and how it is spread. A run may be resumed with other values, but a killed training keeps its `processes`,
    `sharding` and number format."""

    processes: int = Field(1, ge=1)
    """Processes that train one model together, one per GPU; a batch's rows are split over them."""
    sharding: Literal["none", "full"] = "none"
    """none: every GPU holds the whole model (DDP). full: weights, gradients and optimizer state are split over them (FSDP2)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; full training keeps float32 weights. auto: bfloat16 on a GPU that has it and on a CPU that is measured to be
    faster in it, else float32; decided once for all trainings of a run, or of a study, and never changed by a resume."""
    recompute: bool | None = None
    """Compute activations again in the backward pass (gradient checkpointing): less memory, about a third slower. null: on a GPU,
    when a pass would not fit otherwise."""

    @model_validator(mode="after")
    def _split(self) -> TrainingDevices:
        if self.sharding == "full" and self.processes == 1:
            raise ValueError(
                "runtime.training.sharding=full splits a model over processes, and runtime.training.processes=1; set as many "
                "processes as there are GPUs, or sharding=none"
            )
        return self


class RuntimeSettings(Section):
    """How to compute. Outside identity: no result depends on it, beyond the rounding of another device or batch."""

    engine: Literal["hf", "vllm", "server", "fake"] = "hf"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: NumberFormat = "auto"
    """Of weights and activations while asking a model (training has its own). auto is bfloat16 on a GPU (float16 on one that has
    none) and, on a CPU, the faster of float32 and bfloat16: hf measures it when it opens, vllm takes float32. Answers differ by
    rounding and are kept under one key whatever the format, as for another device."""
    batch_tokens: int | None = Field(None, ge=64)
    """Token budget of one forward pass of the hf engine; null is 2,048 on a CPU and 16,384 on a GPU. Halved when memory runs out."""
    train_batch_tokens: int | None = Field(None, ge=64)
    """Token budget of one training micro-batch; null is 512 on a CPU (faster there, and smaller) and 8,192 on a GPU."""
    save_every: int = Field(50, ge=1)
    """Training steps between checkpoints: the most that a kill costs."""
    training: TrainingDevices = TrainingDevices()
    """Devices of the training alone."""
    workers: int = Field(1, ge=1)
    """Processes for ingest, augment and score; each holds its own engine, but for vllm, which serves all rows by itself."""
    report_to: list[Reporter] = Field([])
    """Services that follow every training, besides the run's own report; addresses and keys come from the environment."""
    shard_rows: int = Field(512, ge=1)
    """Rows of one shard, the unit of work that is finished or not."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; null leaves it to torch."""
    cache: str | None = None
    """File of the answer cache, or a folder for it; null keeps one in the run folder. A shared file serves several runs."""
    model_cache: str | None = None
    """Folder for converted models; null is ~/.cache/humpback."""
    vllm: VLLMSettings = VLLMSettings()
    server: ServerSettings | None = None
    """For `engine: server`."""

    @model_validator(mode="after")
    def _served(self) -> RuntimeSettings:
        if self.engine == "server" and self.server is None:
            raise ValueError("runtime.engine=server needs runtime.server.command, which starts a server for each model")
        if self.engine == "server" and self.server and self.server.command and self.workers > 1:
            raise ValueError(
                f"runtime.workers={self.workers} would start as many servers of each model; set runtime.workers=1: one "
                "server is asked many things at once (runtime.server.concurrency)"
            )
        return self
