"""Verdicts: hand-made cases, properties that no text may break, hostile text, and the texts of a real judge."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.evaluation.verdict_values import WORDS, plain
from humpback.evaluation.verdicts import Scale, read_verdict

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "verdict_cases.jsonl").read_text("utf-8").splitlines()
]
RECORDED = Path(__file__).parents[3] / "shared/data/evaluation/judging/prometheus-mt-bench.json.gz"
DOLLY = Path(__file__).parents[3] / "shared/data/seeds/dolly.jsonl.gz"

PIECES = (
    "Score: |Score |Rating|[RESULT] |**|`|\n|\r\n|4|5|10|3.5|/5|/10| out of | of |five|four |a |I give it |deserves |would need|if "
    '|, | - |-|–|to |(1-5)|<|>|\\boxed{|}|[[|]]|+ | = |N/A|%|4th|４|٤|²|. |The text|: |"|\u200b|\u00a0|is |not |between '
).split("|")
replies = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
finishes = st.sampled_from(["stop", "length"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['why']}")
def test_case(case: dict[str, Any]) -> None:
    verdict = read_verdict(case["reply"], finish=case.get("finish", "stop"), judged=case.get("judged", ""))
    assert (verdict.value, verdict.kind) == (case["value"], case["kind"])


def test_there_are_two_hundred_cases_of_every_kind() -> None:
    kinds = Counter(case["kind"] for case in CASES)
    assert len({(c["reply"], c.get("finish"), c.get("judged")) for c in CASES}) == len(CASES) >= 200
    assert set(kinds) == {"parsed", "truncated", "unparsed", "out_of_range"}
    assert min(kinds.values()) >= 9


def test_verdict_names_its_line_and_its_place() -> None:
    reply = "Clear and short.\n**Score: 4/5** (good)\nBye"
    verdict = read_verdict(reply)
    assert verdict.line == "**Score: 4/5** (good)"
    assert verdict.span is not None
    assert reply[slice(*verdict.span)] == "Score: 4/5"
    assert len(read_verdict("Score: 4 because " + "x" * 1000).line) == 200


@pytest.mark.parametrize(
    ("reply", "value", "kind"),
    [
        ("Score: 8/10", 8.0, "parsed"),
        ("Score: 10", 10.0, "parsed"),
        ("Score: 4/5", None, "out_of_range"),
        ("Score: 0", 0.0, "parsed"),
        ("Score: 0-10", None, "unparsed"),
        ("Score: 1-5", None, "unparsed"),
        ("Score (1-10): 7", 7.0, "parsed"),
        ("Score: 11", None, "out_of_range"),
    ],
)
def test_scale_is_the_callers(reply: str, value: float | None, kind: str) -> None:
    verdict = read_verdict(reply, scale=Scale(low=0, high=10))
    assert (verdict.value, verdict.kind) == (value, kind)


# -- properties ----------------------------------------------------------------------------------------------------------


@given(replies, finishes, replies)
def test_no_value_is_outside_the_scale(reply: str, finish: Literal["stop", "length"], judged: str) -> None:
    verdict = read_verdict(reply, finish=finish, judged=judged)
    assert (verdict.value is not None) == (verdict.kind == "parsed")
    assert verdict.value is None or 1 <= verdict.value <= 5
    assert verdict.span is None or 0 <= verdict.span[0] < verdict.span[1] <= len(reply)


@given(replies, finishes)
def test_no_value_comes_from_a_text_without_a_number(reply: str, finish: Literal["stop", "length"]) -> None:
    bare = "".join(char for char in reply if unicodedata.decimal(char, None) is None)
    bare = re.sub("|".join(WORDS), "", bare, flags=re.IGNORECASE)
    verdict = read_verdict(bare, finish=finish)
    assert verdict.value is None or any(word in plain(bare).lower() for word in WORDS)


@given(replies)
def test_appended_verdict_is_the_verdict(reply: str) -> None:
    assert read_verdict(reply + "\nScore: 3").value == 3
    assert read_verdict(reply + "\nScore: 3", finish="length").kind == "truncated"
    assert read_verdict(reply + "\nScore: 3\n", finish="length").value == 3


@given(replies)
def test_cut_reply_never_says_more_than_the_whole_one(reply: str) -> None:
    cut, whole = read_verdict(reply, finish="length"), read_verdict(reply)
    assert cut.kind == "truncated" or cut == whole


@given(st.text(st.characters()))
def test_plain_keeps_every_place(text: str) -> None:
    assert len(plain(text)) == len(text)


# -- hostile text --------------------------------------------------------------------------------------------------------

HOSTILE = {
    "labels": "Score: ",
    "labels on lines": "Score:\n",
    "labels with numbers": "Score 4 ",
    "stars": "*",
    "brackets": "[",
    "nested markup": "**_`[<b>",
    "boxes": "\\boxed{",
    "remarks": "Score (",
    "fillers": "score of a ",
    "sums": "1 + ",
    "digits": "9",
    "other digits": "４",
    "space": " ",
    "lines": "\n",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
def test_megabyte_of_hostile_text_ends(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert read_verdict(text, judged=text).value is None
    assert read_verdict(f"Score: 4\n{text}\nScore: 2").value == 2


# -- a real judge --------------------------------------------------------------------------------------------------------


def _recorded() -> list[tuple[str, str, int]]:
    """Return (text, judged response, recorded score) of every recorded judgement."""
    if not RECORDED.exists():
        pytest.skip(f"{RECORDED} is absent: the recorded texts of a judge are not part of this repository")
    found = []
    for row in json.loads(gzip.decompress(RECORDED.read_bytes())):
        judged = row["instruction"].partition("###Response to evaluate:")[2].partition("###Reference Answer")[0]
        found += [(text, judged, score) for text, score in zip(row["gpt4_feedback"], row["gpt4_score"], strict=True)]
    return found


def test_recorded_texts_give_a_verdict_only_where_they_hold_one() -> None:
    # the score was cut off the recorded texts, and stayed in four of 960; the others speak of criteria, films and errors
    found = [(read_verdict(text, judged=judged), score) for text, judged, score in _recorded()]
    assert len(found) == 960
    stated = [(verdict.value, score) for verdict, score in found if verdict.kind != "unparsed"]
    assert stated == [(1, 1), (4, 4), (2, 2), (4, 4)]


@pytest.mark.parametrize("form", ["{} [RESULT] {}", "{}\n\nScore: {}", "{}\n**Score: {}/5**", "{}\nRating: {}.0"])
def test_recorded_texts_with_their_score_put_back_give_that_score(form: str) -> None:
    for text, judged, score in _recorded():
        assert read_verdict(form.format(text, score), judged=judged).value == score, text


def test_human_answers_are_hardly_ever_taken_for_verdicts() -> None:
    if not DOLLY.exists():
        pytest.skip(f"{DOLLY} is absent: texts that people wrote are not part of this repository")
    texts = [json.loads(line)["response"] for line in gzip.decompress(DOLLY.read_bytes()).splitlines()[:4000]]
    found = [text for text in texts if len(text) > 100 and read_verdict(text).kind != "unparsed"]
    assert len(found) <= 1, found
