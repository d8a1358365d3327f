"""A run's statistics: every set has its row, the page and the Markdown hold them, the command gives what the report has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from humpback.report.results import render_results
from humpback.report.settables import set_tables

pytestmark = pytest.mark.usefixtures("complete")


def test_report_has_a_row_for_each_set_as_large_as_its_stage(data: dict[str, Any]) -> None:
    rows = {found["name"]: found["rows"] for found in data["statistics"]["sets"]}
    kept = {stage["name"]: stage["kept"] for stage in data["stages"]}
    assert list(rows) == ["seed", "candidates", "curated, iteration 1", "curated, iteration 2"]
    assert rows["candidates"] == kept["augment"]
    assert rows["curated, iteration 2"] == kept["iteration-2/curate"]
    assert rows["seed"] == kept["seed"] - data["evaluation"]["pairs"]


def test_page_and_markdown_hold_the_tables_and_the_plot(complete: Path, data: dict[str, Any]) -> None:
    page, text = (complete / "report" / "report.html").read_text(), render_results(complete)
    for table in set_tables(data["statistics"]):
        assert table.title in page
        assert table.title in text
        assert all(len(row) == len(table.headers) for row in table.rows)
    assert 'class="verbs"' in page


def test_command_gives_what_the_report_has(command, complete: Path, data: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    assert command("statistics", complete, "--json").json()["sets"] == data["statistics"]["sets"]


def test_run_that_has_only_its_seed_is_described_so_far(command, complete: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("recipe.yaml", "seed"):
        source = complete / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    assert [found["name"] for found in command("statistics", tmp_path, "--json").json()["sets"]] == ["seed"]


def test_run_takes_no_other_data_beside_it(command, complete: Path) -> None:  # type: ignore[no-untyped-def]
    ended = command("statistics", complete, complete / "dataset")
    assert (ended.status, "give it alone" in ended.err) == (2, True)


def test_run_without_a_seed_yet_is_told(command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "recipe.yaml").write_text((Path(__file__).parents[2] / "examples" / "demo.yaml").read_text())
    ended = command("statistics", tmp_path)
    assert (ended.status, "has no seed yet" in ended.err) == (2, True)
