"""`humpback reliability`: the same pairs rated by several models, their agreement, and people's."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.benchmarking import models
from humpback.benchmarking.ratedpairs import read_items
from humpback.benchmarking.reliability_command import expand_models
from humpback.engines.base import ChoiceLogprobs
from humpback.engines.fake import FakeEngine
from humpback.errors import InputError
from humpback.prompts import Choice, Prompt

if TYPE_CHECKING:
    from tests.conftest import Command


def _lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def _pair(n: int, **more: object) -> dict[str, object]:
    end = "." if n % 2 else " and"  # the scripted engine rates low what does not end
    return {"instruction": f"Tell about {n}.", "response": f"This is about number {n}, as asked{end}", **more}


def _other_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "fake-model.json").write_text(json.dumps({"fake": folder.name}), encoding="utf-8")
    return folder


def _measure(command: Command, tmp_path: Path, *arguments: object) -> Any:
    return command("reliability", *arguments, "-o", tmp_path / "out", "--json").json()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratings that are written in the response: `A4` is what the base says, `B2` the other model, `C1` one called third."""

    def choose(
        self: FakeEngine, prompts: Sequence[Prompt], choices: Sequence[Choice], *rest: object
    ) -> list[ChoiceLogprobs]:
        mark = "A" if self.model.path == "fake" else "C" if self.model.path.endswith("third") else "B"
        found = []
        for prompt in prompts:
            said = prompt.user.rpartition("Text:\n")[2].partition(mark)[2][:1]
            if said == "?":
                found.append(ChoiceLogprobs(logprobs=(-9.0,) * 5, mass=0.001))
                continue
            logprobs = tuple(math.log(0.96 if str(score) == said else 0.01) for score in range(1, 6))
            found.append(ChoiceLogprobs(logprobs=logprobs, mass=1.0))
        return found

    monkeypatch.setattr(FakeEngine, "choice_logprobs", choose)


def test_models_are_described_and_compared_by_hand_made_ratings(
    scripted: None, tmp_path: Path, command: Command
) -> None:
    said = [(1, 1), (2, 2), (3, 4), (4, 4), (5, 5), (1, 2), (2, 1), (3, 3), (4, 5), (5, 5), (5, "?")]
    rows = [{"instruction": f"Q {n}", "response": f"A{a} B{b}"} for n, (a, b) in enumerate(said)]
    other = _other_model(tmp_path / "other")
    told = _measure(command, tmp_path, "fake", other, "--pairs", _lines(tmp_path / "p.jsonl", rows))
    first, second = told["models"]
    assert first["levels"] == {"1": 2, "2": 2, "3": 2, "4": 2, "5": 3}
    assert (second["rated"], second["missing"]) == (10, {"unparsed": 1})
    (between,) = told["between"]
    assert between["weighted_kappa"]["n"] == 10
    assert between["kappa"]["value"] < between["weighted_kappa"]["value"]
    assert between["weighted_kappa"]["low"] < between["weighted_kappa"]["value"]
    assert told["icc"]["agreement"]["n"] == 10
    assert 0.8 < told["icc"]["agreement"]["value"] < 1
    assert all(value is None for key, value in told["human"][0].items() if key != "model")


def test_agreement_with_human_scores(scripted: None, tmp_path: Path, command: Command) -> None:
    rows = [{"instruction": f"Q {n}", "response": f"A{n % 5 + 1}", "label": n % 5 + 1} for n in range(20)]
    told = _measure(command, tmp_path, "fake", "--pairs", _lines(tmp_path / "p.jsonl", rows))
    (human,) = told["human"]
    assert human["weighted_kappa"]["value"] == human["spearman"]["value"] == human["auc"]["value"] == 1
    assert told["icc"] is None
    assert told["between"] == []


