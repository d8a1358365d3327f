"""Answers to held-out instructions: the first by id, in three ways, and an engine's failure is a row with its error."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from humpback.engines.base import Completion, Prompt, Sampling
from humpback.engines.fake import FakeEngine, fake_model
from humpback.errors import DriftError, StageError
from humpback.prompts import Prompts
from humpback.records import Pair
from humpback.report.results import render_results
from humpback.stages.answer import WAYS, answer_pairs, first_pairs

if TYPE_CHECKING:
    from tests.conftest import Lab


class Recorder(FakeEngine):
    """Answers, or fails on prompts that hold a word, and keeps what it was asked."""

    def __init__(self, failing: str = "\0") -> None:
        super().__init__(fake_model(None))
        self.failing = failing
        self.asked: list[tuple[str, Sampling]] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.asked += [(prompt.text, sampling) for prompt in prompts]
        return [
            dataclasses.replace(answer, text="", finish="error", error="too long")
            if self.failing in prompt.text
            else answer
            for prompt, answer in zip(prompts, super().generate(prompts, sampling), strict=True)
        ]


def _prompts(engine: FakeEngine) -> Prompts:
    return Prompts(engine.tokenizer, max_tokens=4096, instruction_tokens=128, seed_tag="SEED.", web_tag="WEB.")


def test_each_instruction_is_asked_with_both_tags_with_one_and_with_none(make_pair: Callable[..., Pair]) -> None:
    engine = Recorder()
    rows = answer_pairs([make_pair("Name a river.", "The Po.")], engine, _prompts(engine), max_tokens=7)
    assert [("SEED." in text, "WEB." in text) for text, _ in engine.asked] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert {(sampling.temperature, sampling.max_tokens) for _, sampling in engine.asked} == {(0.0, 7)}
    assert list(rows[0]["answers"]) == list(WAYS)
    assert rows[0]["response"] == "The Po."


def test_a_failure_is_a_row_and_nothing_but_failures_an_error(make_pair: Callable[..., Pair]) -> None:
    pairs = [make_pair("Name a river.", "The Po."), make_pair("Name a hill.", "Monte Rosa.")]
    engine = Recorder(failing="river")
    first, second = answer_pairs(pairs, engine, _prompts(engine), max_tokens=7)
    assert {answer["error"] for answer in first["answers"].values()} == {"too long"}
    assert {answer["error"] for answer in second["answers"].values()} == {None}
    with pytest.raises(StageError, match=r"no held-out instruction was answered \(too long\).*evaluate\.answer_tokens"):
        answer_pairs(pairs[:1], engine, _prompts(engine), max_tokens=7)


def test_the_first_pairs_are_those_of_the_smallest_ids(make_pair: Callable[..., Pair]) -> None:
    pairs = [make_pair(f"Name river {number}.", "The Po.") for number in range(9)]
    assert [pair.id for pair in first_pairs(reversed(pairs), 3)] == sorted(pair.id for pair in pairs)[:3]


def test_a_complete_run_is_given_answers_later_and_trains_nothing_for_them(lab: Lab, copy_of_finished: Path) -> None:
    run = copy_of_finished
    stages = {
        path: path.read_bytes()
        for path in run.glob("**/manifest.json")
        if path.parent.name not in ("dataset", "report")
    }
    with pytest.raises(DriftError, match="--rerun-from answers"):
        lab.run(run, evaluate__answers=3)
    lab.run(run, evaluate__answers=3, rerun_from="answers")
    assert all(path.read_bytes() == before for path, before in stages.items())
    rows = json.loads((run / "answers" / "answers.json").read_bytes())["rows"]
    held_out = sorted(row["id"] for row in lab.rows(run, "seed", "pairs") if row["split"] == "holdout")
    assert [row["pair_id"] for row in rows] == held_out[:3]
    manifest = lab.manifest(run, "answers")
    assert (manifest["read"], manifest["kept"]) == (3, 3)
    assert (manifest["engine"]["requests"], manifest["engine"]["cache_hits"]) == (9, 0)
    assert not lab.run(run, evaluate__answers=3)

    lab.run(run, evaluate__answers=3, rerun_from="answers")
    assert lab.manifest(run, "answers")["engine"]["cache_hits"] == 9
    lab.run(run, evaluate__answers=4, rerun_from="answers")
    assert lab.manifest(run, "answers")["engine"]["cache_hits"] == 9
    assert "answers to held-out instructions" in render_results(run)

    lab.run(run, rerun_from="report")  # none are asked for any more, and the old ones are not shown as this run's
    assert "answers to held-out instructions" not in render_results(run)


def test_more_answers_than_held_out_pairs_and_longer_ones_than_fit_are_refused(lab: Lab) -> None:
    with pytest.raises(ValidationError, match=r"evaluate\.answers=11 .*seed\.holdout=10"):
        lab.recipe(evaluate__answers=11)
    with pytest.raises(
        ValidationError, match=r"max_tokens=4096 leaves no room .*evaluate\.answer_tokens=4000; use at least 4256"
    ):
        lab.recipe(evaluate__answers=1, evaluate__answer_tokens=4000)
