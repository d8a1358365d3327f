"""Fine-tune a model on tokenised rows: `python -m humpback.training.sft SPEC.json`, the child of `launch.train`.

In: a TrainSpec. Out: a full model folder, one line per step in metrics.jsonl, and `started.json` with what is trained
on. TRL's trainer brings the loop, LoRA, mixed precision and checkpoints. What decides the result is set here and
tested: the rows and their order, the labels, the loss over label tokens, the learning rate. Only this file imports trl
and peft.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

# before torch: a second visible GPU would make the trainer ask for torch's DataParallel, which TRL refuses
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# everything is local; a folder that is not there must not become a download
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow as pa
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from humpback.errors import HumpbackError, InputError, StageError
from humpback.prompts import IGNORE
from humpback.training.checkpoints import cut_metrics, last_sound_checkpoint, write_folder, write_json
from humpback.training.guard import Expected, RowLoss, check_step, expect, refuse_loss
from humpback.training.result import ADAPTER, dress_model, write_record
from humpback.training.rows import count_rows, read_rows
from humpback.training.sampling import draw_order
from humpback.training.schedule import Schedule, learning_rate_at, token_batches
from humpback.training.spec import STARTED, TrainSpec, check_inputs

PARENT_PIPE = "HUMPBACK_PARENT_PIPE"
DROPOUTS = ("attention_dropout", "attn_pdrop", "hidden_dropout", "resid_pdrop")
"""What architectures call the dropout inside their layers."""
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in SFTConfig.__dataclass_fields__  # transformers renamed it after 5.17, and warns of the old name
)
EXTRAS = ("weight", "row")
"""Columns of a batch beside what a model takes: the weight of each row's loss, and the row's number."""


def main(arguments: Sequence[str]) -> int:
    """Train what the spec file says; return the exit status."""
    if os.environ.get(PARENT_PIPE) == "1":
        threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        if len(arguments) != 1:
            raise InputError("usage: python -m humpback.training.sft SPEC.json")
        run(TrainSpec.read(Path(arguments[0])))
    except HumpbackError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())[:500]
        print(f"error: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)
        return 1
    return 0


def _die_with_parent() -> None:
    # the parent writes nothing: the pipe ends when the parent does, however it ended
    while os.read(0, 4096):
        pass
    os._exit(1)


def run(spec: TrainSpec) -> None:
    """Train, resuming from the last sound checkpoint, and put the model in its place."""
    check_inputs(spec)
    on_cuda = _on_cuda(spec)
    if spec.threads:
        torch.set_num_threads(spec.threads)
    table = read_rows(spec.data)
    spec.work.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(spec, table, on_cuda=on_cuda)
    checkpoint = last_sound_checkpoint(spec.work)
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    cut_metrics(spec.metrics, step)
    counts = count_rows(table)
    write_json(spec.work / STARTED, {**counts, "resumed_step": step})
    print(f"training {spec.method}, {len(table)} rows, steps {step + 1} to {spec.steps}", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_model(spec, trainer.model, counts, on_cuda=on_cuda)
    for folder in spec.work.glob("checkpoint-*"):
        shutil.rmtree(folder)


def _on_cuda(spec: TrainSpec) -> bool:
    there = torch.cuda.is_available()
    if spec.device.startswith("cuda") and not there:
        raise InputError(f"device={spec.device}: torch sees no CUDA device; use device=auto or device=cpu")
    return there and spec.device != "cpu"


def _in_bfloat16(spec: TrainSpec, *, on_cuda: bool) -> bool:
    # on two cores of an EPYC with avx512_bf16, float32 products ran 1.5 times as fast as bfloat16 ones
    if spec.precision == "auto":
        return on_cuda and torch.cuda.is_bf16_supported()
    return spec.precision == "bfloat16"


# -- trainer -------------------------------------------------------------------------------------------------------


class Trainer(SFTTrainer):
    """TRL's trainer, with a token budget per pass, loss at label positions only, and our learning rate and metrics."""

    def __init__(self, spec: TrainSpec, ids: Sequence[str], expected: Expected, **kwargs: Any) -> None:
        """`ids` are the rows' names by the number in their column `row`."""
        self.spec, self.ids, self.expected = spec, ids, expected
        self.step_tokens = self.step_label_tokens = 0
        super().__init__(**kwargs)
        self.step_started = time.monotonic()

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        self._signature_columns = list(dict.fromkeys([*(self._signature_columns or ()), *EXTRAS]))  # type: ignore[assignment]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Pass one step's rows in groups of at most `batch_tokens`: the gradient is that of the whole batch."""
        lengths = inputs["attention_mask"].sum(1).tolist()
        label_counts = (inputs["labels"][:, 1:] != IGNORE).sum(1)
        self.step_tokens, self.step_label_tokens = sum(lengths), int(label_counts.sum())
        weighted = (label_counts * inputs["weight"].to(label_counts.device)).sum()
        loss = torch.zeros((), device=self.args.device)
        budget = self.spec.batch_tokens or (512 if self.args.device.type == "cpu" else 8_192)
        for group in token_batches(lengths, budget):
            part = {name: value[group] for name, value in inputs.items()}
            part |= {name: part[name][:, : lengths[group[0]]] for name in part if part[name].dim() > 1}  # padded right
            count = weighted.to(self.args.device)
            loss += super().training_step(model, part, count)  # type: ignore[no-untyped-call]
        if not torch.isfinite(loss) or loss == 0:  # before the optimizer would spoil the weights with it
            raise self._refuse_loss(model, inputs, loss.item())
        return loss

    def _refuse_loss(self, model: Any, inputs: dict[str, Any], loss: float) -> StageError:
        rows = []
        for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            row = {name: inputs[name][i : i + 1, :length].to(self.args.device) for name in ("input_ids", "labels")}
            with torch.no_grad():
                logits = model(input_ids=row["input_ids"], use_cache=False).logits[0, :-1].float()
            own = torch.nn.functional.cross_entropy(logits, row["labels"][0, 1:], ignore_index=IGNORE).item()
            count = int((row["labels"][0, 1:] != IGNORE).sum())
            rows.append(RowLoss(id=self.ids[int(inputs["row"][i])], loss=own, tokens=length, label_tokens=count))
        step = self.state.global_step + 1
        return refuse_loss(rows, step=step, steps=self.spec.steps, loss=loss, work=self.spec.work)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """On a CPU, or with weights, compute logits at label positions only; on a CPU TRL computes all of them, and twice."""
        weights = inputs["weight"] if "weight" in inputs and bool((inputs["weight"] != 1).any()) else None
        inputs = {name: value for name, value in inputs.items() if name not in EXTRAS}
        if weights is None and (self.args.device.type != "cpu" or self.aux_loss_enabled or return_outputs):
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        labels = inputs["labels"][:, 1:]  # (B, T-1)
        kept = labels != IGNORE
        # a hook on the head, so that what a model does to its logits afterwards (scaling, capping) stays its own
        hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][:, :-1][kept][None],))
        try:
            tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            logits = model(**tokens, use_cache=False).logits[0]  # (label tokens, V)
        finally:
            hook.remove()
        if weights is None:
            return torch.nn.functional.cross_entropy(logits, labels[kept], reduction="sum") / num_items_in_batch
        losses = torch.nn.functional.cross_entropy(logits.float(), labels[kept], reduction="none")
        return (losses * weights.to(losses)[:, None].expand_as(labels)[kept]).sum() / num_items_in_batch

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return our own line: transformers' polynomial one reaches its end a step after the last."""
        if self.lr_scheduler is None:
            spec = self.spec

            def factor(done: int) -> float:
                rate = learning_rate_at(
                    done + 1,
                    steps=spec.steps,
                    first=spec.learning_rate,
                    last=spec.final_learning_rate,
                    warmup_steps=spec.warmup_steps,
                )
                return rate / spec.learning_rate

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or cast(Any, self.optimizer), factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Append the step to metrics.jsonl; a loss that cannot be right ends the training before it is saved."""
        self._metrics["train"].clear()
        if "loss" not in logs:
            return
        now = time.monotonic()
        step, loss, norm = self.state.global_step, logs["loss"], logs.get("grad_norm", 0.0)
        for what, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value) or (what == "loss" and value == 0.0):
                raise StageError(f"step {step} of {self.spec.steps}: the {what} is {value}; lower learning_rate")
        check_step(self.expected, step, tokens=self.step_tokens, label_tokens=self.step_label_tokens)
        line = {
            "step": step,
            "steps": self.spec.steps,
            "loss": loss,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": self.step_tokens,
            "label_tokens": self.step_label_tokens,
            "seconds": round(now - self.step_started, 3),
        }
        with self.spec.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        told = {name: value for name, value in line.items() if name not in ("step", "steps") and value is not None}
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, told)  # report_to
        self.step_started = now

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the run has its own report."""