def test_responses_to_one_instruction_are_drawn_together(tmp_path: Path) -> None:
    rows = [
        {**_pair(n), "instruction": ("Tell about it.", "TELL  about it", "Tell about her.")[n % 3]} for n in range(9)
    ]
    items = read_items(_lines(tmp_path / "p.jsonl", rows), sample=None, seed=0).items
    assert [item.group for item in items] == [0, 0, 1] * 3
    rows = [{"input": f"Q {n % 2}", "output_1": f"A {n}", "output_2": f"B {n}", "label": 2} for n in range(4)]
    items = read_items(_lines(tmp_path / "p.jsonl", rows), sample=None, seed=0).items
    assert [item.group for item in items] == [0, 0, 1, 1] * 2


def test_preferences_about_one_instruction_are_each_counted(scripted: None, tmp_path: Path, command: Command) -> None:
    rows = [{"input": "Q", "output_1": f"A5 {n}", "output_2": f"A{1 + n % 5} {n}", "label": 1} for n in range(10)]
    told = _measure(command, tmp_path, "fake", "--pairs", _lines(tmp_path / "p.jsonl", rows))
    assert (told["pairs"]["items"], told["pairs"]["instructions"]) == (20, 1)
    found = told["human"][0]["preference"]
    assert (found["value"], found["n"], found["ties"]) == (90.0, 10, 2)
    assert (found["low"], found["reason"][:25]) == (None, "1 instruction is too few ")


def test_rows_of_one_instruction_say_no_more_together_than_one(
    scripted: None, tmp_path: Path, command: Command
) -> None:
    def width(name: str, groups: int) -> float:
        rows = [
            {
                "instruction": f"Q {n % groups}",
                "response": f"A{1 + (3 * (n % 12 % 2) + n % 12 % 5) % 5} {n}",
                "good": n % 12 % 2 == 0,
            }
            for n in range(96)
        ]
        judged = _measure(command, tmp_path, "fake", "--pairs", _lines(tmp_path / f"{name}.jsonl", rows))
        found = judged["human"][0]["auc"]
        return float(found["high"] - found["low"])

    assert width("few", 24) > 1.5 * width("many", 96)


def test_a_model_without_ratings_is_left_out_of_the_icc_by_name(
    scripted: None, tmp_path: Path, command: Command
) -> None:
    rows = [{"instruction": f"Q {n}", "response": f"A{n % 5 + 1} B? C{n % 5 + 1}"} for n in range(12)]
    silent, third = (_other_model(tmp_path / name) for name in ("silent", "third"))
    pairs = _lines(tmp_path / "p.jsonl", rows)
    icc = _measure(command, tmp_path, "fake", silent, third, "--pairs", pairs)["icc"]
    assert (icc["models"], icc["left_out"]) == (2, [str(silent)])
    assert (icc["agreement"]["value"], icc["agreement"]["n"]) == (pytest.approx(1), 12)
    alone = _measure(command, tmp_path, "fake", silent, "--pairs", pairs)["icc"]
    assert alone["agreement"]["reason"] == "1 of 2 models rated two items or more; 2 are the least"
    shown = " ".join(
        command("reliability", "fake", silent, third, "--pairs", pairs, "-o", tmp_path / "out").out.split()
    )
    assert f"2 models (left out, as they rated fewer than two items: {silent})" in shown


@pytest.mark.parametrize(
    ("said", "reason"), [("A3", "people call all 9 rated pairs good"), ("A?", "no pair that people")]
)
def test_labels_that_say_one_thing_are_labels(
    said: str, reason: str, scripted: None, tmp_path: Path, command: Command
) -> None:
    rows = [{"instruction": f"Q {n}", "response": f"{said} B{n % 5 + 1}", "good": True} for n in range(9)]
    arguments = ("fake", _other_model(tmp_path / "other"), "--pairs", _lines(tmp_path / "p.jsonl", rows))
    told = _measure(command, tmp_path, *arguments)
    assert reason in told["human"][0]["auc"]["reason"]
    shown = " ".join(command("reliability", *arguments, "-o", tmp_path / "out").out.split())
    assert reason in shown
    assert "no human labels" not in shown


