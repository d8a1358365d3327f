"""The model of a training: loaded, given adapters, and written. In: a spec. Out: a model that can be trained; a model folder.

Only this file knows of peft and bitsandbytes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from humpback.errors import InputError, StorageError
from humpback.memory import lacks_memory
from humpback.training.arithmetic import Sitting
from humpback.training.attending import ATTENTION
from humpback.training.checkpoints import UNFINISHED, write_folder
from humpback.training.result import ADAPTER, dress_model, write_record
from humpback.training.spec import TrainSpec

__all__ = ["adapters", "clear_when_full", "load_model", "needs_recompute", "save_model"]

DROPOUTS = ("attention_dropout", "attn_pdrop", "hidden_dropout", "resid_pdrop")
"""What architectures call the dropout inside their layers."""
FULL_STATE = 16
"""Bytes of a trained weight: itself, its gradient and Adam's two moments, in float32."""
EAGER = 12
"""Bytes that `eager` attention keeps of a probability: in float32, rounded, capped and with dropout."""


def load_model(spec: TrainSpec, *, on_cuda: bool) -> Any:
    """Load the base model; `precision` is settled. Full training keeps float32 weights: at 1e-5 most updates vanish in bfloat16."""
    config = _read_config(spec.base_model)
    for name in DROPOUTS:
        if spec.dropout and hasattr(config, name):
            setattr(config, name, spec.dropout)
    half = spec.method != "full" and spec.precision == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    quantized: dict[str, Any] = {"quantization_config": _four_bits(dtype)} if spec.method == "qlora" else {}
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            spec.base_model,
            config=config,
            dtype=dtype,
            attn_implementation=None,  # torch's own kernels, or `eager` where an architecture refuses them
            use_safetensors=True,
            output_loading_info=True,
            **quantized,
        )
    except RuntimeError as error:  # shapes that do not match
        if lacks_memory(error):
            raise
        raise InputError(f"base model {spec.base_model}: {_one_line(error)}") from error
    model, told = loaded
    found = [_some("missing", told["missing_keys"]), _some("not asked for", told["unexpected_keys"])]
    if any(found):
        raise InputError(
            f"base model {spec.base_model}: its weights are not those of the {type(model).__name__} that config.json describes: "
            f"{'; '.join(filter(None, found))}; give the config.json that belongs to the weights: "
            "missing ones would be trained from random numbers"
        )
    if spec.precision == "bfloat16" and not on_cuda and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)
    return model


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder)
    except ValueError as error:  # its message is a page, and asks for an installation from source
        raise InputError(
            f"base model {folder}: transformers {transformers.__version__} cannot tell its architecture by config.json "
            f"({_one_line(error).split('. ')[0]}); take a newer transformers, or another base model"
        ) from error


def adapters(spec: TrainSpec) -> LoraConfig | None:
    """Return what adapters to add, None for full training."""
    if spec.method == "full":
        return None
    targets = spec.lora_targets if isinstance(spec.lora_targets, str) else list(spec.lora_targets)
    return LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def needs_recompute(spec: TrainSpec, model: Any, *, tokens: int, longest: int, memory: int) -> bool:
    """Say whether the activations of a pass of so many tokens do not fit beside the model in so many bytes of a GPU's memory.

    Counted are the inputs that a decoder layer's products and elementwise functions keep, half of them in float32, and, where
    attention is not a kernel (`eager`), what each head keeps of every token's view of a row as long as the `longest`.
    """
    if spec.recompute is not None:
        return spec.recompute
    config = model.config.get_text_config()
    width, inner, layers = config.hidden_size, getattr(config, "intermediate_size", None), config.num_hidden_layers
    per_token = layers * (2 * (6 * width + 4 * (inner or 4 * width)) + 16 * width)
    if model.config._attn_implementation == "eager":
        per_token += layers * config.num_attention_heads * longest * EAGER
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    held = weights if spec.method != "full" else weights * FULL_STATE // 4
    return bool(tokens * per_token > 0.8 * memory - held)


def save_model(
    spec: TrainSpec,
    model: Any,
    counts: Mapping[str, int],
    *,
    on_cuda: bool,
    kept_step: int,
    sittings: Sequence[Sitting],
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Put the model in its place, adapters merged and alone: float32 from a CPU, bfloat16 from a GPU.

    `kept_step` is the step whose model it is, `sittings` are by what its steps were computed; `weights` are all of
    a model that is split over processes.
    """
    dtype = torch.bfloat16 if on_cuda else torch.float32
    device = torch.cuda.get_device_name() if on_cuda else "cpu"

    def write(folder: Path) -> None:
        merged, gathered = model, weights
        if isinstance(model, PeftModel):
            # the vocabulary is the base's: peft would look for the base's config on the hub to find that out
            model.save_pretrained(str(folder / ADAPTER), state_dict=weights, save_embedding_layers=False)
            apart = weights is not None or spec.method == "qlora" or spec.precision == "bfloat16"
            merged = (_onto_whole_weights(spec, model, weights) if apart else model.float()).merge_and_unload()
            gathered = None
        base = AutoConfig.from_pretrained(spec.base_model)
        for name in DROPOUTS:
            if hasattr(base, name):
                setattr(merged.config, name, getattr(base, name))
        if gathered is None:
            merged.to(dtype).save_pretrained(folder)
        else:
            merged.save_pretrained(folder, state_dict={name: value.to(dtype) for name, value in gathered.items()})

    def finish(folder: Path) -> None:
        dress_model(folder, spec)
        write_record(
            folder, spec, counts, trainer="humpback.training.sft", device=device, kept_step=kept_step, sittings=sittings
        )

    with clear_when_full("the model", spec.output.with_name(spec.output.name + UNFINISHED)):
        write_folder(spec.output, base=spec.base_model, write=write, finish=finish)


@contextlib.contextmanager
def clear_when_full(what: str, writing: Path) -> Iterator[None]:
    """Where a folder cannot be written to its end, delete what there is of it, so that it takes no room, and say why."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors tell of a full disk by errors of their own
        if lacks_memory(error):
            raise
        free = shutil.disk_usage(writing.parent).free
        shutil.rmtree(writing, ignore_errors=True)
        raise StorageError(
            f"{what} cannot be written to {writing.parent}: {_one_line(error)}; free some space ({free / 2**20:,.0f} MiB were free); "
            "earlier checkpoints are kept"
        ) from error


def _four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _onto_whole_weights(spec: TrainSpec, model: Any, weights: Mapping[str, torch.Tensor] | None) -> Any:
    """Put the adapters on the base's own weights: merged into rounded ones the result would be as coarse as
    they are (4 bits, bfloat16), into split ones a part."""
    whole = AutoModelForCausalLM.from_pretrained(spec.base_model, dtype=torch.float32, use_safetensors=True)
    again = PeftModel(whole, model.peft_config["default"])
    learnt = {name: value.cpu().float() for name, value in get_peft_model_state_dict(model, state_dict=weights).items()}
    set_peft_model_state_dict(again, learnt)
    return again


def _some(what: str, names: Any) -> str:
    found = sorted(names)
    return f"{len(found)} {what}, such as {found[0]}" if found else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
