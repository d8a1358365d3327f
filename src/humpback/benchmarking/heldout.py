"""Held-out pairs and human preferences: what models expect, and whether that is what people prefer. In: files, engines. Out: figures.

A pair is `{instruction, response}`, also with `source`; one that needs a `context` cannot be asked whole and is left out, counted. A
preference is `{input, output_1, output_2, label}` (LLMBar's form; `instruction` for `input` will do), where the label is the better
output's number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from humpback.benchmarking.alpacaeval import read_json_rows
from humpback.benchmarking.judging import Pairing, judge_by_probability
from humpback.engines.base import Engine
from humpback.errors import InputError
from humpback.evaluation.likelihood import Likelihoods
from humpback.prompts import Prompts
from humpback.records import Pair, content_id
from humpback.seeds.readers import normalise_instruction

__all__ = [
    "Pairs",
    "Preference",
    "by_instruction",
    "by_source",
    "group_instructions",
    "prefer_by_judge",
    "prefer_by_likelihood",
    "read_heldout",
    "read_preferences",
]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Held-out pairs."""

    pairs: tuple[Pair, ...]
    sources: Mapping[str, str]
    """Source of each pair by its id: the column `source`, else the file's name, with folders where two files share it."""
    instructions: Mapping[str, str]
    """Each pair's instruction by its id, alike where only case, space or the last stop differ."""
    with_context: int
    """Pairs left out because they have a context."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Two outputs, and which of them a person prefers."""

    instruction: str
    outputs: tuple[str, str]
    better: int
    """0 or 1."""


def read_heldout(paths: Sequence[Path]) -> Pairs:
    """Return the pairs of all files; the same pair twice is refused, as it would count twice."""
    pairs: list[Pair] = []
    sources: dict[str, str] = {}
    with_context = 0
    names = _name_files(paths)
    for path in paths:
        for number, row in enumerate(read_json_rows(path), start=1):
            texts = [row.get("instruction"), row.get("response")]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise InputError(
                    f"{path}: pair {number} has no text as instruction and response, or an empty one; its columns are "
                    f"{', '.join(list(row)[:9]) or 'none'}"
                )
            if row.get("context"):
                with_context += 1
                continue
            instruction, response = map(str, texts)
            pair_id = content_id(instruction, response)
            pairs.append(
                Pair(
                    id=pair_id,
                    instruction=instruction,
                    response=response,
                    split="holdout",
                    source_uri=f"{path}#{number}",
                    licence="",
                )
            )
            sources[pair_id] = str(row.get("source") or names[path])
    if not pairs:
        raise InputError(
            f"there is no held-out pair ({with_context} have a context and are left out); give JSON lines of {{instruction, response}}"
        )
    twice = [pair for pair, count in Counter(pair.id for pair in pairs).items() if count > 1]
    if twice:
        instruction = next(pair.instruction for pair in pairs if pair.id == twice[0])
        raise InputError(
            f"{len(twice)} held-out pairs are given more than once, for example {instruction[:80]!r}; keep one of each"
        )
    instructions = {pair.id: normalise_instruction(pair.instruction) for pair in pairs}
    return Pairs(pairs=tuple(pairs), sources=sources, instructions=instructions, with_context=with_context)


def _name_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Return each file's name without endings, and before it as many folders as tell it from the other files."""
    whole = {path: (*path.absolute().parts[1:-1], path.name.split(".")[0]) for path in paths}
    names = {}
    for path, parts in whole.items():
        others = [other for one, other in whole.items() if one != path]
        lone = (n for n in range(1, len(parts) + 1) if not any(other[-n:] == parts[-n:] for other in others))
        depth = next(lone, None)
        # none in one folder: pairs.json and pairs.jsonl differ in their endings alone
        names[path] = str(path) if depth is None else "/".join(parts[-depth:])
    return names


