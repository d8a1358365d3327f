"""TRL's trainer with what this project must decide itself. In: a spec, a model, rows in order. Out: metrics and checkpoints.

A step takes exactly the rows of its batch, whatever the number of processes: each process sees the whole batch and takes its share,
split into passes of at most `batch_tokens`. The loss is the mean over the label tokens of the whole batch, so gradients do not depend
on how a batch is split.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from humpback.errors import StageError
from humpback.prompts import IGNORE
from humpback.training.arithmetic import Sitting
from humpback.training.batches import Batch, collate, part_of
from humpback.training.checkpoints import UNFINISHED, publish_checkpoint
from humpback.training.guard import Expected, RowLoss, check_step, refuse_loss
from humpback.training.held_out import HELD_OUT, HeldOutLoss, add_loss, best_loss, read_losses, should_stop
from humpback.training.loss import label_losses
from humpback.training.schedule import learning_rate_at, share_rows, token_batches
from humpback.training.spec import TrainSpec
from humpback.training.weights import clear_when_full

__all__ = ["Trainer"]

KEPT_CHECKPOINTS = 2
"""The last ones, beside the best: a damaged one has one before it."""


class Trainer(SFTTrainer):
    """SFTTrainer with a token budget per pass, loss at label positions, and our rate, metrics, checkpoints, held-out loss."""

    def __init__(
        self, spec: TrainSpec, ids: Sequence[str], expected: Expected, held_out: Dataset | None = None, **kwargs: Any
    ) -> None:
        """`ids` are the rows' names by the number in their column `row`."""
        self.spec, self.ids, self.expected = spec, ids, expected
        self.held_out_rows = held_out
        self.losses: list[HeldOutLoss] = []
        self.sittings: list[Sitting] = []
        self.step_tokens = self.step_label_tokens = self.due_tokens = 0
        self.step_ids: list[str] = []
        self.step_started = time.monotonic()
        super().__init__(**kwargs, data_collator=collate, callbacks=[_Turns(self)])

    @property
    def budget(self) -> int:
        """Tokens of one pass, padding included."""
        return self.spec.pass_tokens(on_cuda=self.args.device.type != "cpu")

    @property
    def sharded(self) -> bool:
        """Whether the weights are split over the processes, so that every pass needs all of them."""
        return self.spec.sharding == "full"

    # -- one step --------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Give every process every batch: ids are small, and each then knows the whole batch's label count without asking."""
        return DataLoader(cast(Any, self.train_dataset), batch_size=self.spec.batch_size, collate_fn=collate)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Pass this process's rows of one step in groups of at most `budget` tokens: the gradient is that of the whole batch."""
        self.step_started = time.monotonic()
        lengths: list[int] = inputs["attention_mask"].sum(1).tolist()
        label_counts = (inputs["labels"][:, 1:] != IGNORE).sum(1)
        self.due_tokens, self.step_ids = sum(lengths), [self.ids[row] for row in inputs["row"].tolist()]
        tokens = label_tokens = 0  # counted as passes take them: a row lost on the way is missed
        loss = torch.zeros((), device=self.args.device)
        count = (label_counts * inputs["weight"]).sum().float().to(self.args.device)
        groups, idle = self._groups(lengths)
        for number, group in enumerate(groups + groups[:1] * idle, 1):
            part = part_of(inputs, group, lengths)
            if number > len(groups):
                part["weight"] = torch.zeros_like(part["weight"])
            else:
                tokens += int(part["attention_mask"].sum())
                label_tokens += int((part["labels"][:, 1:] != IGNORE).sum())
            # gradients are exchanged once, after a step's last pass
            with contextlib.nullcontext() if number == len(groups) + idle else self.accelerator.no_sync(model):
                loss += super().training_step(model, part, count)  # type: ignore[no-untyped-call]
        bad = not math.isfinite(loss.item()) or loss.item() == 0  # before the optimizer would spoil the weights with it
        told = torch.tensor([tokens, label_tokens, bad], dtype=torch.float64, device=self.args.device)
        told = self.accelerator.reduce(told, "sum")
        self.step_tokens, self.step_label_tokens = int(told[0]), int(told[1])
        if told[2]:  # in any process: all look at the rows together, because over split weights none can alone
            whole = self.accelerator.reduce(loss, "mean").item()
            raise self._refuse_loss(model, inputs, whole)
        return loss

    def _refuse_loss(self, model: Any, inputs: Batch, loss: float) -> StageError:
        rows = []
        for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            row = part_of(inputs, [i], {i: length})
            with torch.no_grad(), self.compute_loss_context_manager():
                own = self.token_losses(model, {name: value.to(self.args.device) for name, value in row.items()})
            count = int((row["labels"][0, 1:] != IGNORE).sum())
            row_id = self.ids[int(inputs["row"][i])]
            rows.append(RowLoss(id=row_id, loss=float(own.mean()), tokens=length, label_tokens=count))
        step, steps, write = self.state.global_step + 1, self.spec.steps, self.accelerator.is_main_process
        return refuse_loss(rows, step=step, steps=steps, loss=loss, work=self.spec.work, write=write)

    def _groups(self, lengths: Sequence[int]) -> tuple[list[list[int]], int]:
        """Return this process's passes, and how many it must add for nothing: over split weights, all take the same number."""
        shares = share_rows(lengths, self.accelerator.num_processes)
        split = [
            [[rows[i] for i in group] for group in token_batches([lengths[row] for row in rows], self.budget)]
            for rows in shares
        ]
        mine = split[self.accelerator.process_index]
        return mine, max(map(len, split)) - len(mine) if self.sharded else 0

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Take the mean over the batch's label tokens, by their rows' weights. TRL's own takes measures too, and all logits."""
        labels = inputs["labels"][:, 1:]
        losses, balance = self._losses(model, inputs)
        losses = losses * inputs["weight"].to(losses)[:, None].expand_as(labels)[labels != IGNORE]
        loss = losses.sum() / num_items_in_batch
        if balance is not None:  # of experts, measured pass by pass: the batch's is their mean by tokens
            taken = (inputs["attention_mask"].sum(1) * (inputs["weight"] > 0)).sum()
            loss = loss + self.router_aux_loss_coef * balance * taken / self.due_tokens
        # the exchange takes the mean over processes, and the batch's loss is the sum
        return loss * self.accelerator.num_processes

    def token_losses(self, model: Any, inputs: Batch) -> torch.Tensor:
        """Return nats of each label token, row by row; logits are computed at their positions only."""
        return self._losses(model, inputs)[0]

    def _losses(self, model: Any, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        # by TRL's head in Triton where there is a GPU
        own = self.args.device.type == "cpu"
        head = self.accelerator.unwrap_model(model).get_output_embeddings() if own else None
        return label_losses(model, head, inputs, balance=self.aux_loss_enabled)

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

    # -- after a step ----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Append the step to metrics.jsonl; a loss that cannot be right ends the training before it is saved."""
        self._metrics["train"].clear()
        if "loss" not in logs:
            return
        step, loss, norm = self.state.global_step, logs["loss"], logs.get("grad_norm", 0.0)
        for what, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value) or (what == "loss" and value == 0.0):
                raise StageError(
                    f"step {step} of {self.spec.steps}: the {what} is {value}; lower learning_rate. Each row's own loss was sound, so "
                    f"which one gave it is not known; the step's rows are {', '.join(self.step_ids)}"
                )
        check_step(self.expected, step, tokens=self.step_tokens, label_tokens=self.step_label_tokens)
        line = {
            "step": step,
            "steps": self.spec.steps,
            "loss": loss,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": self.step_tokens,
            "label_tokens": self.step_label_tokens,
            "seconds": round(time.monotonic() - self.step_started, 3),
        }
        if self.accelerator.is_main_process:
            with self.spec.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        told = {name: value for name, value in line.items() if name not in ("step", "steps") and value is not None}
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, told)  # report_to
        if self.held_out_rows is not None and (step % self.spec.evaluation_steps == 0 or step == self.spec.steps):
            self.measure_held_out(step)

    def measure_held_out(self, step: int) -> None:
        """Measure and keep the held-out losses; a best step gets a checkpoint, and patience at its end stops the training."""
        loss = self._held_out_loss(step)
        self.losses.append(loss)
        if self.accelerator.is_main_process:
            add_loss(self.spec.metrics.with_name(HELD_OUT), loss)
        best = best_loss(self.losses)
        if self.spec.keep == "best" and best is not None and best.step == step < self.spec.steps:
            self.control.should_save = True
        if should_stop(self.losses, self.spec.patience):
            print(f"step {step}: no better held-out loss since step {best.step if best else 0}; stopping", flush=True)
            self.control.should_training_stop = True
            self.control.should_save = (
                False  # resumed from here, a killed training would take steps that this one does not
            )

    def _held_out_loss(self, step: int) -> HeldOutLoss:
        started = time.monotonic()
        rows = cast(Dataset, self.held_out_rows)
        lengths = [len(ids) for ids in rows["input_ids"]]
        origins = list(rows["origin"])
        sums = torch.zeros(len(set(origins)), 2, dtype=torch.float64)  # nats, label tokens
        places = {origin: place for place, origin in enumerate(sorted(set(origins)))}
        model: Any = self.model
        model.eval()
        groups = token_batches(lengths, self.budget)
        alone = (
            slice(None) if self.sharded else slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        )
        for group in groups[alone]:
            batch = cast(Batch, self._prepare_inputs(collate([rows[row] for row in group])))
            with torch.no_grad(), self.compute_loss_context_manager():
                nats = self.token_losses(model, batch).double().cpu()
            counts = (batch["labels"][:, 1:] != IGNORE).sum(1).tolist()
            ends = itertools.accumulate(counts)
            for row, count, end in zip(group, counts, ends, strict=True):
                sums[places[origins[row]]] += torch.tensor(
                    [float(nats[end - count : end].sum()), count], dtype=torch.float64
                )
        model.train()
        if not self.sharded:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum").cpu()
        total = sums.tolist()
        by_origin: dict[str, tuple[float, float]] = {origin: tuple(total[place]) for origin, place in places.items()}
        return HeldOutLoss.of(
            step,
            sums={origin: nats for origin, (nats, _) in by_origin.items()},
            tokens={origin: int(count) for origin, (_, count) in by_origin.items()},
            seconds=round(time.monotonic() - started, 3),
        )

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint under another name, and give it its own when it is whole."""
        writing = Path(self._get_output_dir(trial))
        if self.accelerator.is_main_process:
            shutil.rmtree(writing, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with clear_when_full(f"the checkpoint of step {self.state.global_step}", writing):
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._publish(writing / f"checkpoint-{self.state.global_step}")
        self.accelerator.wait_for_everyone()

    def _publish(self, written: Path) -> None:
        step = self.state.global_step
        needed = set()
        if self.spec.keep == "best":
            # the best until each kept checkpoint: a training that falls back to it needs that one
            bests = (best_loss(self.losses, until=until) for until in (step, step - 1))
            needed = {best.step for best in bests if best}
        publish_checkpoint(
            written,
            self.spec.work,
            processes=self.spec.processes,
            sharding=self.spec.sharding,
            sittings=self.sittings,
            keep=KEPT_CHECKPOINTS,
            needed=needed,
        )
        shutil.rmtree(written.parent, ignore_errors=True)

    def _get_output_dir(self, trial: Any) -> str:
        """Return where checkpoints are written, before each is moved into the work folder."""
        return str(Path(cast(str, self.args.output_dir)) / f"checkpoint{UNFINISHED}")

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the run has its own report."""


class _Turns(TrainerCallback):
    """The loss before the first step; no checkpoint after the last, just before the model itself is written."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        trainer = self.trainer
        if trainer.held_out_rows is not None:
            trainer.losses = read_losses(trainer.spec.metrics.with_name(HELD_OUT))
            if not trainer.losses:
                trainer.measure_held_out(state.global_step)
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step >= state.max_steps:
            control.should_save = False
        return control
