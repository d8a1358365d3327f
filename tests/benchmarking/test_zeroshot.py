"""Zero-shot tasks by likelihood: the picks are those of the numbers, and what cannot be asked is refused or counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback.benchmarking.zeroshot import Graded, Item, compare_graded, frame, grade, measure, read_items
from humpback.engines.base import Loglikelihood
from humpback.engines.fake import FakeEngine, fake_model
from humpback.errors import InputError
from humpback.prompts import Continuation, Prompt

if TYPE_CHECKING:
    from tests.conftest import Command


class Told(FakeEngine):
    """Answers with given log-likelihoods, one a continuation, and keeps what it was asked."""

    def __init__(self, *logprobs: float | str) -> None:
        super().__init__(fake_model(None))
        self.logprobs = logprobs
        self.asked: list[tuple[str, str, int]] = []

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        self.asked += [(p.text, c.text, len(c.token_ids)) for p, c in zip(prompts, continuations, strict=True)]
        return [
            Loglikelihood(logprob=0.0, tokens=0, error=value)
            if isinstance(value, str)
            else Loglikelihood(logprob=value, tokens=len(c.token_ids))
            for value, c in zip(self.logprobs, continuations, strict=True)
        ]


ITEM = Item(query="Question: What is red?\n", choices=("an apple of the reddest kind", "sky"), gold=0)


def test_longer_choice_wins_by_length_only() -> None:
    (graded,) = grade([ITEM], Told(-10.0, -5.0))
    assert graded.right == {"acc": False, "acc_norm": True, "acc_token": True}


def test_choice_is_asked_after_the_query_and_a_space() -> None:
    engine = Told(-1.0, -2.0)
    grade([ITEM], engine, prefix="<s>")
    assert engine.asked[0] == ("<s>Question: What is red?\nAnswer:", " an apple of the reddest kind", 29)


def test_only_questions_get_an_answer_line() -> None:
    assert frame("Question: dresser\n") == "Question: dresser\nAnswer:"
    assert frame("Question: A?\nAnswer:") == "Question: A?\nAnswer:"
    assert frame("The best way is to ") == "The best way is to"


def test_item_that_fails_is_counted_and_not_wrong() -> None:
    graded = grade([ITEM, ITEM], Told(-1.0, "too long", -1.0, -9.0))
    assert [item.right is None for item in graded] == [True, False]
    assert (measure(graded, "acc").n, measure(graded, "acc").value) == (1, 1.0)


def test_few_items_have_no_interval_and_none_no_value() -> None:
    right = Graded(right=dict.fromkeys(("acc", "acc_norm", "acc_token"), True))
    assert (measure([right] * 7, "acc").value, measure([right] * 7, "acc").low) == (1.0, None)
    assert measure([right] * 8, "acc").low == pytest.approx(0.676, abs=1e-3)  # Wilson's, 8 of 8
    assert measure([Graded(right=None)], "acc").value is None


def test_models_are_compared_item_by_item() -> None:
    def picks(*right: bool) -> list[Graded]:
        return [Graded(right={"acc": value}) for value in right]

    same = compare_graded(picks(*[True, False] * 20), picks(*[True, False] * 20), "acc", seed=0)
    better = compare_graded(picks(*[True, False] * 20), picks(*[True] * 40), "acc", seed=0)
    assert same is not None
    assert better is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert better.low is not None
    assert better.low > 0.3
    assert compare_graded([Graded(right=None)], picks(True), "acc", seed=0) is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"query": "a", "choices": ["x", "y"], "gold": 2}, "gold=2 is no place in its 2 choices"),
        ({"query": "a", "choices": ["x", "y"], "gold": True}, "gold=True"),
        ({"query": "a", "choices": ["x"], "gold": 0}, "two or more choices"),
        ({"query": "a", "choices": ["x", " "], "gold": 0}, "two or more choices"),
        ({"question": "a", "choices": ["x", "y"], "gold": 0}, "has no query"),
    ],
)
def test_item_that_cannot_be_asked_is_refused_by_number(row: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    fine = {"query": "a", "choices": ["x", "y"], "gold": 0}
    path.write_text(f"{json.dumps(fine)}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=r"t\.jsonl: item 2") as told:
        read_items(path)
    assert words in str(told.value)


def test_recorded_tasks_are_read_whole(recorded: Path) -> None:
    counts = {path.stem: len(read_items(path)) for path in sorted((recorded / "choice").glob("*.jsonl"))}
    assert counts == {"arc_challenge": 1172, "arc_easy": 2376, "openbook_qa": 500, "piqa": 1838, "siqa": 1954}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [
        {"query": f"Question: number {n}?", "choices": ["number it is", "no way"], "gold": n % 2} for n in range(20)
    ]
    path = tmp_path / "numbers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_command_grades_models_and_resumes(task: Path, tmp_path: Path, command: Command) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "fake-model.json").write_text('{"trained": 1}')
    arguments = ("zero-shot", "fake", other, "--task", task, "-o", tmp_path / "out")
    told = command(*arguments, "--json").json()
    assert [(row["task"], row["model"], row["n"]) for row in told["results"]] == [
        ("numbers", "fake", 20),
        ("numbers", str(other), 20),
    ]
    assert told["prompt"]["numbers"] == "Question: number 0?\nAnswer:"
    assert (told["results"][0]["against_first"], told["results"][1]["against_first"]["acc"]["n"]) == (None, 20)
    assert "Wilson" in command(*arguments).out
    assert command(*arguments, "--sample", 9, "--json").json()["results"][0]["n"] == 9


def test_command_refuses_what_it_cannot_grade(task: Path, tmp_path: Path, command: Command) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    failing = tmp_path / "failing.jsonl"
    failing.write_text(json.dumps({"query": "FAIL-ME", "choices": ["a", "b"], "gold": 0}))
    for arguments, status, words in (
        (("fake", "--task", empty), 2, "holds no item"),
        (("fake", "fake", "--task", task), 2, "named twice"),
        (("fake", "--task", task, "--task", task), 2, "same file name"),
        (("fake", "--task", failing), 1, "scripted failure"),
    ):
        ended = command("zero-shot", *arguments, "-o", tmp_path / "out")
        assert (ended.status, words in ended.err) == (status, True), ended.err


@pytest.mark.parametrize(("name", "words"), [("page.md", "files of something else"), ("recipe.yaml", "is a run's own")])
def test_results_are_not_put_among_files_of_something_else(
    name: str, words: str, task: Path, tmp_path: Path, command: Command
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / name).write_text("text")
    ended = command("zero-shot", "fake", "--task", task, "-o", folder)
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert [path.name for path in folder.iterdir()] == [name]
