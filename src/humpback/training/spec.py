"""What one training is: the file that `launch` writes and `sft` reads, and what a training reports back."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from humpback.errors import InputError, MissingDependencyError
from humpback.recipe import Reporter
from humpback.training.held_out import HeldOutLoss
from humpback.training.reporting import check_reporters

__all__ = [
    "FAILED",
    "FINISHED",
    "LESS_MEMORY",
    "METRICS",
    "PRECISION",
    "STARTED",
    "TrainResult",
    "TrainSpec",
    "TrainStep",
    "check_inputs",
    "check_quantizer",
    "check_spec",
]

RUNTIME = frozenset(
    {"data", "held_out", "output", "work", "metrics", "batch_tokens", "save_every", "threads", "device", "precision"}
    | {"precision_file", "processes", "sharding", "recompute", "report_to"}
)
"""Fields that say where and how a training runs, not what it learns: a checkpoint may be resumed with other values, but for
`processes`, `sharding` and another `precision`."""

FAILED = "failed.json"
"""Written into the work folder by a training that gave up: what was wrong, and the exit status."""

FINISHED = "finished.json"
"""Written into the work folder after the model: the steps trained, the step whose model was kept, and the number format."""

LESS_MEMORY = (
    "what needs less memory: a lower runtime.train_batch_tokens, runtime.training.recompute: true, train.method: lora or qlora, a "
    "smaller model.base (in a training spec of its own: batch_tokens, recompute, method, base_model)"
)
"""What to do where memory ran out, by the recipe's keys and the spec's."""

METRICS = "metrics.jsonl"
"""Beside the model folder: a line per optimizer step."""

PRECISION = "precision.json"
"""In the work folder: the number format the training computes in, and why; it stays over all its sittings. In the folder of a run or a
study: the one that its trainings share."""

STARTED = "started.json"
"""Written into the work folder when the rows are read and the checkpoint is chosen: counts, and the step resumed at."""


class TrainSpec(BaseModel):
    """One training, complete: no default is hidden in the trainer. Defaults are the paper's where it has any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_model: Path
    """Folder of the model to start from: config.json, safetensors, tokenizer."""
    data: tuple[Path, ...]
    """Parquet files in order, columns `id`, `input_ids` and `labels` (-100 where no loss is taken), and, where they are not all
    1, `sampling` (draws of the row per epoch, on average) and `weight` (of its loss)."""
    output: Path
    """Folder to create: always a full model; after LoRA its folder `adapter` holds the adapter alone."""
    work: Path
    """Folder for checkpoints, the log and the spec; checkpoints are deleted at the end."""
    metrics: Path
    """The metrics.jsonl to write, one line per optimizer step."""

    base_hash: str = ""
    """Content hash of the base model; identity holds it in place of the path."""
    chat_template: str = ""
    """The template the rows were rendered with; the model carries it. Empty: the base model's files stay as they are."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end an answer in the rows; the model's generation config names them beside its own."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(ge=1)
    """Examples per optimizer step, exact."""
    method: Literal["full", "lora", "qlora"] = "full"
    """full: all weights. lora: low-rank adapters, merged at the end. qlora: the same over weights held in 4 bits (bitsandbytes)."""
    learning_rate: float = Field(1e-5, gt=0)
    """Learning rate of the first step (after warm-up)."""
    final_learning_rate: float = Field(9e-6, ge=0)
    """Learning rate of the last step; linear in between."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps of linear warm-up."""
    weight_decay: float = Field(0.1, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Probability; dropout of attention where the architecture has it, and of the LoRA input."""
    max_grad_norm: float = Field(1.0, ge=0)
    """L2 norm to which gradients are clipped; 0 turns clipping off."""
    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    """Numerator of the adapter's scale, alpha / rank."""
    lora_targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the modules that get an adapter; all linear layers but the output head by default."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds the order of the rows, LoRA's start and dropout."""

    held_out: tuple[Path, ...] = ()
    """Parquet files like `data`, with a column `origin` if their losses are to be told apart; nothing is learnt from them."""
    held_out_share: float = Field(0, ge=0, le=0.5)
    """In place of `held_out`: this share of the rows of each origin in `data`, which are then not trained on."""
    evaluate_every: int | None = Field(None, ge=1)
    """Optimizer steps between losses on the held-out rows; None is a tenth of `steps`. There is always one before and at the end."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many held-out losses in a row that are no better than the best; None never stops early."""
    keep: Literal["last", "best"] = "last"
    """Which model is the result: after the last step, or of the step with the lowest held-out loss."""

    batch_tokens: int | None = Field(None, ge=1)
    """Tokens, padding included, of one forward and backward pass; a longer row is passed alone. None: 512 on a CPU,
    where larger passes were measured slower, 8,192 on a GPU."""
    save_every: int = Field(50, ge=1)
    """Optimizer steps between checkpoints."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each process. None: OMP_NUM_THREADS where it is set, else the machine's cores, split over the processes."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda or cuda:N."""
    processes: int = Field(1, ge=1)
    """Processes that train together, a GPU each where there are any; a batch's rows are split over them."""
    sharding: Literal["none", "full"] = "none"
    """none: every process holds the model (DDP). full: weights, gradients and optimizer state are split over GPUs (FSDP2)."""
    recompute: bool | None = None
    """Compute activations a second time in the backward pass (gradient checkpointing): less memory, about a third slower. None
    does so on a GPU when the activations of one pass would not fit beside the model."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; full training keeps its weights in float32. auto is bfloat16 on a GPU that has it, and on a CPU that is
    measured to be faster in it, else float32; decided once, and kept when a killed training goes on."""
    precision_file: Path | None = None
    """File that keeps what auto decided on for all trainings that are to be compared; the first of them writes it. None: each training
    decides for itself."""
    report_to: tuple[Reporter, ...] = ()
    """Services that follow the training; their addresses and keys come from the environment."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.data:
            raise ValueError("data names no file")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} leaves none of the {self.steps} steps")
        if self.processes > self.batch_size:
            raise ValueError(
                f"processes={self.processes} for batch_size={self.batch_size}: some would have no row; use fewer"
            )
        if self.held_out and self.held_out_share:
            raise ValueError(f"held_out and held_out_share={self.held_out_share:g} are both given; give one of them")
        if not (self.held_out or self.held_out_share) and (self.patience is not None or self.keep == "best"):
            raise ValueError(
                "patience and keep=best need rows in held_out or a held_out_share, to tell which step is best"
            )
        if self.sharding == "full" and self.processes == 1:
            raise ValueError("sharding=full splits a model over processes, and processes=1")
        if self.sharding == "full" and self.method == "qlora":
            raise ValueError(
                "sharding=full does not split weights held in 4 bits (method=qlora); use sharding=none, or method=lora"
            )
        return self

    @classmethod
    def read(cls, path: Path) -> TrainSpec:
        """Read a spec from a JSON file."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"the training spec {path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise _invalid(error, f"the training spec {path}") from error

    @property
    def evaluation_steps(self) -> int:
        """Optimizer steps between losses on held-out rows."""
        return self.evaluate_every or max(1, self.steps // 10)

    def pass_tokens(self, *, on_cuda: bool) -> int:
        """Tokens of one pass, padding included."""
        return self.batch_tokens or (8_192 if on_cuda else 512)

    def identity(self) -> str:
        """Return a digest of everything that decides what is learnt, the content of the data files included."""
        outside = RUNTIME | {"base_model"} if self.base_hash else RUNTIME
        fields = self.model_dump(mode="json", exclude=set(outside))
        for name, paths in (("data_sha256", self.data), ("held_out_sha256", self.held_out)):
            fields[name] = []
            for path in paths:
                with path.open("rb") as file:
                    fields[name].append(hashlib.file_digest(file, "sha256").hexdigest())
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def check_spec(values: Mapping[str, object], what: str) -> TrainSpec:
    """Return a spec from plain values, as YAML gives them; raise InputError with every fault."""
    try:
        return TrainSpec.model_validate(values)
    except ValidationError as error:
        raise _invalid(error, what) from error


def _invalid(error: ValidationError, what: str) -> InputError:
    found = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
    told = "; ".join(f"{key}: {fault}" if key else fault for key, fault in found)
    return InputError(f"{what} is not valid: {told}")


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """One optimizer step, as it happens."""

    step: int
    """1 to `steps`; a resumed training starts behind its checkpoint."""
    steps: int
    loss: float
    """Nats per label token, mean over the step's label tokens."""
    tokens: int
    """Tokens of the step, padding excluded."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training did, over all its steps, those before a resume included."""

    steps: int
    examples: int
    """Rows trained on: those of the data files without a held-out share."""
    tokens: int
    """Tokens trained on, padding excluded, repeated rows counted each time."""
    label_tokens: int
    """Tokens that took loss, repeated rows counted each time."""
    first_loss: float | None
    """Nats per label token; None where there was no real training."""
    last_loss: float | None
    first_tenth_loss: float | None
    """Mean loss of the first tenth of the steps, at least one."""
    last_tenth_loss: float | None
    seconds: float
    """Wall-clock seconds of the steps, without loading, saving and held-out losses."""
    held_out: tuple[HeldOutLoss, ...] = ()
    """Losses on the held-out rows, the base model's first."""
    kept_step: int | None = None
    """Optimizer steps that the written model has had, fewer than `steps` where an earlier one was best."""
    precision: str | None = None
    """Number format of the products, and why; None where a trainer does not tell."""


def check_inputs(spec: TrainSpec) -> None:
    """Refuse a base model or data files that cannot be trained on, before anything heavy is loaded."""
    base = spec.base_model
    if not base.is_dir():
        raise InputError(f"base model {base}: there is no such folder")
    if not (base / "config.json").is_file():
        if (base / "adapter_config.json").is_file():
            raise InputError(
                f"base model {base} is an adapter without its model; merge it into the model it was trained on first"
            )
        raise InputError(f"base model {base}: the folder holds no config.json; a transformers model folder is needed")
    if not any(base.glob("*.safetensors")):
        raise InputError(f"base model {base}: the folder holds no safetensors; other weight files can run code")
    for path in (*spec.data, *spec.held_out):
        if not path.is_file():
            raise InputError(f"training data {path}: there is no such file")
    check_reporters(spec.report_to)


def check_quantizer(spec: TrainSpec) -> None:
    """Refuse 4-bit weights without the package that makes them; a trainer of the user's own may have another."""
    if spec.method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("method=qlora needs bitsandbytes: pip install bitsandbytes; or use method=lora")
