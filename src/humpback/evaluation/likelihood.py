"""Held-out likelihood: nats per token of a text given its prompt, compared between models pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback.engines.base import Engine
from humpback.errors import StageError
from humpback.evaluation.stats import bootstrap_ratio, bootstrap_ratio_difference
from humpback.prompts import Prompts
from humpback.records import Pair
from humpback.store.fingerprint import derive_seed

__all__ = ["Likelihoods", "compare", "instruction_nll", "response_nll"]


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """Negative log-likelihood of one text per held-out pair, under one model."""

    pair_ids: tuple[str, ...]
    nats: tuple[float, ...]
    tokens: tuple[int, ...]


def response_nll(pairs: Sequence[Pair], engine: Engine, prompts: Prompts, tag: str) -> Likelihoods:
    """NLL of each response after its instruction and the tag."""
    answers = engine.loglikelihood(
        [prompts.answer(pair.instruction, tag) for pair in pairs], [prompts.target(pair.response) for pair in pairs]
    )
    return _collect(pairs, answers)


def instruction_nll(pairs: Sequence[Pair], engine: Engine, prompts: Prompts) -> Likelihoods:
    """NLL of each instruction after its response, under the backward prompt."""
    answers = engine.loglikelihood(
        [prompts.backward(pair.response) for pair in pairs], [prompts.target(pair.instruction) for pair in pairs]
    )
    return _collect(pairs, answers)


def _collect(pairs: Sequence[Pair], answers: Sequence[Any]) -> Likelihoods:
    for pair, answer in zip(pairs, answers, strict=True):
        if answer.error:
            raise StageError(
                f"held-out pair {pair.id} ({pair.source_uri}) has no likelihood: {answer.error}; "
                "shorten or remove it from the seed: every model must be measured on the same pairs"
            )
    return Likelihoods(
        pair_ids=tuple(pair.id for pair in pairs),
        nats=tuple(-answer.logprob for answer in answers),
        tokens=tuple(answer.tokens for answer in answers),
    )


def compare(
    models: Mapping[str, Likelihoods], *, random_seed: int, resamples: int, confidence: float
) -> dict[str, Any]:
    """Return each model's NLL per token, and every model against every earlier one, paired by held-out pair.

    A negative difference means that the later model is better. `models` is in order, the base model first.
    """
    draw: dict[str, Any] = {
        "resamples": resamples,
        "confidence": confidence,
        "seed": derive_seed(random_seed, "nll-bootstrap"),
    }
    rows = [
        {"model": name, **asdict(bootstrap_ratio(values.nats, values.tokens, **draw))}
        for name, values in models.items()
    ]
    names = list(models)
    differences = []
    for index, later in enumerate(names):
        for earlier in names[:index]:
            interval = bootstrap_ratio_difference(
                models[later].nats, models[earlier].nats, models[later].tokens, **draw
            )
            differences.append({"model": later, "against": earlier, **asdict(interval)})
    return {"models": rows, "differences": differences}
