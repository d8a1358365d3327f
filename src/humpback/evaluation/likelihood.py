"""Held-out likelihood: nats per token of a text given its prompt, compared between models pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback.engines.base import Engine
from humpback.evaluation.stats import bootstrap_ratio, bootstrap_ratio_difference
from humpback.prompts import Prompts
from humpback.records import Pair
from humpback.store.fingerprint import derive_seed

__all__ = ["Likelihoods", "compare", "instruction_nll", "response_nll", "without_errors"]


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """Negative log-likelihood of one text per held-out pair, under one model."""

    pair_ids: tuple[str, ...]
    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    errors: tuple[str | None, ...]
    """Why a pair has no likelihood, or None. Such a pair counts for no model."""


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
    return Likelihoods(
        pair_ids=tuple(pair.id for pair in pairs),
        nats=tuple(-answer.logprob for answer in answers),
        tokens=tuple(answer.tokens for answer in answers),
        errors=tuple(answer.error for answer in answers),
    )


def without_errors(tables: Sequence[Mapping[str, Likelihoods]]) -> tuple[list[dict[str, Likelihoods]], dict[str, str]]:
    """Leave a pair that any model could not answer out for every model; return the tables and the reasons by pair."""
    failed = {
        pair_id: error
        for table in tables
        for values in table.values()
        for pair_id, error in zip(values.pair_ids, values.errors, strict=True)
        if error
    }
    return [{name: _keep(values, failed) for name, values in table.items()} for table in tables], failed


def _keep(values: Likelihoods, failed: Mapping[str, str]) -> Likelihoods:
    rows = [row for row, pair_id in enumerate(values.pair_ids) if pair_id not in failed]
    return Likelihoods(
        pair_ids=tuple(values.pair_ids[row] for row in rows),
        nats=tuple(values.nats[row] for row in rows),
        tokens=tuple(values.tokens[row] for row in rows),
        errors=tuple(None for _ in rows),
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
