"""Decontamination: what shares 13 words with an evaluation set, or holds or is one of its texts, is told with the words."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from humpback.corpus.overlap import Overlap, set_files
from humpback.errors import InputError
from humpback.recipe import EvaluationSet

DATA = Path(__file__).parents[2] / "../shared/data"
LONG = "A planet turns faster after a meteorite has struck it; which effect on days and years is the most likely one?"
MIDDLE = "Why do leaves turn red in the autumn months?"  # nine words
SHORT = "Name a river."


def write(path: Path, records: Any) -> EvaluationSet:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return EvaluationSet(path=str(path))


@pytest.fixture
def overlap(tmp_path: Path) -> Overlap:
    records = [{"query": LONG, "choices": [{"text": MIDDLE}, SHORT]}, {"query": "", "choices": None, "gold": 3}]
    return Overlap.load([write(tmp_path / "set.jsonl", records)])


def filler(words: int) -> str:
    draw = random.Random(0)
    return " ".join(f"w{draw.randint(0, 9999)}" for _ in range(words))


def test_thirteen_shared_words_are_found_anywhere_and_told(overlap: Overlap) -> None:
    words = LONG.split()
    found = overlap.find(f"{filler(50)} {' '.join(words[3:16]).upper()}! {filler(50)}")
    assert found is not None
    assert found.startswith("shares 13 words with ")
    assert 'set.jsonl: "faster after a meteorite has struck it which effect on days and years"' in found
    assert overlap.find(f"{filler(50)} {' '.join(words[3:15])} {filler(50)}") is None


def test_a_short_text_of_eight_words_or_more_is_found_whole_within_another(overlap: Overlap) -> None:
    found = overlap.find(f"{filler(5)}\n\n**why do leaves turn red in the autumn months**\n\n{filler(5)}")
    assert found is not None
    assert found.startswith("shares 9 words with ")
    assert overlap.find("Why do leaves turn red in the autumn month of October?") is None
    assert overlap.find("Why do leaves turn red in the autumn") is None


def test_a_very_short_text_is_found_only_as_a_whole_instruction(overlap: Overlap) -> None:
    assert overlap.find(SHORT) is None
    assert overlap.find_instruction(f"{SHORT} Then another.") is None
    found = overlap.find_instruction("name a RIVER")
    assert found is not None
    assert found.startswith("is a text of ")
    assert found.endswith('set.jsonl: "name a river"')


def test_an_instruction_is_found_by_its_words_as_a_text_is(overlap: Overlap) -> None:
    assert overlap.find_instruction(f"Please tell me: {LONG}") is not None
    assert overlap.find_instruction("Name a mountain.") is None


def test_empty_text_is_clean(overlap: Overlap) -> None:
    assert overlap.find("") is None
    assert overlap.find_instruction("") is None


def test_the_set_that_has_the_words_is_named(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"text": LONG}])
    other = write(tmp_path / "other.jsonl", [{"text": filler(20)}, {"text": LONG}])
    both = Overlap.load([one, other])
    assert "one.jsonl" in (both.find(LONG) or "")
    assert "other.jsonl" in (both.find(filler(15)) or "")


def test_named_columns_alone_are_protected(tmp_path: Path) -> None:
    given = write(tmp_path / "set.jsonl", [{"question": LONG, "source": filler(20)}])
    overlap = Overlap.load([given.model_copy(update={"columns": ["question"]})])
    assert overlap.find(LONG)
    assert overlap.find(filler(20)) is None


@pytest.mark.parametrize("name", ["set.json", "set.json.gz", "set.jsonl.gz", "set.jsonl"])
def test_lists_and_lines_and_compressed_files_are_read(tmp_path: Path, name: str) -> None:
    records = [{"text": LONG}, {"text": MIDDLE}]
    text = (
        json.dumps(records, indent=1)
        if ".json" in name and "jsonl" not in name
        else "\n".join(map(json.dumps, records))
    )
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    overlap = Overlap.load([EvaluationSet(path=str(tmp_path / name))])
    assert overlap.find(LONG)
    assert overlap.find(MIDDLE)


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (None, [], r"is not there; correct corpus\.decontaminate\.path"),
        (b'{"a": "b"}\n', ["x"], r"has no column x; set corpus\.decontaminate\.columns to some of: a;"),
        (b'["b"]', ["x"], "its records are no objects"),
        (b'{"a": 1}\n', [], "holds no text to protect"),
        (b"", [], "holds no text to protect"),
        (b'{"a": "b"}\n{"a": \n', [], r":2 is not JSON: .*; write one object per line"),
        (b'{"a": "\xff"}\n', [], "is not UTF-8 at byte 8"),
        (gzip.compress(b'{"a": "b"}\n', mtime=0)[:-4], [], "is damaged: .*; fetch or compress it again"),
    ],
)
def test_a_set_that_cannot_be_used_is_an_error_with_the_fix(
    tmp_path: Path, content: bytes | None, columns: list[str], message: str
) -> None:
    path = tmp_path / "set.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Overlap.load([EvaluationSet(path=str(path), columns=columns)])


def test_a_folder_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: .*; give a file"):
        Overlap.load([EvaluationSet(path=str(tmp_path))])


def test_no_sets_find_nothing() -> None:
    assert Overlap.load([]).find(LONG) is None


def test_the_sets_go_to_another_process_whole(overlap: Overlap) -> None:
    assert pickle.loads(pickle.dumps(overlap)).find(LONG) == overlap.find(LONG)


def test_files_of_the_sets_are_told(tmp_path: Path) -> None:
    assert set_files([EvaluationSet(path=str(tmp_path / "a")), EvaluationSet(path="b")]) == [tmp_path / "a", Path("b")]


def test_every_text_of_a_large_set_is_found_and_random_text_is_not(tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = [" ".join(f"v{draw.randint(0, 10**6)}" for _ in range(draw.randint(8, 40))) for _ in range(2000)]
    overlap = Overlap.load([write(tmp_path / "set.jsonl", [{"text": text} for text in texts])])
    assert all(overlap.find(f"before {text} after") for text in texts)
    assert not any(overlap.find(" ".join(f"u{draw.randint(0, 10**6)}" for _ in range(300))) for _ in range(500))


def test_dolly_instructions_that_are_alpaca_eval_prompts_are_found() -> None:
    prompts, dolly = DATA / "evaluation/alpaca_eval/eval_set_805.json", DATA / "seeds/dolly.jsonl.gz"
    if not (prompts.exists() and dolly.exists()):
        pytest.skip("the evaluation sets are not beside the project (../shared/data)")
    overlap = Overlap.load([EvaluationSet(path=str(prompts), columns=["instruction"])])
    with gzip.open(dolly) as file:
        found = [row["id"] for row in map(json.loads, file) if overlap.find_instruction(row["instruction"])]
    assert found == [204, 1304, 2041, 2338, 4072, 10065, 11804, 11911, 14708]
