"""Rate pairs by distilabel's InstructionBacktranslation. In: JSON on standard input. Out: JSON in a file; run by `engines.py`.

It runs in an environment of its own (`engines.py` says how to make one), so it imports nothing of ours. The model's folder is given by
path, and nothing is fetched.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from distilabel.models import TransformersLLM
    from distilabel.steps.tasks import InstructionBacktranslation

    asked = json.load(sys.stdin)
    llm = TransformersLLM(model=asked["model"], torch_dtype="float32", device="cpu")
    task = InstructionBacktranslation(name="rate", llm=llm, input_batch_size=len(asked["pairs"]))
    task.load()
    rows = [{"instruction": instruction, "generation": response} for instruction, response in asked["pairs"]]
    next(task.process(rows[:1]))  # warm
    started = time.perf_counter()
    rated = next(task.process(rows))
    seconds = time.perf_counter() - started
    Path(sys.argv[1]).write_text(json.dumps({"seconds": seconds, "scores": [row["score"] for row in rated]}))


if __name__ == "__main__":
    main()