def test_preference_counts_ties_and_outputs_without_a_rating(scripted: None, tmp_path: Path, command: Command) -> None:
    outputs = [("A5", "A1"), ("A1", "A5"), ("A3", "A3"), ("A?", "A2")] * 3
    rows = [
        {"input": f"Q {n}", "output_1": f"{one} {n}", "output_2": f"{two} {n}", "label": 1}
        for n, (one, two) in enumerate(outputs)
    ]
    told = _measure(command, tmp_path, "fake", "--pairs", _lines(tmp_path / "p.jsonl", rows))
    assert (told["pairs"]["items"], told["pairs"]["instructions"]) == (24, 12)
    found = told["human"][0]["preference"]
    assert (found["value"], found["n"], found["ties"], found["failed"]) == (50.0, 9, 3, 3)


def test_few_pairs_have_no_interval(scripted: None, tmp_path: Path, command: Command) -> None:
    rows = [{"instruction": f"Q {n}", "response": f"A{n + 1} B{n + 1}", "label": n + 1} for n in range(4)]
    other = _other_model(tmp_path / "other")
    pairs = _lines(tmp_path / "p.jsonl", rows)
    told = _measure(command, tmp_path, "fake", other, "--pairs", pairs)
    (between,) = told["between"]
    assert (between["weighted_kappa"]["value"], between["weighted_kappa"]["low"]) == (1, None)
    assert "4 items are too few" in between["weighted_kappa"]["reason"]
    shown = " ".join(command("reliability", "fake", other, "--pairs", pairs, "-o", tmp_path / "out").out.split())
    assert "no interval: 4 items are too few" in shown
    assert "ICC(2,1), absolute agreement of 2 models: 1.00, no interval" in shown


def test_table_of_few_pairs_is_whole_and_says_once_why_it_has_no_interval(
    scripted: None, tmp_path: Path, command: Command
) -> None:
    pairs = _lines(tmp_path / "p.jsonl", [_pair(n, response=f"A{1 + n % 5} B{1 + n % 4}") for n in range(5)])
    other = _other_model(tmp_path / "other")
    shown = command("reliability", "fake", other, "--pairs", pairs, "-o", tmp_path / "out").out
    table = shown.partition("How far models agree")[2].partition("ICC")[0]
    assert "fake" in table
    assert table.count("5 items are too few for an interval; 8 are needed") == 1


