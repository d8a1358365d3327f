"""A trainer of your own between `mix/` and `model/`, with plain transformers: `python examples/plain_trainer.py SPEC.json`.

A run starts it in place of ours with `train.command: python examples/plain_trainer.py {spec}`. The spec says what to train on and
where to put the model. Rows are tokenised already: nothing here knows of templates, tags or masks. Chat template, ends and
`training.json` are put beside the model afterwards.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

IGNORE = -100


def main(spec_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text())
    torch.manual_seed(spec["seed"])
    columns = ["input_ids", "labels", "sampling", "weight"]
    rows = [row for path in spec["data"] for row in pq.read_table(path, columns=columns).to_pylist()]
    order = draw(rows, spec["batch_size"] * spec["steps"], spec["seed"])

    model = AutoModelForCausalLM.from_pretrained(spec["base_model"], dtype=torch.float32)
    model.train()
    first, last = spec["learning_rate"], spec["final_learning_rate"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=first, weight_decay=spec["weight_decay"])
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, last / first, total_iters=max(spec["steps"] - 1, 1))

    with Path(spec["metrics"]).open("w") as metrics:
        for step in range(spec["steps"]):
            started = time.monotonic()
            batch = [rows[i] for i in order[step * spec["batch_size"] : (step + 1) * spec["batch_size"]]]
            counts = [sum(label != IGNORE for label in row["labels"][1:]) for row in batch]
            # the mean over the batch's label tokens, each row's by its weight
            whole = sum(row["weight"] * count for row, count in zip(batch, counts, strict=True))
            loss = 0.0
            for row, count in zip(batch, counts, strict=True):  # one by one: no padding, little memory
                ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
                part = model(input_ids=ids, labels=labels).loss * count * row["weight"] / whole
                part.backward()
                loss += part.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec["max_grad_norm"] or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
            line = {
                "step": step + 1,
                "loss": loss,
                "tokens": sum(len(row["input_ids"]) for row in batch),
                "label_tokens": sum(counts),
                "seconds": time.monotonic() - started,
            }
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
    model.save_pretrained(spec["output"])


def draw(rows: list[dict], wanted: int, seed: int) -> list[int]:
    """Shuffle epoch after epoch; a row with `sampling` 2.3 stands in each twice, and in three of ten a third time."""
    dice, order = random.Random(seed), []
    while len(order) < wanted:
        epoch = [
            i for i, row in enumerate(rows) for _ in range(int(row["sampling"]) + (dice.random() < row["sampling"] % 1))
        ]
        dice.shuffle(epoch)
        order += epoch
    return order[:wanted]


if __name__ == "__main__":
    main(sys.argv[1])
