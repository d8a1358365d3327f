"""Can a judge be asked, and could it be believed? In: a judge of a recipe or a study. Out: what it is asked with, or InputError.

A judge is asked when models have been trained, so all that could keep it from ruling is looked at before the first stage.
"""

from __future__ import annotations

import os
from pathlib import Path

from humpback.benchmarking.alpacaeval import draw
from humpback.benchmarking.models import ModelOptions, check_model
from humpback.benchmarking.sides import find_prompts, look_up, read_questions
from humpback.benchmarking.trust import least_prompts
from humpback.engines.answers import locate_cache
from humpback.engines.base import Capability
from humpback.errors import InputError
from humpback.recipe import Judge, RuntimeSettings

__all__ = ["check_judge", "check_judges_model", "judge_options", "needs_of", "prompts_of"]


def check_judge(judge: Judge, confidence: float) -> int:
    """Return how many prompts each model answers; raise InputError where they or a baseline cannot be had, or are too few."""
    file = prompts_of(judge)
    questions = read_questions(file)
    if judge.baseline:
        look_up(Path(judge.baseline), questions)
    count, least = len(draw(questions, judge.sample, 0)), least_prompts(confidence)
    if count < least:
        given = f"judge.sample={count} of the prompts" if count < len(questions) else f"{file} with {count} prompts"
        raise InputError(
            f"{given} is too few: on fewer than {least} no judge can be told from one that reads nothing (confidence {confidence:g}); "
            f"give {least} prompts or more, 30 or more for a judge that errs now and then"
        )
    return count


def check_judges_model(judge: Judge, runtime: RuntimeSettings, run: Path, *, quiet: bool) -> None:
    """Raise InputError for a judge that cannot be had, or whose server cannot do what is needed; loads no weights."""
    try:
        check_model(judge.model, judge_options(judge, runtime, run, quiet=quiet), needs=needs_of(judge))
    except InputError as error:
        raise InputError(f"the judge: {error}") from error


def prompts_of(judge: Judge) -> Path:
    """Return the file of its prompts."""
    sets = os.environ.get("HUMPBACK_PROMPTS")
    found = find_prompts(judge.prompts, Path(sets) if sets else None)
    assert found is not None
    return found


def needs_of(judge: Judge) -> Capability:
    """Return what its engine has to be able to do."""
    return "generate" if judge.verdicts == "reply" else "choice_logprobs"


def judge_options(judge: Judge, runtime: RuntimeSettings, run: Path, *, quiet: bool) -> ModelOptions:
    """Return how it is run, in a run or a cell whose folder is `run`."""
    return ModelOptions(
        cache=locate_cache(runtime.cache, run),
        engine="vllm" if runtime.engine == "vllm" else "hf",
        device=runtime.device,
        max_tokens=judge.max_tokens,
        server_model=judge.name,
        api_key_env=judge.api_key_env,
        tokenizer=judge.tokenizer,
        quiet=quiet,
    )
