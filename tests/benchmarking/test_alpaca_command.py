"""`humpback alpaca-eval`: equal to the published leaderboards, and clear about what it cannot use."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Command

BOARDS = {
    "prefs_v1_alpaca_eval_gpt4.csv.gz": ("alpaca_eval_gpt4_leaderboard.csv", 33),
    "prefs_v2_weighted_gpt4_turbo.csv.gz": ("weighted_alpaca_eval_gpt4_turbo_leaderboard.csv", 27),
}
SIX = ("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total")


def _annotation(prompt: str, preference: object, output: str = "mine", **more: object) -> dict[str, object]:
    told = {"instruction": prompt, "output_1": "theirs", "generator_1": "base", "output_2": output, "generator_2": "m"}
    return {**told, "preference": preference, **more}


def _write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("table", BOARDS)
def test_six_figures_equal_the_leaderboard_for_every_model(table: str, recorded: Path, command: Command) -> None:
    place = recorded / "alpaca_eval"
    board, count = BOARDS[table]
    told = command(
        *("alpaca-eval", "--annotations", place / table, "--compare", place / "leaderboards" / board, "--json")
    ).json()
    assert len(told["compared"]) == count
    for model, row in told["compared"].items():
        # the table has ten digits of each preference, the leaderboard fourteen of their mean
        assert {name: row[name] for name in SIX} == pytest.approx(dict.fromkeys(SIX, 0), abs=1e-9), model
    assert sum(abs(row["avg_length"]) <= 1 for row in told["compared"].values()) >= count - 1


def test_length_controlled_win_rates_are_within_a_point_of_the_leaderboards(recorded: Path, command: Command) -> None:
    place = recorded / "alpaca_eval"
    hard = place / "prefs_v2_weighted_gpt4_turbo.csv.gz"
    for table, (board, _) in BOARDS.items():
        told = command(
            *("alpaca-eval", "--annotations", place / table, "--difficulty-from", hard),
            *("--compare", place / "leaderboards" / board, "--json"),
        ).json()
        off = [
            abs(row["length_controlled_winrate"])
            for row in told["compared"].values()
            if "length_controlled_winrate" in row
        ]
        assert len(off) >= 27
        assert sum(value <= 1 for value in off) >= 0.9 * len(off), table


def test_annotations_with_outputs_equal_the_leaderboard(recorded: Path, command: Command) -> None:
    place = recorded / "alpaca_eval"
    told = command(
        *("alpaca-eval", "--annotations", place / "annotations" / "vicuna-13b.alpaca_eval_gpt4.json.gz"),
        *("--outputs", place / "model_outputs" / "vicuna-13b.json.gz", "--json"),
        *("--compare", place / "leaderboards" / "alpaca_eval_gpt4_leaderboard.csv"),
        *("--difficulty-from", place / "prefs_v2_weighted_gpt4_turbo.csv.gz", "--prompts", place / "eval_set_805.json"),
    ).json()
    row = told["compared"]["vicuna-13b"]
    assert {name: value for name, value in row.items() if name != "length_controlled_winrate"} == pytest.approx(
        dict.fromkeys((*SIX, "avg_length", "discrete_win_rate"), 0), abs=1e-9
    )
    assert abs(row["length_controlled_winrate"]) < 1


def test_missing_verdict_is_neither_win_nor_loss_and_zero_is_a_tie(tmp_path: Path, command: Command) -> None:
    rows = [_annotation("a", 2), _annotation("b", 0), _annotation("c", None), _annotation("d", 1.0)]
    told = command("alpaca-eval", "--annotations", _write(tmp_path / "a.json", rows), "--json").json()
    (row,) = told["models"]
    assert (row["n_wins"], row["n_draws"], row["n_wins_base"], row["n_total"], row["n_unjudged"]) == (1, 1, 1, 3, 1)
    assert row["win_rate"] == 50


def test_one_model_gets_no_length_controlled_rate_but_the_reason(tmp_path: Path, command: Command) -> None:
    file = _write(tmp_path / "a.json", [_annotation("a", 2), _annotation("b", 1)])
    told = command("alpaca-eval", "--annotations", file, "--json").json()
    assert told["models"][0]["length_controlled_winrate"] is None
    assert "5 models" in told["length_control"]["reason"]
    assert "no length-controlled win rate" in command("alpaca-eval", "--annotations", file).out


def test_one_comparison_has_no_standard_error(tmp_path: Path, command: Command) -> None:
    file = _write(tmp_path / "a.json", [_annotation("a", 2)])
    assert command("alpaca-eval", "--annotations", file, "--json").json()["models"][0]["standard_error"] is None


@pytest.mark.parametrize(("count", "warned"), [(7, True), (8, False)])
def test_few_prompts_are_told_beside_their_standard_error(
    count: int, warned: bool, tmp_path: Path, command: Command
) -> None:
    file = _write(tmp_path / "a.json", [_annotation(f"prompt {n}", 2) for n in range(count)])
    told = command("alpaca-eval", "--annotations", file).out
    assert ("fewer than 8 prompts say nothing" in told) is warned


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([_annotation("a", 2), _annotation("a", 1)], ("more than once", "'a'")),
        ([_annotation("a", 7)], ("annotation 1", "preference '7'")),
        ([_annotation("a", "NaN")], ("preference 'NaN'",)),
        ([_annotation("a", True)], ("preference 'True'",)),
        ([_annotation("a", [2])], ("preference '[2]'",)),
        ([_annotation("a", None)], ("none has a verdict",)),
        ([{"instruction": "a"}], ("no text 'output_1'",)),
        ([3], ("entry 1", "no JSON object")),
        ([], ("holds no annotation",)),
        ([_annotation("a", 2), _annotation("b", 2, generator_1="other")], ("2 baselines", "base, other")),
    ],
)
def test_wrong_annotations_are_refused_by_name(
    rows: object, words: tuple[str, ...], tmp_path: Path, command: Command
) -> None:
    ended = command("alpaca-eval", "--annotations", _write(tmp_path / "a.json", rows))
    assert ended.status == 2
    for word in words:
        assert word in ended.err


def test_outputs_of_other_prompts_or_models_are_refused(tmp_path: Path, command: Command) -> None:
    file = _write(tmp_path / "a.json", [_annotation("a", 2), _annotation("b", 2)])
    other = _write(tmp_path / "o.json", [{"instruction": "a", "output": "x", "generator": "other"}])
    assert "no annotation is about" in command("alpaca-eval", "--annotations", file, "--outputs", other).err
    part = _write(tmp_path / "p.json", [{"instruction": "a", "output": "x", "generator": "m"}])
    assert "1 of 2 annotated prompts" in command("alpaca-eval", "--annotations", file, "--outputs", part).err


def test_outputs_are_not_joined_by_their_place_to_numbered_prompts(tmp_path: Path, command: Command) -> None:
    file = _write(tmp_path / "a.json", [_annotation("0", 2), _annotation("1", 2)])
    texts = [{"instruction": text, "output": "x" * size, "generator": "m"} for text, size in (("b", 9), ("a", 5))]
    outputs = _write(tmp_path / "o.json", texts)
    assert (
        "give the evaluation set as --prompts"
        in command("alpaca-eval", "--annotations", file, "--outputs", outputs).err
    )
    ids = _write(tmp_path / "set.json", [{"instruction": "a", "id": 0}, {"instruction": "b", "id": 1}])
    told = command("alpaca-eval", "--annotations", file, "--outputs", outputs, "--prompts", ids, "--json").json()
    assert told["models"][0]["avg_length"] == 7


def test_lengths_come_from_the_outputs_file(tmp_path: Path, command: Command) -> None:
    file = _write(tmp_path / "a.json", [_annotation("a", 2)])
    outputs = _write(tmp_path / "o.json", [{"instruction": "a", "output": "x" * 77, "generator": "m"}])
    told = command("alpaca-eval", "--annotations", file, "--outputs", outputs, "--json").json()
    assert told["models"][0]["avg_length"] == 77


@pytest.mark.parametrize("text", ["", "model,preference\nm,2\n", "[1, 2", "\x00"])
def test_file_of_another_kind_is_refused(text: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "a.json").write_text(text)
    ended = command("alpaca-eval", "--annotations", tmp_path / "a.json")
    assert (ended.status, "a.json" in ended.err) == (2, True)


def test_written_leaderboard_is_read_back_equal(tmp_path: Path, command: Command) -> None:
    file = _write(tmp_path / "a.json", [_annotation("a", 2), _annotation("b", 1)])
    board = tmp_path / "board.csv"
    assert command("alpaca-eval", "--annotations", file, "--leaderboard", board).status == 0
    assert next(csv.reader(board.read_text().splitlines()))[:2] == ["", "win_rate"]
    told = command("alpaca-eval", "--annotations", file, "--compare", board, "--json").json()
    assert set(told["compared"]["m"].values()) == {0}
