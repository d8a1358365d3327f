"""Held-out likelihood by source, and agreement with human preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.benchmarking.heldout import (
    Preference,
    by_instruction,
    prefer_by_judge,
    prefer_by_likelihood,
    read_heldout,
    read_preferences,
)
from humpback.benchmarking.judging import PAIR_RUBRIC
from humpback.engines.base import Loglikelihood
from humpback.engines.fake import FakeEngine, fake_model
from humpback.errors import InputError
from humpback.evaluation.likelihood import Likelihoods, compare
from humpback.prompts import Continuation, Prompt, Prompts

if TYPE_CHECKING:
    from tests.conftest import Command


class ByWord(FakeEngine):
    """Expects texts that begin with GOOD, at one nat less a token."""

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        return [
            Loglikelihood(
                logprob=-len(c.token_ids) * (1.0 if c.text.startswith("GOOD") else 2.0), tokens=len(c.token_ids)
            )
            if "BROKEN" not in c.text
            else Loglikelihood(logprob=0.0, tokens=0, error="broken")
            for c in continuations
        ]


def _prompts(engine: FakeEngine) -> Prompts:
    return Prompts(engine.tokenizer, max_tokens=8000, instruction_tokens=0, rubric=PAIR_RUBRIC)


def _lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def _pair(n: int, **more: object) -> dict[str, object]:
    return {"instruction": f"Tell about {n}.", "response": f"This is about number {n}, as asked.", **more}


def test_whole_and_per_token_likelihood_differ_for_long_answers() -> None:
    engine = ByWord(fake_model(None))
    long_good = Preference(instruction="Q", outputs=("BAD", "GOOD " * 9), better=1)
    broken = Preference(instruction="Q", outputs=("GOOD", "BROKEN"), better=0)
    found = prefer_by_likelihood([long_good, broken], engine, _prompts(engine), "")
    assert found == {"likelihood": [0.0, None], "likelihood_per_token": [1.0, None]}


def test_equal_outputs_are_half_right() -> None:
    engine = FakeEngine(fake_model(None))
    same = Preference(instruction="Q", outputs=("An answer.", "An answer."), better=0)
    assert prefer_by_likelihood([same], engine, _prompts(engine), "")["likelihood"] == [0.5]
    assert prefer_by_judge([same], engine, _prompts(engine)) == [0.5]


def test_judge_sees_the_label_in_no_place() -> None:
    engine = FakeEngine(fake_model(None))
    asked: list[str] = []
    choose = engine.choice_logprobs

    def listen(prompts: Sequence[Prompt], *rest: object) -> object:
        asked.extend(prompt.user for prompt in prompts)
        return choose(prompts, *rest)  # type: ignore[arg-type]

    engine.choice_logprobs = listen  # type: ignore[method-assign,assignment]
    prefer_by_judge([Preference(instruction="Q", outputs=("one.", "two."), better=1)], engine, _prompts(engine))
    assert [text.index("one.") < text.index("two.") for text in asked] == [False, True]


def test_pair_with_a_context_is_left_out_and_counted(tmp_path: Path) -> None:
    held = read_heldout([_lines(tmp_path / "p.jsonl", [_pair(1), _pair(2, context="a page")])])
    assert (len(held.pairs), held.with_context) == (1, 1)


def test_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(_pair(0)) + '\n\n{"instruction": "cut\n')
    with pytest.raises(InputError, match=r"pairs\.jsonl:3 is not JSON: .* \(column 17\); write one object per line"):
        read_heldout([path])


def test_line_separator_in_a_text_ends_no_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(_pair(0, response="one\u2028two"), ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert [pair.response for pair in read_heldout([path]).pairs] == ["one\u2028two"]


def test_source_is_the_column_or_the_file(tmp_path: Path) -> None:
    held = read_heldout([_lines(tmp_path / "dolly.jsonl", [_pair(1), _pair(2, source="oasst")])])
    assert sorted(held.sources.values()) == ["dolly", "oasst"]


def test_files_of_one_name_are_two_sources(tmp_path: Path) -> None:
    paths = [tmp_path / "ann" / "pairs.jsonl", tmp_path / "bob" / "pairs.jsonl", tmp_path / "bob" / "other.jsonl"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        _lines(path, [_pair(number)])
    assert sorted(read_heldout(paths).sources.values()) == ["ann/pairs", "bob/pairs", "other"]


def test_files_that_differ_in_their_endings_alone_are_two_sources(tmp_path: Path) -> None:
    paths = [_lines(tmp_path / "pairs.jsonl", [_pair(1)]), tmp_path / "pairs.json"]
    paths[1].write_text(json.dumps([_pair(2)]), encoding="utf-8")
    assert sorted(read_heldout(paths).sources.values()) == sorted(map(str, paths))


def test_several_responses_to_one_instruction_count_as_one_in_the_interval() -> None:
    once = Likelihoods(
        pair_ids=tuple(f"p{n}" for n in range(10)),
        nats=tuple(float(10 + n) for n in range(10)),
        tokens=tuple(10 for _ in range(10)),
        errors=tuple(None for _ in range(10)),
    )
    # the same again three times tells nothing new
    often = Likelihoods(
        pair_ids=tuple(f"{pair_id}-{copy}" for copy in range(4) for pair_id in once.pair_ids),
        nats=once.nats * 4,
        tokens=once.tokens * 4,
        errors=once.errors * 4,
    )
    instructions = {pair_id: pair_id.split("-")[0] for pair_id in often.pair_ids}
    rows = [
        compare({"m": values}, random_seed=1, resamples=200, confidence=0.95)["models"][0]
        for values in (once, by_instruction(often, instructions))
    ]
    assert rows[0] == pytest.approx(rows[1])
    assert rows[1]["n"] == 10


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no held-out pair"),
        ([_pair(1, context="x")], "1 have a context"),
        ([_pair(1), _pair(1)], "given more than once"),
        ([{"instruction": "a", "output": "b"}], "pair 1 has no text as instruction and response"),
        ([{"instruction": "a", "response": " "}], "pair 1 has no text"),
    ],
)
def test_hold_out_that_cannot_be_measured_is_refused(rows: list[object], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_heldout([_lines(tmp_path / "p.jsonl", rows)])


@pytest.mark.parametrize("label", [0, 3, None, True, "1"])
def test_preference_without_a_usable_label_is_refused(label: object, tmp_path: Path) -> None:
    row = {"input": "q", "output_1": "a", "output_2": "b", "label": label}
    with pytest.raises(InputError, match="preference 1: label="):
        read_preferences(_lines(tmp_path / "p.jsonl", [row]))


def test_recorded_preferences_are_read_whole(recorded: Path) -> None:
    found = read_preferences(recorded / "judging" / "llmbar-natural.json")
    assert (len(found), sum(p.better == 0 for p in found)) == (100, 42)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "fake-model.json").write_text('{"trained": 1}')
    return folder


def test_command_compares_models_by_source(other: Path, tmp_path: Path, command: Command) -> None:
    many = _lines(tmp_path / "many.jsonl", [_pair(n) for n in range(20)])
    few = _lines(tmp_path / "few.jsonl", [_pair(n) for n in range(20, 23)])
    arguments = ("held-out", "fake", other, "--pairs", many, "--pairs", few, "-o", tmp_path / "out")
    told = command(*arguments, "--json").json()["likelihood"]
    for kind in ("response", "instruction"):
        assert {name: found["models"][0]["n"] for name, found in told[kind].items()} == {
            "all": 23,
            "few": 3,
            "many": 20,
        }
        (difference,) = told[kind]["all"]["differences"]
        assert (difference["model"], difference["against"]) == (str(other), "fake")
        assert difference["low"] < difference["value"] < difference["high"]
        assert told[kind]["few"]["differences"][0]["low"] is None
    assert "too few instructions for an interval" in command(*arguments).out


def test_source_called_all_does_not_take_the_place_of_all_sources(tmp_path: Path, command: Command) -> None:
    rows = [_pair(n, source="all" if n < 9 else "others") for n in range(20)]
    told = command(
        *("held-out", "fake", "--pairs", _lines(tmp_path / "p.jsonl", rows), "-o", tmp_path / "out", "--json")
    ).json()["likelihood"]["response"]
    assert {name: found["models"][0]["n"] for name, found in told.items()} == {"all": 20, "source all": 9, "others": 11}


def test_command_counts_instructions_that_differ_in_writing_alone_once(tmp_path: Path, command: Command) -> None:
    rows = [
        {**_pair(n), "instruction": f"{'TELL' if twice else 'Tell'}  about {n}."} for twice in (0, 1) for n in range(9)
    ]
    for number, row in enumerate(rows):
        row["response"] = f"Answer {number}."
    told = command(
        *("held-out", "fake", "--pairs", _lines(tmp_path / "p.jsonl", rows), "-o", tmp_path / "out", "--json")
    ).json()["likelihood"]
    assert (told["pairs"], told["instructions"], told["response"]["all"]["models"][0]["n"]) == (18, 9, 9)


def test_pair_that_one_model_cannot_answer_counts_for_none(other: Path, tmp_path: Path, command: Command) -> None:
    rows = [_pair(n) for n in range(9)] + [{"instruction": "FAIL-ME", "response": "x"}]
    told = command(
        *("held-out", "fake", other, "--pairs", _lines(tmp_path / "p.jsonl", rows), "-o", tmp_path / "out", "--json")
    ).json()["likelihood"]
    assert (told["pairs"], told["failed"], told["response"]["all"]["models"][1]["n"]) == (10, 1, 9)


def test_command_measures_preferences(recorded: Path, tmp_path: Path, command: Command) -> None:
    arguments = ("held-out", "fake", "--preferences", recorded / "judging" / "llmbar-natural.json")
    told = command(*arguments, "-o", tmp_path / "out", "--max-tokens", 20000, "--json").json()["preference"]
    assert told["n"] == 100
    assert set(told["models"]["fake"]) == {"likelihood", "likelihood_per_token", "judge"}
    assert all(found["failed"] == 0 and 0 <= found["value"] <= 100 for found in told["models"]["fake"].values())


def test_preferences_about_one_instruction_are_drawn_together(tmp_path: Path, command: Command) -> None:
    def told(name: str, groups: int) -> Any:
        rows = [
            {"input": f"Q {n % groups}?", "output_1": "so " * (2 + n % 2), "output_2": "so " * (3 - n % 2), "label": 1}
            for n in range(80)
        ]
        ended = command(
            "held-out", "fake", "--preferences", _lines(tmp_path / name, rows), "-o", tmp_path / "out", "--json"
        )
        return ended.json()["preference"]

    apart, together = told("apart.jsonl", 80), told("together.jsonl", 20)
    assert (apart["instructions"], together["instructions"]) == (80, 20)
    one, four = (found["models"]["fake"]["likelihood"] for found in (apart, together))
    assert (one["value"], one["n"], one["normal_low"] is None) == (four["value"], four["n"], False)
    assert four["high"] - four["low"] > 1.5 * (one["high"] - one["low"])
    assert four["reason"] == "20 instructions are too few for a normal interval; 30 are needed"


def test_command_refuses_nothing_to_do_and_pairs_that_all_fail(tmp_path: Path, command: Command) -> None:
    failing = _lines(tmp_path / "f.jsonl", [{"instruction": "FAIL-ME", "response": "x"}])
    for arguments, status, words in (
        (("fake",), 2, "nothing to measure"),
        (("fake", "fake", "--pairs", failing), 2, "named twice"),
        (("fake", "--pairs", failing), 1, "scripted failure"),
    ):
        ended = command("held-out", *arguments, "-o", tmp_path / "out")
        assert (ended.status, words in ended.err) == (status, True), ended.err
