"""Fine-tune a model on tokenised rows: `python -m humpback.training.sft SPEC.json`, the child of `launch.train`.

In: a TrainSpec. Out: a full model folder, one line per step in metrics.jsonl, and `started.json` with what is trained on. With
`processes` above 1 this runs in each of them, started by torchrun. TRL's trainer brings the loop, LoRA, mixed precision and
checkpoints; what decides the result is set here and in `trainer.py`, and tested: rows, order, labels, loss, learning rate.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

# before torch: a second visible GPU would make a trainer alone ask for torch's DataParallel, which TRL refuses
os.environ.update(
    {}
    if "WORLD_SIZE" in os.environ
    else {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}
)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# everything is local; a folder that is not there must not become a download
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow as pa
import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback
from trl.trainer.sft_config import SFTConfig

import humpback
from humpback.errors import HumpbackError, InputError
from humpback.formats import Chosen
from humpback.machine import cpu_model, find_versions
from humpback.memory import lacks_memory
from humpback.training.arithmetic import Arithmetic, Sitting, join_sitting, tell_changes
from humpback.training.checkpoints import (
    checkpoint_fault,
    cut_lines,
    drop_checkpoints,
    last_sound_checkpoint,
    write_json,
)
from humpback.training.guard import expect
from humpback.training.held_out import HELD_OUT, best_loss
from humpback.training.precision import keep_precision, settle_precision
from humpback.training.rows import check_fit, count_rows, read_rows, row_lengths, split_rows
from humpback.training.sampling import draw_order
from humpback.training.schedule import Schedule
from humpback.training.spec import FAILED, FINISHED, LESS_MEMORY, STARTED, TrainSpec, check_inputs, check_quantizer
from humpback.training.trainer import Trainer
from humpback.training.weights import adapters, load_model, needs_recompute, save_model

COMPUTING = ("torch", "transformers", "trl", "accelerate")
"""Packages that compute every training; adapters and 4-bit weights have one more each."""
PARENT_PIPE = "HUMPBACK_PARENT_PIPE"
TOGETHER = int(os.environ.get("WORLD_SIZE", "1"))
"""Processes that train together, as torchrun says."""
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in SFTConfig.__dataclass_fields__  # transformers renamed it after 5.17, and warns of the old name
)


def main(arguments: Sequence[str]) -> int:
    """Train what the spec file says; return the exit status."""
    if os.environ.get(PARENT_PIPE) == "1":
        threading.Thread(target=_die_with_parent, daemon=True).start()
    work = None
    try:
        if len(arguments) != 1:
            raise InputError("usage: python -m humpback.training.sft SPEC.json")
        spec = TrainSpec.read(Path(arguments[0]))
        work = spec.work
        run(spec)
    except HumpbackError as error:
        return _tell(work, str(error), error.exit_status)
    except Exception as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return _tell(work, f"{told}; {LESS_MEMORY}" if lacks_memory(error) else told, 1)
    return 0


def _tell(work: Path | None, message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    # torchrun ends with a status of its own, so the parent is told by a file
    if work is not None and work.is_dir() and not (work / FAILED).exists():
        with contextlib.suppress(OSError):  # on a full disk the parent finds no file and looks why
            write_json(work / FAILED, {"message": message, "status": status})
    return status


def _die_with_parent() -> None:
    # the parent writes nothing: the pipe ends when the parent does, however it ended
    while os.read(0, 4096):
        pass
    os._exit(1)


def run(spec: TrainSpec) -> None:
    """Train, resuming from the last sound checkpoint, and put the model in its place."""
    check_inputs(spec)
    check_quantizer(spec)
    on_cuda = _on_cuda(spec)
    if on_cuda and TOGETHER > 1:  # 4-bit weights are put on the current device as they are loaded
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if spec.threads:
        torch.set_num_threads(spec.threads)
    table = read_rows(spec.data)
    held_out = read_rows(spec.held_out) if spec.held_out else None
    if spec.held_out_share:
        table, held_out = split_rows(table, spec.held_out_share, spec.seed)
        if not len(held_out) and (spec.patience is not None or spec.keep == "best"):
            raise InputError(
                f"held_out_share={spec.held_out_share:g} of {len(table)} rows is none, for each is the only one of its origin: "
                "patience and keep=best have nothing to go by; leave them out or give more rows"
            )
    for rows in (table, held_out):
        if rows is not None and len(rows):
            check_fit(rows, spec.base_model)
    spec.work.mkdir(parents=True, exist_ok=True)
    precision = settle_precision(spec, on_cuda=on_cuda, first=os.environ.get("RANK", "0") == "0")
    spec = spec.model_copy(update={"precision": precision.format})
    trainer = build_trainer(spec, table, held_out, on_cuda=on_cuda)
    counts, all_of_us = count_rows(table), trainer.accelerator
    if all_of_us.is_main_process:
        _begin(spec, counts, precision, find_arithmetic(spec, trainer.model, on_cuda=on_cuda))
    all_of_us.wait_for_everyone()
    started = json.loads((spec.work / STARTED).read_text(encoding="utf-8"))
    begun, trainer.sittings = started["resumed_step"], [Sitting.read(values) for values in started["sittings"]]
    trainer.train(resume_from_checkpoint=str(spec.work / f"checkpoint-{begun}") if begun else None)
    step = trainer.state.global_step
    best = best_loss(trainer.losses)
    if spec.keep == "best" and best and best.step != step:
        step = best.step
        trainer._load_from_checkpoint(str(_checked(spec.work / f"checkpoint-{step}")))
    weights = all_of_us.get_state_dict(trainer.model) if trainer.sharded else None  # every process has a part of them
    if all_of_us.is_main_process:
        save_model(
            spec,
            trainer.model,
            counts,
            on_cuda=on_cuda,
            kept_step=step,
            sittings=trainer.sittings,
            weights=weights,
        )
        done = {"steps": trainer.state.global_step, "kept_step": step, "precision": str(precision)}
        write_json(spec.work / FINISHED, done)
        drop_checkpoints(spec.work)
    all_of_us.wait_for_everyone()


def _begin(spec: TrainSpec, counts: dict[str, int], precision: Chosen, arithmetic: Arithmetic) -> None:
    """Choose the checkpoint to go on from, forget what came after it, and tell all what begins."""
    notes: list[str] = []

    def tell(note: str) -> None:
        # at once: a damaged checkpoint is gone even where the one before it is refused
        print(f"warning: {note}", flush=True)
        notes.append(note)

    chosen = last_sound_checkpoint(spec.work, tell)
    step = chosen.step if chosen else 0
    if chosen and chosen.processes != spec.processes:
        raise InputError(
            f"processes={spec.processes}, but {chosen.folder} was trained by {chosen.processes}: dropout would not be what it was. "
            f"Set processes back to {chosen.processes}, or delete {spec.work} to train from the start"
        )
    if chosen and chosen.sharding != spec.sharding:
        raise InputError(
            f"sharding={spec.sharding}, but {chosen.folder} was trained with sharding={chosen.sharding}, which keeps its weights and "
            f"optimizer in other files. Set sharding back to {chosen.sharding}, or delete {spec.work} to train from the start"
        )
    keep_precision(spec, precision, chosen)
    for path in (spec.metrics, spec.metrics.with_name(HELD_OUT)):
        cut_lines(path, step)
    sittings = join_sitting(chosen.sittings if chosen else (), arithmetic, step=step)
    if changes := tell_changes(sittings, f"checkpoint-{step}", step=step):
        tell(changes)
    begun = {"resumed_step": step, "notes": notes, "sittings": [asdict(sitting) for sitting in sittings]}
    write_json(spec.work / STARTED, {**counts, **begun})
    together = f", {spec.processes} processes" if spec.processes > 1 else ""
    what = f"{spec.method}, {counts['examples']} rows, steps {step + 1} to {spec.steps}{together}"
    print(f"training {what}, in {precision}", flush=True)


def find_arithmetic(spec: TrainSpec, model: Any, *, on_cuda: bool) -> Arithmetic:
    """Return what computes this training beside its spec; `precision` is settled."""
    more = {"full": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}[spec.method]
    cpu = f"{cpu_model()}, {torch.backends.cpu.get_cpu_capability()}"
    return Arithmetic(
        device=torch.cuda.get_device_name() if on_cuda else cpu,
        attention=model.config._attn_implementation,
        threads=None if on_cuda else torch.get_num_threads(),
        batch_tokens=spec.pass_tokens(on_cuda=on_cuda),
        packages={"humpback": humpback.__version__, **find_versions((*COMPUTING, *more))},
    )


def _checked(folder: Path) -> Path:
    if reason := checkpoint_fault(folder):
        raise InputError(
            f"{folder} held the best model and cannot be used: {reason}; delete {folder.parent} to train from the start"
        )
    return folder


def _on_cuda(spec: TrainSpec) -> bool:
    if spec.processes != TOGETHER:
        raise InputError(
            f"processes={spec.processes}, but {TOGETHER} run; start them with torchrun --nproc-per-node {spec.processes}"
        )
    there = torch.cuda.is_available()
    if spec.device.startswith("cuda") and not there:
        raise InputError(f"device={spec.device}: torch sees no CUDA device; use device=auto or device=cpu")
    on_cuda = there and spec.device != "cpu"
    if on_cuda and spec.processes > torch.cuda.device_count():
        raise InputError(
            f"processes={spec.processes}, but torch sees {torch.cuda.device_count()} CUDA devices; one process needs one"
        )
    if spec.sharding == "full" and not on_cuda:
        raise InputError("sharding=full needs GPUs; use sharding=none on a CPU")
    return on_cuda


# -- trainer -------------------------------------------------------------------------------------------------------


def build_trainer(spec: TrainSpec, table: pa.Table, held_out: pa.Table | None, *, on_cuda: bool) -> Trainer:
    """Load the base model and set up the trainer; TRL neither changes, drops nor reorders a row it is given."""
    order = draw_order(table["sampling"].to_pylist(), Schedule(spec.batch_size, spec.steps), spec.seed)
    rows = Dataset(table.select(["input_ids", "labels", "weight"])).add_column("row", list(range(len(table))))
    model = load_model(spec, on_cuda=on_cuda)
    trainer = Trainer(
        spec,
        table["id"].to_pylist(),
        expect(table, order, spec.batch_size),
        Dataset(held_out) if held_out else None,
        model=model,
        args=_arguments(spec, model, longest=int(row_lengths(table).max()), on_cuda=on_cuda),
        train_dataset=rows.select(order),
        processing_class=AutoTokenizer.from_pretrained(spec.base_model),
        peft_config=adapters(spec),
    )
    trainer.remove_callback(PrinterCallback)  # the metrics file has its lines already
    if trainer.aux_loss_enabled and not all(weight == 1 for weight in table["weight"].to_pylist()):
        raise InputError(
            f"base model {spec.base_model} has experts whose balance is part of its loss, over all tokens alike: rows cannot be "
            "weighted; leave out mix.loss_weight"
        )
    return trainer


def _arguments(spec: TrainSpec, model: object, *, longest: int, on_cuda: bool) -> SFTConfig:
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory if on_cuda else sys.maxsize
    tokens = max(spec.pass_tokens(on_cuda=on_cuda), longest)  # a row longer than the budget is a pass of its own
    recompute = needs_recompute(spec, model, tokens=tokens, longest=longest, memory=memory)
    sharded = spec.sharding == "full"
    checkpointing: dict[str, Any] = {CHECKPOINTING: recompute and not sharded}
    return SFTConfig(
        output_dir=str(spec.work),
        max_steps=spec.steps,
        # one batch is one optimizer step, in the order of the data set; training_step splits it
        per_device_train_batch_size=spec.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=spec.learning_rate,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        max_length=None,  # the default of 1024 cuts rows, and drops those whose labels it cut off
        packing=False,
        use_cpu=not on_cuda,
        bf16=spec.precision == "bfloat16",
        **checkpointing,
        fsdp=cast(Any, True) if sharded else None,  # the annotation says str, the library's own text True
        fsdp_config={"version": 2, "activation_checkpointing": recompute} if sharded else None,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        dataloader_pin_memory=on_cuda,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default hides a NaN behind the mean of the losses before it
        save_strategy="steps",
        save_steps=spec.save_every,
        seed=spec.seed,
        data_seed=spec.seed,
        report_to=list(spec.report_to) or "none",
        run_name=str(spec.output),
        disable_tqdm=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
