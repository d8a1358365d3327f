"""Answer: what a model writes to held-out instructions with both tags, with the seed tag alone, and with none.

In: held-out pairs, an engine. Out: a row per pair. They are there to be read beside the likelihoods, so they are drawn greedily, the
likeliest token each time, and no pair is chosen: the first by id, which is a hash.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

from humpback.engines.base import Completion, Engine, Sampling
from humpback.errors import StageError
from humpback.prompts import Prompts
from humpback.records import Pair

__all__ = ["WAYS", "answer_pairs", "first_pairs"]

WAYS = ("both tags", "seed tag", "no tag")
"""How each instruction is asked: the paper's three at inference (both 66.47, seed tag 62.69, none 62.70 % wins)."""


def first_pairs(pairs: Iterable[Pair], count: int) -> list[Pair]:
    """Return the first `count` pairs by id."""
    return heapq.nsmallest(count, pairs, key=lambda pair: pair.id)


def answer_pairs(pairs: Sequence[Pair], engine: Engine, prompts: Prompts, *, max_tokens: int) -> list[dict[str, Any]]:
    """Return each pair with its answers by way, ready to be written as JSON; raise StageError when none was given at all."""
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=max_tokens)
    tags = dict(zip(WAYS, (prompts.both_tags, prompts.seed_tag, ""), strict=True))
    given = {
        way: engine.generate([prompts.answer(pair.instruction, tag) for pair in pairs], sampling)
        for way, tag in tags.items()
    }
    errors = [answer.error for answers in given.values() for answer in answers]
    if pairs and all(errors):
        raise StageError(
            f"no held-out instruction was answered ({errors[0]}); see that evaluate.answer_tokens is not too long"
        )
    return [
        {
            "pair_id": pair.id,
            "instruction": pair.instruction,
            "response": pair.response,
            "answers": {way: _row(answers[place]) for way, answers in given.items()},
        }
        for place, pair in enumerate(pairs)
    ]


def _row(answer: Completion) -> dict[str, Any]:
    return {"text": answer.text.strip(), "tokens": answer.tokens, "finish": answer.finish, "error": answer.error}
