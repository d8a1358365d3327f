"""`humpback statistics`: a run's sets and files of pairs, as tables and JSON; wrong input is one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def _pairs(path: Path, count: int, word: str = "river") -> Path:
    rows = [{"instruction": f"Write a {word} number {n}.", "response": "It is long enough. " * 3} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_are_described_and_compared_with_seed_and_evaluation_set(command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data, seed = _pairs(tmp_path / "data.jsonl", 30), _pairs(tmp_path / "seed.jsonl", 25)
    with data.open("a") as file:
        file.write('{"instruction": "no answer"}\n')
    told = command("statistics", data, "--seed", seed, "--evaluation", seed, "--json").json()
    assert [row["name"] for row in told["sets"]] == ["seed", "data.jsonl"]
    assert [(one["with"], one["rows"]) for one in told["sets"][1]["overlap"]] == [("seed", 25), ("evaluation sets", 25)]
    assert told["left_out"]["data.jsonl"] == {"no_response": 1}
    shown = command("statistics", data, "--seed", seed)
    assert shown.status == 0
    assert "Sets of pairs" in shown.out
    assert "left out: no_response 1" in shown.out


def test_a_data_set_called_seed_is_not_taken_for_the_seed(command, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "seed"
    folder.mkdir()
    with _pairs(folder / "some.jsonl", 30).open("a") as file:
        file.write('{"instruction": "no answer"}\n')
    own = _pairs(tmp_path / "own.jsonl", 25, "lake")
    monkeypatch.chdir(tmp_path)
    told = command("statistics", "seed", "--seed", own, "--json").json()
    assert [(row["name"], row["rows"]) for row in told["sets"]] == [("seed", 25), (str(folder), 30)]
    assert told["left_out"] == {"seed": {}, str(folder): {"no_response": 1}}
    same = command("statistics", own, "--seed", "seed", "--json").json()
    assert [row["name"] for row in same["sets"]] == ["seed", "own.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone.jsonl"], "does not exist"),
        (["data.jsonl", "data.jsonl"], "given twice"),
        (["data.jsonl", "--seed", "7"], "or --random-seed for the number"),
        (["data.jsonl", "--evaluation", "gone.json"], "gone.json is not there"),
        (["data.jsonl", "--instruction", "question", "--response", "answer"], "instruction, response"),
    ],
)
def test_wrong_input_is_one_message(command, tmp_path: Path, monkeypatch, arguments: list[str], told: str) -> None:  # type: ignore[no-untyped-def]
    _pairs(tmp_path / "data.jsonl", 10)
    monkeypatch.chdir(tmp_path)
    ended = command("statistics", *arguments)
    assert ended.status == 2
    assert told in ended.err
