"""What is asked: the rule on 50 instructions read by hand, and the turns of phrase it was made for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from humpback.evaluation.rootverbs import ACCURACY, Asked, find_asked
from humpback.records import content_id

SEEDS = Path(__file__).parents[3] / "shared" / "data" / "seeds"
FILES = {
    "dolly": "dolly.jsonl.gz",
    "oasst": "oasst1-derived.jsonl.gz",
    "self-instruct": "self-instruct-seed-tasks.jsonl",
}


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the instructions are those of ../shared/data/seeds")
def test_rule_is_as_right_as_it_says_on_instructions_read_by_hand() -> None:
    gold = [json.loads(line) for line in (Path(__file__).parent / "root_verbs.jsonl").read_text().splitlines()]
    wanted, texts = {row["id"] for row in gold if "id" in row}, dict[str, str]()
    for name in FILES.values():
        data = (SEEDS / name).read_bytes()
        for line in (gzip.decompress(data) if name.endswith(".gz") else data).splitlines():
            text = json.loads(line)["instruction"]
            if (key := content_id(text)) in wanted:
                texts[key] = text
    found = [find_asked(row.get("instruction") or texts[row["id"]]) for row in gold]
    verbs = [one[:2] == (row["kind"], row["verb"]) for one, row in zip(found, gold, strict=True)]
    pairs = [
        one == (row["kind"], row["verb"], row["object"])
        for one, row in zip(found, gold, strict=True)
        if row["kind"] == "order"
    ]
    told = f"the verb or question word in {sum(verbs)} of {len(verbs)}, "
    told += f"verb and object together in {sum(pairs)} of {len(pairs)} orders"
    assert told == ACCURACY


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Write a short love story about two robots.", ("order", "write", "story")),
        ("Please give me a list of the best romantic comedies", ("order", "give", "list")),
        ("Can you explain the water cycle?", ("order", "explain", "cycle")),
        ("Using the facts given, summarise the article.", ("order", "summarize", "article")),
        ("Explain how to use integers in Python.", ("order", "explain", "")),
        ("Tell me whether these are movies or books.", ("order", "tell", "")),
        ("What is the capital of China?", ("question", "what", "")),
        ("In which year did the war end?", ("question", "which", "")),
        ("Does the snail live in the ocean?", ("question", "yes/no", "")),
        ("Which of these is a film?\n- Order of the Phoenix\n- Goblet", ("question", "which", "")),
        ("The rising of bread.", ("neither", "", "")),
        ("", ("neither", "", "")),
        ("?!", ("neither", "", "")),
    ],
)
def test_turn_of_phrase_is_understood(text: str, asked: tuple[str, str, str]) -> None:
    assert find_asked(text) == asked


def test_pasted_document_is_not_read_beyond_the_limit() -> None:
    assert find_asked("The bridge is old. " * 200 + "Write a poem.") == Asked("neither")