def by_source(values: Likelihoods, sources: Mapping[str, str], source: str) -> Likelihoods:
    """Return the likelihoods of one source's pairs."""
    rows = [row for row, pair_id in enumerate(values.pair_ids) if sources[pair_id] == source]
    return replace(
        values,
        pair_ids=tuple(values.pair_ids[row] for row in rows),
        nats=tuple(values.nats[row] for row in rows),
        tokens=tuple(values.tokens[row] for row in rows),
        errors=tuple(values.errors[row] for row in rows),
    )


def by_instruction(values: Likelihoods, instructions: Mapping[str, str]) -> Likelihoods:
    """Add up the pairs of each instruction, under the first one's id; every pair must have a likelihood.

    Several responses to one instruction are no independent pairs: intervals must resample instructions. Nats per token stay.
    """
    groups: dict[str, list[int]] = {}
    for row, pair_id in enumerate(values.pair_ids):
        groups.setdefault(instructions[pair_id], []).append(row)
    return Likelihoods(
        pair_ids=tuple(values.pair_ids[rows[0]] for rows in groups.values()),
        nats=tuple(sum(values.nats[row] for row in rows) for rows in groups.values()),
        tokens=tuple(sum(values.tokens[row] for row in rows) for rows in groups.values()),
        errors=tuple(None for _ in groups),
    )


def group_instructions(texts: Iterable[str]) -> list[int]:
    """Return the number of each instruction, equal for those that differ only in case, space or the last stop."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(normalise_instruction(text), len(numbers)) for text in texts]


def read_preferences(path: Path) -> list[Preference]:
    """Return the preferences of a file; one without a usable label is refused by its number."""
    found = []
    for number, row in enumerate(read_json_rows(path), start=1):
        texts = (row.get("input") or row.get("instruction"), row.get("output_1"), row.get("output_2"))
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(
                f"{path}: preference {number} lacks a text of input, output_1 and output_2; it has {', '.join(list(row)[:9])}"
            )
        label = row.get("label")
        if isinstance(label, bool) or label not in (1, 2):
            raise InputError(
                f"{path}: preference {number}: label={str(label)[:20]} is neither 1 nor 2, the better output's number"
            )
        instruction, first, second = map(str, texts)
        found.append(Preference(instruction=instruction, outputs=(first, second), better=0 if label == 1 else 1))
    if not found:
        raise InputError(f"{path} holds no preference; give a JSON list of {{input, output_1, output_2, label}}")
    return found


def prefer_by_likelihood(
    preferences: Sequence[Preference], engine: Engine, prompts: Prompts, tag: str
) -> dict[str, list[float | None]]:
    """Return 1 where the model expects the better output more, 0 where less, a half for a tie; None where it cannot be computed.

    `likelihood` compares whole outputs, `likelihood_per_token` does not favour short ones.
    """
    asked = [prompts.answer(p.instruction, tag) for p in preferences for _ in p.outputs]
    answers = engine.loglikelihood(asked, [prompts.target(text) for p in preferences for text in p.outputs])
    found: dict[str, list[float | None]] = {"likelihood": [], "likelihood_per_token": []}
    for place, preference in enumerate(preferences):
        own = answers[2 * place : 2 * place + 2]
        if any(answer.error for answer in own):
            for values in found.values():
                values.append(None)
            continue
        good, bad = own[preference.better], own[1 - preference.better]
        found["likelihood"].append(_won(good.logprob, bad.logprob))
        found["likelihood_per_token"].append(_won(good.logprob / good.tokens, bad.logprob / bad.tokens))
    return found


def prefer_by_judge(preferences: Sequence[Preference], engine: Engine, prompts: Prompts) -> list[float | None]:
    """Return likewise what the model says as a judge of both orders, by its probabilities."""
    pairings = [
        Pairing(instruction=p.instruction, model=p.outputs[p.better], baseline=p.outputs[1 - p.better])
        for p in preferences
    ]
    shares = [rulings.share for rulings in judge_by_probability(pairings, engine, prompts)]
    return [None if share is None else _won(share, 0.5) for share in shares]


def _won(good: float, bad: float) -> float:
    return 1.0 if good > bad else 0.0 if good < bad else 0.5
