"""One training, measured in a process of its own: `python training_ways.py ASK.json ANSWER.json`, for `training.py`.

In: a way (ours, or TRL's trainer with its defaults or plain), a model folder and rows. Out: seconds, examples and tokens of the
steps after the warm-up, and the process's peak memory. The first step of each is left out: it compiles, allocates and loads.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

__all__ = ["WARM", "WAYS", "Ask", "Measured", "main", "matmul_flops", "precision_of", "useful_flops"]

WARM = 1
"""Steps before the clock starts."""
WAYS = {
    "ours": "`ours` is `humpback.training.sft` without dropout: rows shuffled, a step's rows sorted by length and passed in groups",
    "dropout": "`dropout` is the same with the paper's 0.1, which no other way has",
    "float32": "`float32` is ours with products in float32, whatever was asked for, in full training alone",
    "trl": "`trl` is SFTTrainer with its defaults (bfloat16 products, activations recomputed, padded batches in file order)",
    "plain": "`plain` is SFTTrainer without recomputing, in the format of ours",
}
"""What each way is; a note tells those that were measured."""
SQUARE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product gives a machine's rate."""
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One training to measure."""

    way: str
    """ours, dropout (ours with the paper's 0.1), float32 (ours in it), trl (SFTTrainer's defaults) or plain (SFTTrainer that
    recomputes nothing, format as ours)."""
    method: str
    """full or lora."""
    model: str
    """Folder with config, tokenizer and safetensors."""
    rows: str
    """Parquet file with id, input_ids and labels."""
    work: str
    """Folder to write into."""
    steps: int
    """Optimizer steps, the warm-up included."""
    batch_size: int
    """Examples per optimizer step."""
    device: str
    """cpu or cuda."""
    precision: str
    """auto (the product's own default), float32 or bfloat16, of products; full training keeps its weights in float32."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the steps after the warm-up took."""

    seconds: float
    examples: float
    """Rows of the file's mean length: which rows fall into the timed steps, and so their length, differs by way."""
    tokens: int
    """Padding excluded."""
    flops: float
    """Operations that the loss and its gradient need (`useful_flops`)."""
    precision: str
    """float32 or bfloat16: what the products were really taken in."""
    peak_mib: float
    """Resident memory of the process on a CPU, allocated memory of the device on a GPU; ours writes its model within it."""


def main(arguments: Sequence[str]) -> None:
    asked, answer = (Path(argument) for argument in arguments)
    ask = Ask(**json.loads(asked.read_text()))
    ways = dict.fromkeys(("ours", "dropout", "float32"), _train_ours) | dict.fromkeys(("trl", "plain"), _train_trl)
    answer.write_text(json.dumps(asdict(ways[ask.way](ask))))


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Return operations per second of a large matrix product on random data: what this machine can do at best."""
    side = SQUARE[device]
    one, other = (torch.rand(side, side, device=device, dtype=dtype) - 0.5 for _ in range(2))
    seconds = []
    for _ in range(12):  # the first ones warm up
        _wait(device)
        started = time.perf_counter()
        one @ other
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return float(2 * side**3 / min(seconds[2:]))


def useful_flops(config: Any, rows: Sequence[tuple[int, int]], *, method: str) -> float:
    """Return the operations that training on rows of (tokens, label tokens) needs, in products of matrices.

    Head and loss count at label positions only, attention counts its causal half, nothing counts twice because it is recomputed.
    Forward once, gradients of activations once, gradients of weights once for full training and not at all for LoRA, whose
    adapters are left out as small.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    weights = layers * (width * (2 * queries + 2 * keys) + 3 * width * config.intermediate_size)
    tokens, labels = (sum(column) for column in zip(*rows, strict=True))
    products = 2 * weights * tokens + 2 * width * config.vocab_size * labels
    attention = sum(layers * 2 * queries * length * length for length, _ in rows)
    return float((3 if method == "full" else 2) * products + 3 * attention)


def _train_ours(ask: Ask) -> Measured:
    from humpback.training import sft
    from humpback.training.spec import TrainSpec

    work = Path(ask.work)
    spec = TrainSpec(
        base_model=Path(ask.model),
        data=(Path(ask.rows),),
        output=work / "model",
        work=work / "work",
        metrics=work / "metrics.jsonl",
        steps=ask.steps,
        batch_size=ask.batch_size,
        method=ask.method,
        dropout=0.1 if ask.way == "dropout" else 0.0,
        save_every=1_000_000,
        device=ask.device,
        precision=precision_of(ask),
    )
    clock, build = _make_clock(ask), sft.build_trainer

    def build_with_clock(*args: Any, **kwargs: Any) -> Any:
        trainer = build(*args, **kwargs)
        trainer.add_callback(clock)
        return trainer

    # not the seconds of its own metrics, which leave out what lies between two steps
    sft.build_trainer = build_with_clock
    sft.run(spec)
    told = json.loads((spec.output / "training.json").read_text())["spec"]["precision"]
    lines = [json.loads(line) for line in spec.metrics.read_text().splitlines()][WARM:]
    return _measured(
        ask,
        seconds=clock.seconds,
        tokens=sum(line["tokens"] for line in lines),
        precision=told,
    )


def precision_of(ask: Ask) -> str:
    """Return the format that ours is asked for."""
    return "float32" if ask.way == "float32" else ask.precision


def _train_trl(ask: Ask) -> Measured:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    counted: list[int] = []

    class Counted(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            counted.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *args, **kwargs)

    plain: dict[str, Any] = {}
    precision = "bfloat16"  # TRL's default on any device
    if ask.way == "plain":
        precision = _as_ours(ask)
        plain = {"gradient_checkpointing": False, "bf16": precision == "bfloat16", "max_length": None}
    clock = _make_clock(ask)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Counted(
        model=ask.model,
        args=SFTConfig(
            output_dir=ask.work,
            max_steps=ask.steps,
            per_device_train_batch_size=ask.batch_size,
            train_sampling_strategy="sequential",  # padding in file order, and the rows of ours
            use_cpu=ask.device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **plain,
        ),
        train_dataset=Dataset.from_parquet(ask.rows).select_columns(["input_ids", "labels"]),
        peft_config=lora if ask.method == "lora" else None,
        callbacks=[clock],
    )
    trainer.train()
    return _measured(
        ask,
        seconds=clock.seconds,
        tokens=sum(counted[WARM:]),
        precision=precision,
    )


def _make_clock(ask: Ask) -> Any:
    """Return a callback that times the steps after the warm-up, of any of transformers' trainers alike."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        started = seconds = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (WARM, ask.steps):
                _wait(ask.device)
                now = time.perf_counter()
                self.started, self.seconds = now, now - self.started

    return Clock()


def _as_ours(ask: Ask) -> str:
    from humpback.formats import choose_on_cpu

    if ask.precision != "auto":
        return ask.precision
    if ask.device == "cpu":
        return choose_on_cpu().format
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"


def _measured(ask: Ask, *, seconds: float, tokens: int, precision: str) -> Measured:
    from transformers import AutoConfig

    # the timed steps pass over the rows once, so the rows' own operations scaled by tokens are those of the steps
    table = pq.read_table(ask.rows, columns=["labels"])["labels"].to_pylist()
    rows = [(len(labels), sum(label != IGNORE for label in labels)) for labels in table]
    flops = useful_flops(AutoConfig.from_pretrained(ask.model), rows, method=ask.method)
    if ask.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Measured(
        seconds=seconds,
        examples=tokens * len(rows) / sum(length for length, _ in rows),
        tokens=tokens,
        flops=flops * tokens / sum(length for length, _ in rows),
        precision=precision,
        peak_mib=peak,
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
