"""The loss of each label token, without copies of all logits. In: a model and a pass of rows. Out: nats, and their gradient.

Logits are computed at label positions only. torch's own cross entropy keeps a pass's log-probabilities until the backward pass and
makes a gradient of them beside that of the logits: three tensors of the logits' size in float32, more where the logits are in half
precision. Here rows are taken some at a time, and their probabilities are computed again in the backward pass. (Under accelerate
the logits come in float32 whatever the products' format: it casts what a model returns.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from humpback.prompts import IGNORE
from humpback.training.batches import Batch

__all__ = ["cross_entropies", "label_losses"]

BLOCK = 2**21
"""Logits held in float32 at a time: 8 MiB."""


def label_losses(
    model: Any, head: torch.nn.Module | None, inputs: Batch, *, balance: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return nats of each label token, row by row, and with `balance` how unevenly experts were chosen.

    `head` makes logits of the model's last states; None takes TRL's in Triton, which never holds all logits at once.
    """
    labels = inputs["labels"][:, 1:]  # (B, T-1)
    kept = labels != IGNORE
    tokens: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if balance:
        tokens["output_router_logits"] = True
    if head is None:
        outputs = model(**tokens, labels=inputs["labels"], use_cache=False, fused_lm_head=True)
        return -outputs.log_probs[kept].float(), getattr(outputs, "aux_loss", None)
    # a hook on the head, so that what a model does to its logits afterwards (scaling, capping) stays its own
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][kept][None],))
    try:
        outputs = model(**tokens, use_cache=False)
    finally:
        hook.remove()
    logits = outputs.logits.flatten(0, 1)  # (label tokens, V); the gradient of [0] would be a copy, cleared first
    return cross_entropies(logits, labels[kept]), getattr(outputs, "aux_loss", None)


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the (N,) cross entropies, in nats and at least float32, of (N, V) logits for (N,) labels from 0 to V - 1.

    Raises ValueError for other labels, or another number of them: no label is passed over.
    """
    if len(labels) != len(logits):
        raise ValueError(f"{len(labels)} labels for {len(logits)} rows of logits; give one for each")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())} for a vocabulary of {logits.shape[1]}; leave out rows without one"
        )
    losses: torch.Tensor = _CrossEntropies.apply(logits, labels)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits, labels)
        wide = torch.promote_types(logits.dtype, torch.float32)
        losses = logits.new_empty(len(logits), dtype=wide)
        for rows in _blocks(logits):
            part = logits[rows].to(wide)
            losses[rows] = torch.nn.functional.cross_entropy(part, labels[rows], reduction="none")
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels = ctx.saved_tensors
        to_logits = torch.empty_like(logits)
        for rows in _blocks(logits):
            part = torch.softmax(logits[rows], -1, dtype=slopes.dtype)
            part[torch.arange(len(part), device=part.device), labels[rows]] -= 1
            part *= slopes[rows, None]
            to_logits[rows] = part
        return to_logits, None


def _blocks(logits: torch.Tensor) -> list[slice]:
    size = max(1, BLOCK // max(1, logits.shape[1]))
    return [slice(start, start + size) for start in range(0, len(logits), size)]