def test_same_command_asks_nothing_again(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("fake", "--pairs", _lines(tmp_path / "p.jsonl", [_pair(n) for n in range(12)]))
    first = _measure(command, tmp_path, *arguments)
    monkeypatch.setattr(FakeEngine, "choice_logprobs", None)  # whoever asks fails
    assert _measure(command, tmp_path, *arguments) == first


def test_replies_can_be_read_in_place_of_probabilities(tmp_path: Path, command: Command) -> None:
    pairs = _lines(tmp_path / "p.jsonl", [_pair(n) for n in range(12)])
    told = _measure(command, tmp_path, "fake", "--pairs", pairs, "--samples", 2, "--max-tokens", 8000)
    assert told["way"] == "mean of 2 replies"
    assert _measure(command, tmp_path, "fake", "--pairs", pairs, "--samples", 1, "--max-tokens", 8000)["way"].endswith(
        "1 reply"
    )
    assert told["models"][0]["rated"] == 12
    assert told["models"][0]["label_mass"] is None


def test_run_stands_for_all_its_models_and_its_labels_are_the_pairs(
    copy_of_finished: Path, tmp_path: Path, command: Command
) -> None:
    run = copy_of_finished
    assert command("label", run, "--export", tmp_path / "sheet.jsonl", "--labeller", "ann").status == 0
    rows = [json.loads(line) for line in (tmp_path / "sheet.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["label"] = number % 5 + 1
    assert command("label", run, "--import", _lines(tmp_path / "sheet.jsonl", rows)).status == 0
    arguments = ("--max-tokens", 8000)
    told = _measure(command, tmp_path, run, "--pairs", run, *arguments)
    assert [Path(row["model"]).parts[-3] for row in told["models"]] == ["iteration-0", "iteration-1"]
    assert told["pairs"]["kind"] == "labels of a run"
    assert told["human"][0]["weighted_kappa"]["n"] == len(rows)
    assert told["human"][0]["auc"]["n"] == len(rows)
    sheet = _measure(command, tmp_path, run, "--pairs", tmp_path / "sheet.jsonl", *arguments)
    assert sheet["human"][0]["weighted_kappa"]["value"] == pytest.approx(told["human"][0]["weighted_kappa"]["value"])


def test_models_of_a_run_are_shown_by_their_names(finished: Path, tmp_path: Path, command: Command) -> None:
    pairs = _lines(tmp_path / "p.jsonl", [_pair(n) for n in range(9)])
    arguments = ("--pairs", pairs, "--max-tokens", 8000, "-o", tmp_path / "out")
    told = command("reliability", finished, "fake", *arguments).out
    assert f"M_0 of {finished.name}" in told
    assert str(finished) not in told
    other = tmp_path / finished.name  # a run of the same name: whole paths tell them apart
    shutil.copytree(finished, other)
    assert "M_0 of" not in command("reliability", finished, other, *arguments).out


def test_several_labels_of_one_pair_are_one_item(tmp_path: Path) -> None:
    rows = [_pair(1, label=5), _pair(1, label=4), _pair(2, label=4), _pair(2, label=1), _pair(3, good=True), _pair(4)]
    found = read_items(_lines(tmp_path / "p.jsonl", [*rows, _pair(5, context="a page")]), sample=None, seed=0)
    assert [(item.label, item.good) for item in found.items] == [(4.5, True), (2.5, None), (None, True), (None, None)]
    assert found.left_out == {"context": 1}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "Q"}, "row 1 has neither a text of instruction and response"),
        (_pair(1, label=6), "label=6 is no whole number of 1 to 5"),
        (_pair(1, label=2.5), "label=2.5 is no whole number"),
        (_pair(1, good="perhaps"), "good=perhaps is neither true nor false"),
        (_pair(1, context="a page"), "1 have a context"),
    ],
)
def test_unusable_row_is_named(tmp_path: Path, row: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_items(_lines(tmp_path / "p.jsonl", [row]), sample=None, seed=0)


def test_command_refuses_what_says_nothing(finished: Path, tmp_path: Path, command: Command) -> None:
    pairs = _lines(tmp_path / "p.jsonl", [_pair(1)])
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(finished / "recipe.yaml", empty)
    for arguments, status, words in (
        (("fake", "fake", "--pairs", pairs), 2, "is named twice"),
        ((empty, "--pairs", pairs), 2, "has no model M_0 yet"),
        (("fake", "--pairs", finished), 2, "holds no human label"),
        (("fake", "--pairs", pairs, "--sample", 2), 2, "more than the 1"),
        (("fake", "--pairs", pairs, "--max-tokens", 64), 1, "no model gave a rating"),
        (("fake", "--pairs", pairs, "--rubric", tmp_path / "none.txt"), 2, "cannot be read"),
    ):
        ended = command("reliability", *arguments, "-o", tmp_path / "out")
        assert (ended.status, words in ended.err) == (status, True), ended.err


def test_folder_that_is_no_run_is_named_so(tmp_path: Path, command: Command) -> None:
    (tmp_path / "documents").mkdir()
    ended = command("reliability", "fake", "--pairs", tmp_path / "documents", "-o", tmp_path / "out")
    assert (ended.status, "documents is no run folder" in ended.err) == (2, True), ended.err


def test_run_and_a_model_of_it_name_that_model_twice(finished: Path) -> None:
    with pytest.raises(InputError, match="is named twice"):
        expand_models([str(finished), str(finished / "iteration-1" / "finetune" / "model")])


def test_models_are_opened_one_at_a_time(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []
    most = []
    plain = models.open_engine

    def open_one(*arguments: Any) -> Any:
        engine = plain(*arguments)
        held.append(engine.model.path)
        most.append(len(held))
        close = engine.close
        monkeypatch.setattr(engine, "close", lambda: (held.pop(), close()))
        return engine

    monkeypatch.setattr(models, "open_engine", open_one)
    other = _other_model(tmp_path / "other")
    _measure(command, tmp_path, "fake", other, "--pairs", _lines(tmp_path / "p.jsonl", [_pair(n) for n in range(4)]))
    assert (max(most), held) == (1, [])
