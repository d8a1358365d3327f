"""The Markdown section of docs/results.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from humpback.report import figures
from humpback.report.results import render_results


def _render(data: dict[str, Any], folder: Path) -> str:
    (folder / "report").mkdir()
    (folder / "report" / "report.json").write_text(json.dumps(data))
    return render_results(folder)


def test_results_hold_the_figures_of_the_json(complete: Path, data: dict[str, Any]) -> None:
    text = render_results(complete)
    assert text.startswith("# Results\n\nWritten by `humpback results RUN -o docs/results.md` (`make results`)")
    assert "[log.md](log.md)" in text.split("\n## ")[0]
    assert "\n\n## Run `whole`\n" in text
    for row in data["funnel"]:
        assert f"| {row['name']} | {row['read']:,} | {row['kept']:,} | {sum(row['rejected'].values()):,} |" in text
    for audit in data["audits"]:
        for entry in audit["signals"]:
            row = entry["auc"]["mismatch_random"]
            cell = f"{figures.auc(row['value'])} ({figures.interval(row, figures.auc)})"
            assert f"| {audit['model']} | {entry['signal']} | {cell} |" in text.replace("\\", "")
    for table in [*data["evaluation"]["response_nll"].values(), data["evaluation"]["instruction_nll"]]:
        for row in table["differences"]:
            cell = f"{figures.difference(row['value'])} ({figures.interval(row, figures.difference)})"
            assert f"| {row['model']} - {row['against']} | {cell} | {figures.judgement(row)} |" in text
    for row in data["training"]:
        steps = f"taken from {row['same_as']}" if row["same_as"] else f"{row['steps']:,}"
        assert f"| {row['stage']} | {row['examples']:,} | {steps} |" in text
    for row in data["best"] + data["rejected"]:
        assert f"`{row['id']}`" in text


def test_every_table_row_has_as_many_cells_as_its_header(complete: Path) -> None:
    width = 0
    for line in re.sub(r"```.*?```", "", render_results(complete), flags=re.S).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells == width or not (cells and width)
        width = cells


def test_text_cannot_leave_its_fence(data: dict[str, Any], tmp_path: Path) -> None:
    evil = "```\n# Heading\n<script>alert(1)</script>\n````"
    data["best"][0].update(instruction="What?", response=evil, source_uri="a`b|c")
    data["rejected"][0].update(detail="<b>|`x`")
    text = _render(data, tmp_path)
    fenced = re.findall(r"^ *(`{3,})text\n(.*?)\n *\1$", text, flags=re.S | re.M)
    assert len(fenced) == len(data["best"]) + len(data["rejected"]) + len(data["written"])
    assert "<script>" in fenced[0][1]
    assert "<script>" not in re.sub(r"^ *(`{3,})text\n.*?\n *\1$", "", text, flags=re.S | re.M)
    assert r"\<b\>\|\`x\`" in text


def test_long_texts_are_shortened_at_a_word(data: dict[str, Any], tmp_path: Path) -> None:
    data["best"][0].update(instruction="word " * 200, response="other " * 500)
    text = _render(data, tmp_path)
    assert "word ...\n" in text
    assert "other ...\n" in text
    assert "word " * 100 not in text


def test_scripted_run_is_named_and_a_real_one_is_not(data: dict[str, Any], tmp_path: Path) -> None:
    data["recipe"]["model"]["base"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "scripted" not in _render(data, tmp_path)


def test_headline_reads_the_control_the_right_way_round(data: dict[str, Any]) -> None:
    table = data["evaluation"]["response_nll"]["both tags"]["differences"]
    row = next(d for d in table if (d["model"], d["against"]) == ("control", "M_2"))
    row.update(value=0.02, low=0.01, high=0.03)
    assert any(line.startswith("Curation helped: the control") for line in figures.headline(data))
    row.update(value=-0.02, low=-0.03, high=-0.01)
    assert any(line.startswith("Curation did harm: the control") for line in figures.headline(data))
    row.update(low=None, high=None)
    assert any(line.startswith("Whether curation helped") for line in figures.headline(data))
    table.remove(row)
    assert len(figures.headline(data)) == 2


@pytest.mark.parametrize(
    ("models", "low", "high", "start"),
    [
        (("M_2", "M_0"), -0.004, 0.02, "The curated pairs brought M_2 no gain worth having over M_0"),
        (("M_2", "M_0"), -0.006, 0.002, "Whether the curated pairs helped"),
        (("control", "M_2"), -0.02, 0.004, "Curation brought M_2 no gain worth having over the control"),
        (("control", "M_2"), -0.002, 0.006, "Whether curation helped"),
    ],
)
def test_headline_says_what_the_signs_of_failure_say_of_a_stall(
    data: dict[str, Any], models: tuple[str, str], low: float, high: float, start: str
) -> None:
    table = data["evaluation"]["response_nll"]["both tags"]["differences"]
    row = next(d for d in table if (d["model"], d["against"]) == models)
    row.update(value=0.0, low=low, high=high)
    (line,) = [line for line in figures.headline(data) if line.startswith(start)]
    assert ("0.005 nats per token is ruled out" in line) == ("no gain" in line)


def test_figures_are_rounded_without_claiming_more() -> None:
    assert [figures.auc(v) for v in (0.997, 1, 0.994, 0.001, None)] == ["0.997", "1.00", "0.99", "0.001", "-"]
    assert [figures.difference(v) for v in (0.00319, -0.00004, -0.0025)] == ["+0.0032", "0.0000", "-0.0025"]
    assert [figures.duration(v) for v in (0.01, 0.21, 42.4, 59.7, 3725)] == [
        "<0.1 s",
        "0.2 s",
        "42 s",
        "1:00",
        "1:02:05",
    ]
    assert figures.reasons({"a": 2, "b": 1200}) == "b 1,200, a 2"
    assert figures.clean("a\x1b[31m\r\nb\tc\u202e\ud800\x00") == "a[31m\nb    c"


def test_control_characters_between_backticks_do_not_end_a_fence(data: dict[str, Any], tmp_path: Path) -> None:
    evil = "before\n``\x00`\n# Heading\n<script>alert(1)</script>"
    data["best"][0].update(instruction="What?", response=evil)
    text = _render(data, tmp_path)
    assert "   ```\n   # Heading" in text
    assert "<script>" not in re.sub(r"^ *(`{3,})text\n.*?\n *\1$", "", text, flags=re.S | re.M)


def test_a_model_taken_from_an_earlier_iteration_shows_no_steps_and_no_time(
    data: dict[str, Any], tmp_path: Path
) -> None:
    row = next(row for row in data["training"] if row["stage"] == "iteration-2/finetune")
    row.update(same_as="iteration-1", seconds=4242.0)
    text = _render(data, tmp_path)
    (line,) = (line for line in text.splitlines() if line.startswith("| iteration-2/finetune |") and "taken" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "taken from iteration-1"
    assert cells[-1] == ""


def test_the_environment_is_shown_whatever_it_holds(data: dict[str, Any], tmp_path: Path) -> None:
    data["environment"] = {
        "cpu": "Some | CPU",
        "commit": None,
        "packages": {"torch": "2.13.0", "trl": "1.0"},
        "gpus": [],
    }
    text = _render(data, tmp_path)
    assert r"| cpu | Some \| CPU |" in text
    assert "| commit | - |" in text
    assert "| packages | torch 2.13.0, trl 1.0 |" in text
