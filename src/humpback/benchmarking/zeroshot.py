"""Zero-shot tasks by likelihood: which of the choices does the model expect most? In: `{query, choices, gold}` items, an engine.

The prompt is plain text, no chat: the query, then each choice after a space, tokenised together and split where the query's own tokens
end, as lm-eval does. A query that begins with "Question:" and ends without "Answer:" gets a line "Answer:". Three ways to pick:
the most likely choice, the most likely per character (lm-eval's acc_norm), the most likely per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from humpback.benchmarking.alpacaeval import read_json_rows
from humpback.benchmarking.winrates import MIN_BOOTSTRAP
from humpback.engines.base import Engine
from humpback.errors import InputError
from humpback.evaluation.stats import Interval, bootstrap_ratio
from humpback.prompts import Continuation, Prompt

__all__ = ["WAYS", "Accuracy", "Graded", "Item", "compare_graded", "grade", "measure", "read_items"]

WAYS = ("acc", "acc_norm", "acc_token")
"""By the choice's log-likelihood, per character, per token."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question."""

    query: str
    choices: tuple[str, ...]
    gold: int
    """Place of the right choice, from 0."""


@dataclass(frozen=True, kw_only=True)
class Graded:
    """What a model picked for one item."""

    right: dict[str, bool] | None
    """Whether it is the gold one, by each of `WAYS`; None when a choice could not be computed."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share of items picked right, 0 to 1."""

    value: float | None
    """None where no item could be graded."""
    low: float | None
    high: float | None
    """Wilson's interval, 95 %; None for fewer than 8 items."""
    n: int


def read_items(path: Path) -> list[Item]:
    """Return the items of a file; one that cannot be asked is refused by its number."""
    found = []
    for number, row in enumerate(read_json_rows(path), start=1):
        query, choices, gold = row.get("query"), row.get("choices"), row.get("gold")
        where = f"{path}: item {number}"
        if not isinstance(query, str) or not query.strip():
            raise InputError(
                f"{where} has no query; an item is {{query, choices, gold}}, and this has {', '.join(list(row)[:9])}"
            )
        if (
            not isinstance(choices, list)
            or len(choices) < 2
            or not all(isinstance(c, str) and c.strip() for c in choices)
        ):
            raise InputError(f"{where} has no list of two or more choices, each a text")
        if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise InputError(
                f"{where}: gold={str(gold)[:20]} is no place in its {len(choices)} choices; the first is 0"
            )
        found.append(Item(query=query, choices=tuple(choices), gold=gold))
    if not found:
        raise InputError(f"{path} holds no item; give JSON lines of {{query, choices, gold}}")
    return found


def frame(query: str) -> str:
    """Return the prompt of a query, without space at its end: that belongs to the choice."""
    text = query.rstrip()
    return f"{text}\nAnswer:" if text.startswith("Question:") and not text.endswith("Answer:") else text


def grade(items: Sequence[Item], engine: Engine, *, prefix: str = "") -> list[Graded]:
    """Return what the model picks. `prefix` goes before every prompt, for models that want a beginning such as `<bos>`."""
    prompts: list[Prompt] = []
    continuations: list[Continuation] = []
    for item in items:
        text = prefix + frame(item.query)
        ids = tuple(engine.tokenizer.encode(text))
        for choice in item.choices:
            told = f" {choice.strip()}"
            # where a token spans the border, the choice gets what comes after the query's own number of tokens
            rest = tuple(engine.tokenizer.encode(text + told)[len(ids) :])
            prompts.append(Prompt(user=text, prefill="", text=text, token_ids=ids))
            continuations.append(Continuation(text=told, token_ids=rest))
    answers = iter(engine.loglikelihood(prompts, continuations))
    graded = []
    for item in items:
        own = [next(answers) for _ in item.choices]
        error = next((answer.error for answer in own if answer.error), None)
        if error:
            graded.append(Graded(right=None, error=error))
            continue
        lengths = {
            "acc": [1] * len(own),
            "acc_norm": [len(c.strip()) for c in item.choices],
            "acc_token": [a.tokens for a in own],
        }
        picks = {
            way: int(np.argmax([answer.logprob / max(size, 1) for answer, size in zip(own, sizes, strict=True)]))
            for way, sizes in lengths.items()
        }
        graded.append(Graded(right={way: pick == item.gold for way, pick in picks.items()}))
    return graded


def measure(graded: Sequence[Graded], way: str) -> Accuracy:
    """Return the accuracy over the items that could be graded."""
    from scipy.stats import binomtest

    right = [item.right[way] for item in graded if item.right is not None]
    n = len(right)
    if not n:
        return Accuracy(value=None, low=None, high=None, n=0)
    value = sum(right) / n
    if n < MIN_BOOTSTRAP:
        return Accuracy(value=value, low=None, high=None, n=n)
    bounds = binomtest(sum(right), n).proportion_ci(0.95, method="wilson")
    return Accuracy(value=value, low=float(bounds.low), high=float(bounds.high), n=n)


def compare_graded(first: Sequence[Graded], second: Sequence[Graded], way: str, *, seed: int) -> Interval | None:
    """Return the second model's accuracy less the first's, paired by item; None where no item has both."""
    off = [
        float(two.right[way]) - float(one.right[way])
        for one, two in zip(first, second, strict=True)
        if one.right is not None and two.right is not None
    ]
    if not off:
        return None
    return bootstrap_ratio(off, [1] * len(off), resamples=2000, confidence=0.95, seed=seed)
