"""What is trained, on what and how: the sections `model`, `mix` and `train`.

In: plain values of the recipe, of which `train.preset` fills in those of `train` that are not given. Out: settings of the mix and of
every training. On which devices is no part of it: `runtime.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from humpback.recipe.section import Section

__all__ = ["PRESETS", "MixSettings", "ModelSettings", "TrainSettings"]


class ModelSettings(Section):
    """The base model; every model of the run is fine-tuned from it."""

    base: str
    """A model folder, a .gguf file, `package:NAME` (a Python package that ships a GGUF), a hub id, or `fake` (scripted)."""
    max_tokens: int = Field(2048, ge=64)
    """Longest prompt and answer together, in tokens."""


class MixSettings(Section):
    """What a model is trained on, and how much each part counts. Held-out pairs and `corpus.decontaminate` are always kept out."""

    seed_weight: float = Field(1.0, gt=0, le=100)
    """Draws of each seed pair in an epoch, on average: 2 is twice in every epoch, 0.5 in every other one."""
    curated_weight: float = Field(1.0, gt=0, le=100)
    """Draws of each curated pair in an epoch, on average."""
    loss_weight: Literal["p_good"] | None = None
    """p_good: the loss of a curated pair counts by its P(good), at least 0.01; that of a seed pair counts whole. null: all count
    whole."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "small": {"learning_rate": 1e-4, "final_learning_rate": 1e-5, "dropout": 0.0, "epochs": 1.0},
    "lora": {
        "method": "lora",
        "learning_rate": 1e-3,
        "final_learning_rate": 1e-4,
        "dropout": 0.0,
        "epochs": 1.0,
    },
}
"""Values of `train` by the name of a preset; what is not in one is the paper's. A key that is given goes before its preset's."""


class TrainSettings(Section):
    """How every model of the run is fine-tuned from the base model."""

    preset: Literal["paper", "small", "lora"] = "paper"
    """Where the values come from that are not given. paper: of a 65B model. small: all weights of a model under about 1B
    parameters, which needs larger steps. lora: adapters on a model of any size."""
    command: str | None = None
    """A trainer of your own in place of ours, started with the path of the training spec for {spec}: `python mine.py {spec}`."""
    method: Literal["full", "lora", "qlora"] = "full"
    """full: all weights. lora: low-rank adapters, merged into the weights at the end. qlora: the same over weights held in 4 bits
    while training, where bitsandbytes is installed."""
    learning_rate: float = Field(1e-5, gt=0)
    """At the first step (paper: 1e-5)."""
    final_learning_rate: float = Field(9e-6, ge=0)
    """At the last step, reached linearly (paper: 9e-6)."""
    weight_decay: float = Field(0.1, ge=0)
    """Paper: 0.1."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Paper: 0.1."""
    warmup_steps: int = Field(0, ge=0)
    """The paper reports none."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient clipping."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; null takes `epochs`, or the paper's step table when that is null too."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the mix; null takes the paper's step table, interpolated."""
    batch_size: int | None = Field(None, ge=1)
    """Examples per optimizer step; null is the paper's: 8 below 3,000 examples, else 32."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapters."""
    lora_alpha: int = Field(32, ge=1)
    """Scale of the adapters: alpha / rank."""
    held_out_share: float = Field(0.0, ge=0, le=0.5)
    """Share of a mix's rows, of seed and web alike, that is not trained on but measured while training. The run's own hold-out is
    not touched: it measures the models afterwards."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between the losses on held-out rows; null is a tenth of all steps."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many held-out losses in a row that are no better than the best; null trains to the end."""
    keep: Literal["last", "best"] = "last"
    """Which model is the result: after the last step, or of the step with the lowest held-out loss."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Put the preset's values where none are given; `steps` stands for `epochs`."""
        name = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in PRESETS:
            return values
        preset = dict(PRESETS[name])
        if values.get("steps") is not None:
            preset.pop("epochs", None)
        return {**preset, **values}

    @field_validator("command")
    @classmethod
    def _command(cls, value: str | None) -> str | None:
        if value is not None and "{spec}" not in value:
            raise ValueError(f"train.command={value} lacks {{spec}}; for example: python mine.py {{spec}}")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> TrainSettings:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs:g} are both set; keep one of them")
        if not self.held_out_share and (self.patience is not None or self.keep == "best"):
            raise ValueError("train.patience and train.keep=best need train.held_out_share, such as 0.05")
        if self.command and self.held_out_share:
            raise ValueError(
                f"train.held_out_share={self.held_out_share:g} is for our own trainer, and train.command trains on the whole mix; "
                "leave one of them out"
            )
        return self
