"""What models wrote, unselected: the first by id, those that were not kept among them, and no text that is markup."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.errors import StorageError
from humpback.report.page import write_report
from humpback.report.results import render_results
from humpback.report.writings import ANSWER_CHARS, first_instructions, read_answers, tell_answers
from humpback.store.rundir import RunDir

if TYPE_CHECKING:
    from tests.conftest import Lab


@pytest.fixture(scope="module")
def answered(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with answers; to be read only."""
    folder = tmp_path_factory.mktemp("answered") / "run"
    lab.run(folder, evaluate__answers=2)
    return folder


def test_the_first_instructions_by_segment_are_shown_whether_kept_or_not(lab: Lab, answered: Path) -> None:
    kept = {row["segment_id"]: row["instruction"] for row in lab.rows(answered, "augment", "candidates")}
    lost = {row["id"]: row["reason"] for row in lab.rows(answered, "augment", "rejected")}
    assert lost
    rows = first_instructions(RunDir(answered), 1000)
    assert [row["segment_id"] for row in rows] == sorted([*kept, *lost])
    assert {row["segment_id"]: row["reason"] for row in rows if row["reason"]} == lost
    assert {row["segment_id"]: row["instruction"] for row in rows if not row["reason"]} == kept
    assert first_instructions(RunDir(answered), 5) == rows[:5]
    report = json.loads((answered / "report" / "report.json").read_bytes())
    assert report["written"] == rows[:20]


def test_page_and_markdown_show_every_instruction_and_answer(answered: Path) -> None:
    report = json.loads((answered / "report" / "report.json").read_bytes())
    text, page = render_results(answered), (answered / "report" / "report.html").read_text()
    assert f"### {len(report['written'])} generated instructions, unselected" in text
    assert "### 2 answers to held-out instructions, with both tags, one and none" in text
    for row in report["written"]:
        assert f"`{row['segment_id']}`" in text
        assert row["segment_id"] in page
    for row in report["answers"]["rows"]:
        for answer in (*row["answers"].values(), {"text": row["response"]}):
            shown = answer["text"][:ANSWER_CHARS].splitlines()
            assert len(shown[0]) > 20
            assert all(f"   {line}".rstrip() in text for line in shown)
        assert row["pair_id"] in page
    tokens = sum(answer["tokens"] for row in report["answers"]["rows"] for answer in row["answers"].values())
    assert tokens > 0
    assert f"at most 256 tokens each, {tokens:,} in all." in text


def test_a_resumed_run_tells_how_long_the_answers_are_and_not_what_the_last_sitting_drew(
    lab: Lab, answered: Path, tmp_path: Path
) -> None:
    shutil.copytree(answered, tmp_path / "run")
    assert lab.run(tmp_path / "run", rerun_from="answers", evaluate__answers=2)
    assert lab.manifest(tmp_path / "run", "answers")["engine"]["tokens_out"] == 0
    told = "at most 256 tokens each, "
    assert render_results(tmp_path / "run").split(told)[1][:10] == render_results(answered).split(told)[1][:10]


def test_the_gate_stands_in_the_markdown_with_its_lift_over_shuffled_text(complete: Path, data: dict[str, Any]) -> None:
    text = render_results(complete)
    assert f"{data['gate']['mean_lift']:.3f} nats per token likelier than a shuffled one" in text
    for row in data["gate"]["measures"]:
        assert f"| {row['name']} | {row['words']} |" in text


def test_a_run_that_asked_for_no_answers_has_no_section_of_them(complete: Path) -> None:
    assert "answers to held-out" not in render_results(complete)
    assert read_answers(RunDir(complete), {}) is None


def test_an_answer_says_that_it_was_cut_or_failed_and_stays_in_its_fence(data: dict[str, Any], tmp_path: Path) -> None:
    evil = "```\n<script>alert(1)</script>"
    ways = {
        "both tags": {"text": evil, "tokens": 5, "finish": "length", "error": None},
        "no tag": {"text": "", "tokens": 0, "finish": "error", "error": "too long a prompt"},
    }
    row = {"pair_id": "p1", "instruction": evil, "response": "So.", "answers": ways}
    answers = {"model": "M_1", "max_tokens": 5, "rows": [row]}
    told = "\n".join(tell_answers(answers))
    assert "both tags (did not end by itself):" in told
    assert "no tag (the engine failed):\n\n   ```text\n   too long a prompt" in told
    assert told.count("````text") == 2
    write_report(tmp_path / "report.html", {**data, "answers": answers})
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "no tag (the engine failed)" in page


def test_answers_that_cannot_be_read_are_told(answered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "manifest.json").write_bytes((answered / "answers" / "manifest.json").read_bytes())
    (folder / "answers.json").write_text("{")
    run_dir = RunDir(tmp_path)
    made = run_dir.manifest("answers")
    assert made is not None
    with pytest.raises(StorageError, match=r"answers\.json cannot be read .*--rerun-from answers"):
        read_answers(run_dir, {"answers": made})
