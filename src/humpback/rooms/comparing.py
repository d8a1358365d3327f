"""The stages that compare what models answer, by a judge: `iteration-t/compare` of a run, and `arm/judge-...` of a study.

In: a model, prompts, a judge. Out: a row per prompt, with both answers and the judge's rulings. It asks as `humpback winrate` does, in
both orders; a prompt without an answer or a verdict is counted and is no loss.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from humpback.benchmarking.alpacaeval import draw
from humpback.benchmarking.iterations import JudgedPrompt, Met, find_met, measure_model
from humpback.benchmarking.judging import PAIR_RUBRIC, Pairing, Rulings, draw_twice, judge_by_probability, judge_twice
from humpback.benchmarking.models import ModelOptions, make_prompts, opened, specify
from humpback.benchmarking.sides import Answers, Question, ask, look_up, read_questions
from humpback.benchmarking.spending import Ledger
from humpback.engines.base import EngineTotals, ModelRef, Sampling
from humpback.errors import StorageError
from humpback.recipe import Judge, identify_judge
from humpback.rooms.asking import check_judge, check_judges_model, judge_options, needs_of, prompts_of
from humpback.rooms.base import RoomBase
from humpback.runner import Work, to_json
from humpback.sitting import Result
from humpback.stages.table import compare_names, compares
from humpback.store.fingerprint import hash_file
from humpback.store.rundir import Counts
from humpback.store.shards import atomic_write

__all__ = ["JUDGED", "SPENT", "ComparingRooms", "Sides"]

JUDGED, SPENT = "judged.json", "spent.json"
COMPARE_VERSION = 2
"""Raised when the same rulings are told otherwise: a run's `compare` is made anew then, of the answers that are kept."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Who is compared."""

    model: ModelRef
    name: str
    tag: str
    """The tag sentences it is asked with."""
    base: ModelRef
    """The baseline, where the judge names no file of outputs."""
    base_name: str
    base_tag: str


@dataclass(frozen=True, kw_only=True)
class _Found:
    rulings: list[Rulings | None]
    """None where a side has no output."""
    again: list[Rulings | None]
    """Second rulings; None where none was asked for."""
    totals: EngineTotals
    """The judge's, of this sitting."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came of a comparison."""

    judged: list[JudgedPrompt]
    baseline: str
    """Its name."""
    errors: list[str]
    """Why answers are missing, each reason once."""
    work: Work


