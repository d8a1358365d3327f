"""The two sides of a comparison: what each answers to the same prompts. In: output files or models, prompts. Out: matched outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from humpback.benchmarking.alpacaeval import Output, read_json_rows, read_outputs
from humpback.benchmarking.models import ModelOptions, TagChoice, choose_tag, make_prompts, opened
from humpback.engines.base import Engine, EngineTotals, Sampling
from humpback.errors import InputError
from humpback.prompts import Prompts
from humpback.store.fingerprint import derive_seed

__all__ = [
    "Answers",
    "Question",
    "answer",
    "ask",
    "find_prompts",
    "is_outputs",
    "look_up",
    "read_questions",
    "shared_questions",
]

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt to compare models on."""

    text: str
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one side answers, in the order of the questions."""

    name: str
    outputs: tuple[str | None, ...]
    """None where the model gave none."""
    errors: tuple[str, ...] = ()
    """Why outputs are missing, each reason once."""
    cut: int = 0
    """Outputs that ended because they were as long as allowed."""
    totals: EngineTotals | None = None
    """None for a file of outputs."""
    content_hash: str | None = None
    """Of the model; None for a file of outputs."""


def is_outputs(side: str) -> bool:
    """Say whether a side is a file of outputs, and not a model."""
    return side.lower().endswith(SUFFIXES)


def find_prompts(given: str | None, folder: Path | None) -> Path | None:
    """Return the file of prompts that is meant: a file, or by its name without suffix a set of the folder; None for None."""
    if given is None or Path(given).is_file() or is_outputs(given) or Path(given).name != given:
        return None if given is None else Path(given)
    if folder is None:
        raise InputError(
            f"--prompts {given} is no file, and the name of a set needs the folder it is in: give --prompts-folder FOLDER, or "
            "set HUMPBACK_PROMPTS"
        )
    sets = _list_sets(folder)
    found = sets.get(given, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{folder} has several sets {given}: {', '.join(path.name for path in found)}; name the file")
    there = f"it has {', '.join(sorted(sets))}" if sets else f"it has none: files {', '.join(SUFFIXES)} are sets"
    raise InputError(f"{folder} has no prompt set {given}; {there}")


def _list_sets(folder: Path) -> dict[str, list[Path]]:
    try:
        files = sorted(path for path in folder.iterdir() if is_outputs(path.name))
    except OSError as error:
        raise InputError(
            f"the folder of prompt sets {folder} cannot be read: {error.strerror}; give another --prompts-folder"
        ) from error
    sets: dict[str, list[Path]] = {}
    for path in files:
        suffix = max((s for s in SUFFIXES if path.name.lower().endswith(s)), key=len)
        sets.setdefault(path.name[: -len(suffix)], []).append(path)
    return sets


def read_questions(path: Path) -> list[Question]:
    """Return the prompts of a file: entries with instruction, prompt or turns (the first counts), and category or dataset."""
    found = []
    for number, row in enumerate(read_json_rows(path), start=1):
        turns = row.get("turns")
        text = row.get("instruction") or row.get("prompt") or (turns[0] if isinstance(turns, list) and turns else None)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{path}: entry {number} has no text as instruction, prompt or turns, but {', '.join(list(row)[:9])}"
            )
        found.append(Question(text=text, category=str(row.get("category") or row.get("dataset") or "")))
    if not found:
        raise InputError(f"{path} holds no prompt; give a JSON list, or a line of JSON per prompt")
    twice = [text for text, count in Counter(question.text for question in found).items() if count > 1]
    if twice:
        raise InputError(
            f"{path} holds {len(twice)} prompts more than once, for example {twice[0][:80]!r}; it would count twice: "
            "keep one"
        )
    return found


def shared_questions(first: Path, second: Path) -> list[Question]:
    """Return the prompts of two files of outputs, which must have the same."""
    one, two = read_outputs(first), read_outputs(second)
    texts = {output.instruction for output in one}, {output.instruction for output in two}
    if texts[0] != texts[1]:
        lone = min(texts[0] ^ texts[1])
        raise InputError(
            f"{first} and {second} do not answer the same prompts: {len(texts[0] & texts[1])} are in both, "
            f"{len(texts[0] - texts[1])} in the first only, {len(texts[1] - texts[0])} in the second only, for example {lone[:80]!r}; "
            "give --prompts with those to compare"
        )
    return [Question(text=output.instruction, category=output.dataset) for output in one]


def answer(
    side: str, questions: Sequence[Question], options: ModelOptions, *, sampling: Sampling, tags: TagChoice, seed: int
) -> Answers:
    """Return a side's answers, out of its file or asked of its model."""
    if is_outputs(side):
        return look_up(Path(side), questions)
    tag = choose_tag(side, tags)
    with opened(side, options, needs="generate") as engine:
        given = ask(engine, make_prompts(engine, options), questions, name=side, tag=tag, sampling=sampling, seed=seed)
        return replace(given, totals=replace(engine.totals), content_hash=engine.model.content_hash)


def ask(
    engine: Engine,
    prompts: Prompts,
    questions: Sequence[Question],
    *,
    name: str,
    tag: str,
    sampling: Sampling,
    seed: int,
    bound: str = "--max-tokens",
) -> Answers:
    """Return what an opened model answers; each draw depends on the seed and the prompt alone.

    `bound` is what the user sets the longest prompt and answer by.
    """
    asked = [prompts.answer(q.text, tag, seed=derive_seed(seed, "winrate", q.text)) for q in questions]
    room = prompts.max_tokens - sampling.max_tokens
    fits = [len(prompt.token_ids) <= room for prompt in asked]
    drawn = iter(engine.generate([p for p, fit in zip(asked, fits, strict=True) if fit], sampling))
    given = [next(drawn) if fit else None for fit in fits]
    outputs = tuple(c.text if c is not None and c.finish != "error" else None for c in given)
    errors = {c.error or "no reason given" for c in given if c is not None and c.finish == "error"}
    if not all(fits):
        errors.add(f"too_long: prompt and answer exceed {prompts.max_tokens} tokens ({bound})")
    return Answers(
        name=name,
        outputs=outputs,
        errors=tuple(sorted(errors)),
        cut=sum(c is not None and c.finish == "length" for c in given),
    )


def look_up(path: Path, questions: Sequence[Question]) -> Answers:
    """Return a file's outputs to these questions; raise InputError where any is missing."""
    outputs: list[Output] = read_outputs(path)
    by_text = {output.instruction: output.output for output in outputs}
    missing = [question.text for question in questions if question.text not in by_text]
    if missing:
        raise InputError(
            f"{path} has no output for {len(missing)} of {len(questions)} prompts, for example {missing[0][:80]!r}; "
            "add those outputs, or take the prompts out"
        )
    return Answers(name=outputs[0].generator, outputs=tuple(by_text[question.text] for question in questions))
