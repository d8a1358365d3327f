"""How the engine's questions are usually asked: plain transformers, for `engines.py` to compare with. In: prompts. Out: answers.

Each way is what a careful user writes in an afternoon: no gradients, and only the logits that are needed.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from humpback.engines.base import Sampling
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.prompts import Choice, Continuation, Prompt
from humpback.prompts.rendering import ProbePrompts

__all__ = [
    "DISTILABEL",
    "MATMUL",
    "Rated",
    "Work",
    "choose_one",
    "copy_bytes",
    "distilabel_rate",
    "generate_and_parse",
    "generate_padded",
    "likelihood_of_one",
    "matmul_flops",
    "probe_one",
    "settle",
]

DISTILABEL = "DISTILABEL_PYTHON"
"""Environment variable: the interpreter of an environment with distilabel."""
HOW_TO = (
    "distilabel is not measured: set {name} to the interpreter of an environment made with\n"
    "  python -m venv ENV && ENV/bin/pip install torch requests 'distilabel[hf-transformers]==1.5.3'"
)
DIGIT = re.compile(r"(?<![\d.])[1-5](?![\d]|\.\d)")
MATMUL = {"cpu": (2048, torch.float32), "cuda": (8192, torch.bfloat16)}
"""Side and number format of the square matrices of the machine's rate."""
COPIED = 2**30
"""Bytes of the copy that measures the memory's rate."""


class Work(NamedTuple):
    """What must be computed."""

    tokens: int
    """Each token of the questions once, as the tree that they make has it."""
    heads: int
    """Positions that need logits."""

    def __add__(self, other: object) -> Work:
        assert isinstance(other, Work)
        return Work(self.tokens + other.tokens, self.heads + other.heads)

    @classmethod
    def of(cls, prompts: Sequence[Prompt], targets: Sequence[Continuation] | None = None) -> Work:
        """Count the work of reading one next token after each prompt, or of the likelihoods of targets after them."""
        ends = [target.token_ids[:-1] for target in targets] if targets else [()] * len(prompts)
        rows = [(*prompt.token_ids, *end) for prompt, end in zip(prompts, ends, strict=True)]
        return cls.of_rows(rows, sum(len(target.token_ids) for target in targets) if targets else len(prompts))

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]], heads: int) -> Work:
        """Count the tokens of the tree that rows of token ids make."""
        rows = sorted(map(tuple, rows))
        tokens = len(rows[0])
        for before, row in pairwise(rows):
            common = next(
                (i for i, (a, b) in enumerate(zip(before, row, strict=False)) if a != b), min(len(before), len(row))
            )
            tokens += len(row) - common
        return cls(tokens, heads)


class Rated(NamedTuple):
    """Ratings of some pairs by another way."""

    seconds: float
    unparsed: int


def choose_one(net: Any, prompt: Prompt, choices: Sequence[Choice]) -> list[float]:
    """Return the choices' log-probabilities after a prompt, by a forward pass over this row alone."""
    ids = torch.tensor([prompt.token_ids], device=net.device)
    after = net(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().log_softmax(-1)
    return [float(value) for value in after[[choice.token_id for choice in choices]]]


def likelihood_of_one(net: Any, prompt: Prompt, target: Continuation) -> float:
    """Return the target's log-probability after a prompt, by a forward pass over this row alone."""
    ids = torch.tensor([prompt.token_ids + target.token_ids[:-1]], device=net.device)
    logits = net(input_ids=ids, use_cache=False, logits_to_keep=len(target.token_ids)).logits[0].float()
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(target.token_ids, device=net.device)[:, None]).sum())


def probe_one(net: Any, both: ProbePrompts, choice: Choice, layers: Sequence[int]) -> list[float]:
    """Return log p(choice) at a probe's first place, and a figure of its states at both, by one pass."""
    first = len(both.end.token_ids) - 1
    ids = torch.tensor([both.question.token_ids], device=net.device)
    at = torch.tensor([first], device=net.device)
    output = net(input_ids=ids, use_cache=False, logits_to_keep=at, output_hidden_states=True)
    after = output.logits[0, 0].float().log_softmax(-1)
    states = [output.hidden_states[layer][0, place].float() for place in (first, -1) for layer in layers]
    return [float(after[choice.token_id]), *(float(state.sum() / state.abs().sum()) for state in states)]


def generate_and_parse(net: Any, tokenizer: HFTokenizer, prompts: Sequence[Prompt], *, new_tokens: int) -> Rated:
    """Let the model write a reply to each rating prompt and search it for a score."""
    started = time.perf_counter()
    unparsed = 0
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(tokenizer.chat(prompt.user))], device=net.device)
        drawn = net.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=list(tokenizer.end_of_turn[-1:]),
            pad_token_id=tokenizer.eos_token_id,
        )
        unparsed += DIGIT.search(tokenizer.decode_plain(drawn[0, ids.shape[1] :].tolist())) is None
    return Rated(time.perf_counter() - started, unparsed)


def distilabel_rate(model: str, pairs: Sequence[tuple[str, str]]) -> Rated | None:
    """Rate by distilabel in its own environment; None, and a word how to make one, where there is none."""
    python = os.environ.get(DISTILABEL)
    if not python:
        print(HOW_TO.format(name=DISTILABEL))
        return None
    with tempfile.TemporaryDirectory(prefix="humpback-distilabel-") as folder:
        answer = Path(folder) / "rated.json"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, str(Path(__file__).with_name("distilabel_rating.py")), str(answer)],
            input=json.dumps({"model": model, "pairs": list(pairs)}),
            capture_output=True,
            text=True,
            env={**environment, "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            raise SystemExit(f"distilabel failed:\n{done.stderr[-3000:]}")
        rated = json.loads(answer.read_text())
    return Rated(rated["seconds"], sum(score is None for score in rated["scores"]))


def generate_padded(
    net: Any, tokenizer: HFTokenizer, prompts: Sequence[Prompt], sampling: Sampling, *, batch: int
) -> int:
    """Draw completions with transformers' own generate, in padded batches in file order; return the tokens drawn."""
    drawn = 0
    ends = [tokenizer.end_of_turn[-1], tokenizer.eos_token_id]
    for start in range(0, len(prompts), batch):
        rows = [prompt.token_ids for prompt in prompts[start : start + batch]]
        width = max(map(len, rows))
        output = net.generate(
            torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=net.device),
            attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=net.device),
            max_new_tokens=sampling.max_tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            eos_token_id=ends,
            pad_token_id=ends[1],
        )
        for row in output[:, width:].tolist():
            drawn += next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return drawn


def matmul_flops(device: str = "cpu", dtype: torch.dtype | None = None) -> float:
    """Return operations per second of a large matrix product: what this machine can do at best."""
    side, usual = MATMUL[device]
    dtype = dtype or usual
    one, other = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / _best_seconds(lambda: one @ other, device)


def copy_bytes(device: str) -> float:
    """Return bytes per second read and written by a large copy within the device's memory."""
    one, other = (torch.zeros(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * COPIED / _best_seconds(lambda: other.copy_(one), device)


def _best_seconds(work: Callable[[], object], device: str) -> float:
    seconds = []
    for _ in range(6):  # the first one warms up
        settle(device)
        started = time.perf_counter()
        work()
        settle(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def settle(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def expected_score(logprobs: Sequence[float]) -> float:
    shares = [math.exp(logprob) for logprob in logprobs]
    return sum(score * share for score, share in enumerate(shares, start=1)) / sum(shares)