class ComparingRooms(RoomBase):
    """From models to what a judge says of their answers."""

    def tell_cost(self) -> None:
        """Say before anything is made what the judge will be asked, at most; nothing without a judge, or when it was asked.

        Raises InputError for a judge that cannot be had, as it is asked only when models have been trained.
        """
        judge, course = self.recipe.evaluate.judge, self.course
        names = compare_names(self.recipe, course.iterations if course.settled else None)
        if judge is None or all(self.run_dir.state(name) == "done" and name not in self._rebuilt for name in names):
            return
        check_judges_model(judge, self.recipe.runtime, self.run_dir.path, quiet=self.console.quiet)
        n, by_reply = check_judge(judge, self.recipe.evaluate.confidence), judge.verdicts == "reply"
        models = len(names) + (not judge.baseline)
        rulings = len(names) * 2 * (n + (min(judge.recheck, n) if by_reply else 0))
        each = f" of up to {judge.reply_tokens:,} tokens" if by_reply else ", each the probabilities of five numbers"
        self.console.say(
            f"judge {judge.name or judge.model}, {n:,} prompts: at most {models * n:,} answers of up to {judge.max_new_tokens:,} "
            f"tokens by M_0 to M_{models - 1}, and {rulings:,} rulings{each}"
        )

    def compare(self, t: int) -> None:
        """Compare M_t where T is found: the judge's word may end the loop."""
        if self.recipe.iterations == "auto" and compares(self.recipe, t):
            self._compare(t)

    def compare_all(self) -> None:
        """Compare every M_t where T is set: the judge decides nothing then, and may be named when all else is done."""
        if self.recipe.iterations != "auto":
            for t in range(self.course.iterations + 1):
                if compares(self.recipe, t):
                    self._compare(t)

    def _compare(self, t: int) -> None:
        """Compare M_t with M_0, or with the outputs that the recipe names."""
        judge, name = self.recipe.evaluate.judge, f"iteration-{t}/compare"
        assert judge is not None
        both, models = self.prompts.both_tags, {"model": self.model(f"iteration-{t}")}
        base = self.model("iteration-0")
        if judge.baseline is None:
            models["base"] = base
        earlier = [f"iteration-{s}/compare" for s in range(t) if compares(self.recipe, s)]
        sides = Sides(model=models["model"], name=f"M_{t}", tag=both, base=base, base_name="M_0", base_tag=both)
        asked = self.judge_identity(judge)

        def do(folder: Path) -> tuple[Work, Result]:
            questions = self.questions(judge)
            found = self.ask_judge(folder, sides, questions, judge, recheck=judge.recheck, bar=name)
            rows = [one.as_row(rechecked=judge.verdicts == "reply") for one in found.judged]
            atomic_write(folder / JUDGED, to_json({"baseline": found.baseline, "rows": rows}))
            before = {} if judge.baseline else {"M_0": {one.prompt: Met(0.5, one.baseline) for one in found.judged}}
            told = measure_model(
                found.judged,
                {**before, **{f"M_{stage[10:-8]}": self._met(stage) for stage in earlier}},
                self.recipe.evaluate,
                model=sides.name,
                baseline=found.baseline,
                random_seed=self.recipe.random_seed,
            )
            own = asked["model"] in {model.content_hash for model in models.values()}
            who = {"by": judge.name or judge.model, "verdicts": judge.verdicts, "judge_is_a_side": own}
            return found.work, {**who, **told, "errors": found.errors}

        identity = {
            "version_of_compare": COMPARE_VERSION,
            **self.statistics(),
            **self.prompt_prints("answer"),
            "tag": both,
            "judge": asked,
        }
        self.stage(name, identity, inputs=earlier, models=models, do=do)
        for line in tell_compared(self.result(name)):
            self.console.say(f"  {line}")

    def _met(self, stage: str) -> dict[str, Met]:
        path = self.run_dir.folder(stage) / JUDGED
        try:
            return find_met(json.loads(path.read_bytes())["rows"])
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(f"{path} cannot be read ({error}); run again with --rerun-from {stage}") from error

    # -- what a run and a study share ----------------------------------------------------------------------------------

    def questions(self, judge: Judge) -> list[Question]:
        """Return the prompts, drawn by the recipe's seed."""
        return draw(read_questions(prompts_of(judge)), judge.sample, self.recipe.random_seed)

    def judge_identity(self, judge: Judge) -> Mapping[str, Any]:
        """Return what a judge's rulings depend on, beside the models that are judged."""
        files = {"prompts": hash_file(prompts_of(judge))}
        if judge.baseline:
            files["baseline"] = hash_file(Path(judge.baseline))
        served = judge.model.startswith(("http://", "https://"))  # known by its name: a finished stage asks no server
        model = judge.model if served else specify(judge.model, self._options(judge)).model.content_hash
        return {
            **identify_judge(judge),
            **files,
            "model": model,
            "random_seed": self.recipe.random_seed,
            "rubric": PAIR_RUBRIC,
        }

    def ask_judge(
        self, folder: Path, sides: Sides, questions: Sequence[Question], judge: Judge, *, recheck: int, bar: str
    ) -> Compared:
        """Have both sides answer, and the judge compare the answers; what it costs over all sittings is kept in the folder."""
        before = self.engines.totals()
        with self.answers_bar(bar, len(questions) * (1 if judge.baseline else 2)):
            own = self._answer(sides.model, sides.name, sides.tag, questions, judge)
            base = (
                look_up(Path(judge.baseline), questions)
                if judge.baseline
                else self._answer(sides.base, sides.base_name, sides.base_tag, questions, judge)
            )
        ledger = Ledger(folder / SPENT, {"model": own.name, "baseline": base.name, "judge": judge.name or judge.model})
        found = self._rule(questions, own, base, judge, recheck, ledger)
        judged = [
            JudgedPrompt(
                prompt=question.text,
                category=question.category,
                output=own.outputs[place],
                baseline=base.outputs[place],
                rulings=found.rulings[place],
                again=found.again[place],
            )
            for place, question in enumerate(questions)
        ]
        lost = Counter("no_output" if one.rulings is None else "no_verdict" for one in judged if one.share is None)
        totals = self.engines.totals().since(before)
        totals.add(found.totals)
        counts = Counts(read=len(judged), kept=len(judged) - lost.total(), failed=dict(lost))
        work = Work(counts=counts, totals=totals)
        return Compared(
            judged=judged, baseline=base.name, errors=list(dict.fromkeys([*own.errors, *base.errors])), work=work
        )

    def _options(self, judge: Judge) -> ModelOptions:
        return judge_options(judge, self.recipe.runtime, self.run_dir.path, quiet=self.console.quiet)

    def _answer(self, model: ModelRef, name: str, tag: str, questions: Sequence[Question], judge: Judge) -> Answers:
        self.engines.close()  # one model is in memory at a time
        sampling = Sampling(temperature=judge.temperature, top_p=judge.top_p, max_tokens=judge.max_new_tokens)
        seed = self.recipe.random_seed
        given = ask(
            self.engine(model),
            self.prompts,
            questions,
            name=name,
            tag=tag,
            sampling=sampling,
            seed=seed,
            bound="model.max_tokens",
        )
        self.engines.close()
        return given

    def _rule(
        self,
        questions: Sequence[Question],
        own: Answers,
        base: Answers,
        judge: Judge,
        recheck: int,
        ledger: Ledger,
    ) -> _Found:
        answered = [
            (place, Pairing(instruction=question.text, model=one, baseline=other))
            for place, (question, one, other) in enumerate(zip(questions, own.outputs, base.outputs, strict=True))
            if one is not None and other is not None
        ]
        pairings = [pairing for _, pairing in answered]
        options, by_reply, seed = self._options(judge), judge.verdicts == "reply", self.recipe.random_seed
        again: dict[int, Rulings] = {}
        with opened(judge.model, options, needs=needs_of(judge), hear=ledger.hear) as engine:
            prompts = make_prompts(engine, options, rubric=PAIR_RUBRIC)
            if by_reply:
                places, room = draw_twice(pairings, recheck, seed), judge.reply_tokens
                found, second = judge_twice(pairings, engine, prompts, reply_tokens=room, seed=seed, places=places)
                again = {answered[i][0]: rulings for i, rulings in second.items()}
            else:
                found = judge_by_probability(pairings, engine, prompts)
            totals = replace(engine.totals)
        ruled = {place: rulings for (place, _), rulings in zip(answered, found, strict=True)}
        every = range(len(questions))
        return _Found(rulings=[ruled.get(i) for i in every], again=[again.get(i) for i in every], totals=totals)


def tell_compared(found: Mapping[str, Any]) -> list[str]:
    """Say what a judge says of a model, and what is to be held of it."""
    rate, lost = found["win_rate"], found["without_output"] + found["without_verdict"]
    unjudged = f"; {lost} without an answer or a verdict count for neither" if lost else ""
    unjudged += f" (no answer: {'; '.join(found['errors'])})" if found["errors"] else ""
    if rate["value"] is None:
        return [f"{found['by']} has no win rate of {found['model']}: {rate['reason']}{unjudged}"]
    bounds = "" if rate["low"] is None else f" ({rate['low']:.1f} to {rate['high']:.1f})"
    told = f"{found['model']} wins {rate['value']:.1f} %{bounds} against {found['against']} by {found['by']}"
    told += f", {found['judged']} prompts"
    doubted = [f"warning: the judge is not believed: {found['doubt']}"] if found["doubt"] else []
    return [f"{told}{unjudged}", *doubted]