class Collator(DataCollatorForLanguageModeling):
    """TRL's batches, with the columns that say which rows they hold and how much each counts."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        return batch | {name: torch.tensor([example[name] for example in examples]) for name in EXTRAS}


class NoLastCheckpoint(TrainerCallback):
    """The trainer would write a checkpoint after the last step, just before the model itself is written."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step >= state.max_steps:
            control.should_save = False
        return control


def build_trainer(spec: TrainSpec, table: pa.Table, *, on_cuda: bool) -> Trainer:
    """Load the base model and set up the trainer; TRL neither changes, drops nor reorders a row it is given."""
    tokenizer = AutoTokenizer.from_pretrained(spec.base_model)
    lora = None
    if spec.method == "lora":
        targets = spec.lora_targets if isinstance(spec.lora_targets, str) else list(spec.lora_targets)
        lora = LoraConfig(
            r=spec.lora_rank,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
    order = draw_order(table["sampling"].to_pylist(), Schedule(spec.batch_size, spec.steps), spec.seed)
    rows = Dataset(table.select(["input_ids", "labels", "weight"])).add_column("row", list(range(len(table))))
    trainer = Trainer(
        spec,
        table["id"].to_pylist(),
        expect(table, order, spec.batch_size),
        model=load_model(spec, on_cuda=on_cuda),
        args=_arguments(spec, on_cuda=on_cuda),
        # given, so that TRL has no reason to choose a padding token and write it into the model's config
        data_collator=Collator(pad_token_id=tokenizer.pad_token_id or 0),
        train_dataset=rows.select(order),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[NoLastCheckpoint()],
    )
    trainer.remove_callback(PrinterCallback)  # the metrics file has its lines already
    if trainer.aux_loss_enabled and not all(weight == 1 for weight in table["weight"].to_pylist()):
        raise InputError(
            f"base model {spec.base_model} has experts whose balance is part of its loss: rows cannot be weighted; "
            "leave out mix.loss_weight"
        )
    return trainer


def load_model(spec: TrainSpec, *, on_cuda: bool) -> Any:
    """Load the base model. Full training keeps float32 weights: at 1e-5 most updates vanish in bfloat16."""
    config = AutoConfig.from_pretrained(spec.base_model)
    for name in DROPOUTS:
        if spec.dropout and hasattr(config, name):
            setattr(config, name, spec.dropout)
    half = spec.method == "lora" and _in_bfloat16(spec, on_cuda=on_cuda)
    return AutoModelForCausalLM.from_pretrained(
        spec.base_model,
        config=config,
        dtype=torch.bfloat16 if half else torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
    )


def _arguments(spec: TrainSpec, *, on_cuda: bool) -> SFTConfig:
    checkpointing: dict[str, Any] = {CHECKPOINTING: on_cuda}
    return SFTConfig(
        output_dir=str(spec.work),
        max_steps=spec.steps,
        # one batch is one optimizer step, in the order of the data set; training_step splits it
        per_device_train_batch_size=spec.batch_size,
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        learning_rate=spec.learning_rate,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        max_length=None,  # the default of 1024 cuts rows, and drops those whose labels it cut off
        packing=False,
        use_cpu=not on_cuda,
        bf16=_in_bfloat16(spec, on_cuda=on_cuda),
        **checkpointing,
        dataloader_pin_memory=on_cuda,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default hides a NaN behind the mean of the losses before it
        save_strategy="steps",
        save_steps=spec.save_every,
        save_total_limit=2,
        seed=spec.seed,
        data_seed=spec.seed,
        report_to=list(spec.report_to) or "none",
        run_name=str(spec.output),
        disable_tqdm=True,
    )


def save_model(spec: TrainSpec, model: Any, counts: Mapping[str, int], *, on_cuda: bool) -> None:
    """Put the model in its place, adapters merged and alone: float32 from a CPU, bfloat16 from a GPU."""
    device = torch.cuda.get_device_name() if on_cuda else "cpu"

    def write(folder: Path) -> None:
        merged = model
        if isinstance(model, PeftModel):
            # the vocabulary is the base's: peft would look for the base's config on the hub to find that out
            model.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)
            merged = model.float().merge_and_unload()
        base = AutoConfig.from_pretrained(spec.base_model)
        for name in DROPOUTS:
            if hasattr(base, name):
                setattr(merged.config, name, getattr(base, name))
        merged.to(torch.bfloat16 if on_cuda else torch.float32).save_pretrained(folder)

    def finish(folder: Path) -> None:
        dress_model(folder, spec)
        write_record(folder, spec, counts, trainer="humpback.training.sft", device=device)

    write_folder(spec.output, base=spec.base_model, write=write, finish=finish)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
