"""What a judge says of a cell's model: its answers against the baseline's, in both orders, as `humpback winrate` asks.

In: the arm's model, prompts, a judge. Out: a stage of `arm/` with a row per prompt. The baseline is the same for all cells, so their
rates are compared prompt by prompt. A prompt without an answer or a verdict in both orders is counted and is no loss.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from humpback.benchmarking.alpacaeval import draw
from humpback.benchmarking.judging import PAIR_RUBRIC, Pairing, Rulings, judge_by_probability, judge_by_reply
from humpback.benchmarking.models import ModelOptions, make_prompts, opened, specify
from humpback.benchmarking.sides import Answers, Question, ask, find_prompts, look_up, read_questions
from humpback.engines.answers import locate_cache
from humpback.engines.base import ModelRef, Sampling
from humpback.recipe import identity_of
from humpback.runner import Work, to_json
from humpback.sitting import Result
from humpback.store.fingerprint import hash_file
from humpback.store.rundir import Counts
from humpback.store.shards import atomic_write
from humpback.studies.armdata import ArmRooms
from humpback.studies.grid import Judge
from humpback.studies.judgefiles import refuse_changed

__all__ = ["JUDGED", "JudgingRooms", "check_judge"]

JUDGED = "judged.json"


def check_judge(judge: Judge) -> int:
    """Return how many prompts each cell answers; raise InputError when they, or the baseline's outputs, cannot be had."""
    questions = read_questions(_prompts_of(judge))
    if judge.baseline:
        look_up(Path(judge.baseline), questions)
    return len(draw(questions, judge.sample, 0))


def _prompts_of(judge: Judge) -> Path:
    sets = os.environ.get("HUMPBACK_PROMPTS")
    found = find_prompts(judge.prompts, Path(sets) if sets else None)
    assert found is not None
    return found


class JudgingRooms(ArmRooms):
    """The stage that asks a judge."""

    def judge(self, model: ModelRef, tag: str) -> None:
        """Compare the model's answers, under the tags given, with the baseline's."""
        judge, stage = self.cell.judge, f"arm/{self.cell.judging}"
        if judge is None:
            return
        questions = draw(read_questions(_prompts_of(judge)), judge.sample, self.recipe.random_seed)

        def do(folder: Path) -> tuple[Work, Result]:
            with self.answers_bar(stage, len(questions) * (1 if judge.baseline else 2)):
                own = self._answer(model, tag, questions, judge)
                base = (
                    look_up(Path(judge.baseline), questions)
                    if judge.baseline
                    else self._answer(self.base, "", questions, judge)
                )
            rulings = self._rule(questions, own, base, judge)
            rows = [
                _tell(question, own.outputs[place], base.outputs[place], ruling)
                for place, (question, ruling) in enumerate(zip(questions, rulings, strict=True))
            ]
            atomic_write(folder / JUDGED, to_json({"baseline": base.name, "rows": rows}))
            lost = Counter(
                "no_output" if row["orders"] is None else "no_verdict" for row in rows if row["share"] is None
            )
            counts = Counts(read=len(rows), kept=len(rows) - lost.total(), failed=dict(lost))
            return Work(counts=counts), {"errors": [*own.errors, *base.errors]}

        identity = self._judge_identity(judge)
        if (made := self.run_dir.manifest(stage)) is not None:
            refuse_changed(made.identity["judge"], identity, {"prompts": judge.prompts, "baseline": judge.baseline})
        self.stage(
            stage,
            {"tag": tag, "judge": identity, **self.prompt_prints("answer")},
            models={"model": model, "base": self.base},
            do=do,
        )

    def _judge_identity(self, judge: Judge) -> Mapping[str, Any]:
        files = {"prompts": hash_file(_prompts_of(judge))}
        if judge.baseline:
            files["baseline"] = hash_file(Path(judge.baseline))
        served = judge.model.startswith(("http://", "https://"))  # known by its name: a finished study asks no server
        model = judge.model if served else specify(judge.model, self._options(judge)).model.content_hash
        values = {key: value for key, value in identity_of(judge).items() if key != "api_key_env"}
        return {**values, **files, "model": model, "random_seed": self.recipe.random_seed, "rubric": PAIR_RUBRIC}

    def _options(self, judge: Judge) -> ModelOptions:
        runtime = self.recipe.runtime
        return ModelOptions(
            cache=locate_cache(runtime.cache, self.run_dir.path),
            engine="vllm" if runtime.engine == "vllm" else "hf",
            device=runtime.device,
            max_tokens=judge.max_tokens,
            server_model=judge.name,
            api_key_env=judge.api_key_env,
            tokenizer=judge.tokenizer,
            quiet=self.console.quiet,
        )

    def _answer(self, model: ModelRef, tag: str, questions: Sequence[Question], judge: Judge) -> Answers:
        sampling = Sampling(temperature=judge.temperature, top_p=judge.top_p, max_tokens=judge.max_new_tokens)
        seed, name = self.recipe.random_seed, "the base model" if model == self.base else "the arm's model"
        given = ask(self.engine(model), self.prompts, questions, name=name, tag=tag, sampling=sampling, seed=seed)
        self.engines.close()  # one model is in memory at a time
        return given

    def _rule(self, questions: Sequence[Question], own: Answers, base: Answers, judge: Judge) -> list[Rulings | None]:
        sides = list(zip(questions, own.outputs, base.outputs, strict=True))
        pairings = [
            Pairing(instruction=question.text, model=one, baseline=other)
            for question, one, other in sides
            if one is not None and other is not None
        ]
        options, by_reply = self._options(judge), judge.verdicts == "reply"
        with opened(judge.model, options, needs="generate" if by_reply else "choice_logprobs") as engine:
            prompts = make_prompts(engine, options, rubric=PAIR_RUBRIC)
            room, seed = judge.reply_tokens, self.recipe.random_seed
            found = iter(
                judge_by_reply(pairings, engine, prompts, max_tokens=room, seed=seed)
                if by_reply
                else judge_by_probability(pairings, engine, prompts)
            )
        return [None if one is None or other is None else next(found) for _, one, other in sides]


def _tell(question: Question, own: str | None, base: str | None, ruling: Rulings | None) -> dict[str, Any]:
    return {
        "prompt": question.text,
        "category": question.category,
        "output": own,
        "baseline": base,
        "share": ruling.share if ruling else None,
        "orders": asdict(ruling) if ruling else None,
    }
