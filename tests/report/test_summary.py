"""The closing tables and the status of a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from humpback.errors import InputError, RecipeError, StorageError
from humpback.pipeline import run
from humpback.progress import Console
from humpback.recipe import Recipe
from humpback.records import Candidate, Rejected, Scored
from humpback.report.status import print_status, stage_states
from humpback.report.summary import pick_examples, print_summary
from humpback.store.rundir import RunDir
from humpback.tasks import ScoreTask

KEYS = [
    "name",
    "iteration",
    "state",
    "read",
    "kept",
    "rejected",
    "failed",
    "seconds",
    "rows_per_second",
    "engine",
    "tokens_per_second",
    "replies",
]


def _keys(stage: str) -> list[str]:
    return [*KEYS, "gate"] if stage == "backward/gate" else KEYS


@pytest.fixture(scope="session")
def half(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was stopped in the third of the four shards of iteration-1/score."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    real, shards = ScoreTask.__call__, [0]

    def interrupted(self: ScoreTask, records: Sequence[Candidate]) -> Iterator[Scored | Rejected]:
        shards[0] += 1
        if shards[0] == 3:
            raise KeyboardInterrupt
        return real(self, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreTask, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder, console=Console(quiet=True))
    return folder


def _status(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    print_status(folder, as_json=True)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_status_json_has_exactly_the_promised_keys(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = _status(complete, capsys)
    assert list(status) == ["run", "stages", "engine"]
    assert status["run"] == str(complete)
    assert all(sorted(stage) == sorted(_keys(stage["name"])) for stage in status["stages"])
    assert {stage["state"] for stage in status["stages"]} == {"done"}
    assert [stage["name"] for stage in status["stages"]][:3] == ["seed", "ingest", "dedup"]
    for stage in status["stages"]:
        assert stage["read"] == stage["kept"] + sum(stage["rejected"].values()) + sum(stage["failed"].values())


def test_status_of_a_stopped_run_counts_finished_shards(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {stage["name"]: stage for stage in _status(half, capsys)["stages"]}
    assert all(sorted(stage) == sorted(_keys(name)) for name, stage in stages.items())
    assert stages["iteration-0/audit"]["state"] == "done"
    started = stages["iteration-1/score"]
    assert (started["state"], started["iteration"], started["read"], started["kept"]) == ("started", 1, 16, 16)
    assert started["rejected"] == {}
    assert started["seconds"] > 0
    # a rating, two for each lift, whose answers ifd takes, two for the probe
    assert started["engine"]["requests"] == 16 * 7
    waiting = stages["iteration-1/curate"]
    assert waiting["state"] == "waiting"
    assert (waiting["rejected"], waiting["failed"]) == ({}, {})
    assert all(waiting[key] is None for key in KEYS[3:] if key not in ("rejected", "failed", "replies"))


def test_status_survives_a_cut_sitting_and_an_unfinished_stream_stage(half: Path, tmp_path: Path) -> None:
    copy = _copy(half, tmp_path)
    with (copy / "iteration-1" / "score" / "sittings.jsonl").open("a") as file:
        file.write('{"shard": 2, "sec')
    (copy / "iteration-0" / "mix" / "manifest.json").unlink()
    stages = {stage["name"]: stage for stage in stage_states(copy)}
    assert stages["iteration-1/score"]["read"] == 16
    assert stages["iteration-0/mix"]["state"] == "started"
    assert stages["iteration-0/mix"]["read"] is None


def test_status_table_shows_states_and_reasons(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_status(half, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:4] == ["iteration-1/score", "started", "16", "16"] for line in lines)
    assert any(line.split()[:4] == ["report", "waiting", "-", "-"] for line in lines)
    assert any(line.split()[:2] == ["iteration-1/score", "112"] for line in lines)  # what its engines were asked
    assert any(line.split()[0] == "together" for line in lines if line.split())
    assert max(map(len, lines)) <= 120
    assert lines[-1] == "10 of 26 stages are done"


def test_status_does_not_need_the_lock(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDir(complete):
        assert _status(complete, capsys)["stages"]


def test_status_of_a_run_without_a_recipe_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDir(tmp_path / "new"):
        print_status(tmp_path / "new", as_json=False)
        assert "nothing has started" in " ".join(capsys.readouterr().out.split())
        status = _status(tmp_path / "new", capsys)
        assert (status["run"], status["stages"]) == (str(tmp_path / "new"), [])
        assert set(status["engine"].values()) == {0}


def test_folder_that_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no run folder.*recipe\.yaml"):
        print_status(tmp_path, as_json=True)
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        print_status(tmp_path / "nowhere", as_json=False)
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        print_summary(tmp_path / "nowhere")


def test_damaged_files_of_a_run_are_named(half: Path, tmp_path: Path) -> None:
    copy = _copy(half, tmp_path)
    with pytest.raises(InputError, match=r"holds no report.*humpback status"):
        print_summary(copy)
    (copy / "report").mkdir()
    (copy / "report" / "report.json").write_text('{"run":')
    with pytest.raises(StorageError, match=r"report\.json is damaged.*--rerun-from report"):
        print_summary(copy)
    (copy / "iteration-1" / "score" / "scored-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"scored-00000\.parquet is damaged"):
        print_status(copy, as_json=True)
    (copy / "recipe.yaml").write_text("model: [")
    with pytest.raises(RecipeError, match=r"not valid YAML"):
        print_status(copy, as_json=True)


def _copy(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "copy"))


def test_summary_shows_every_table_five_pairs_and_the_paths(
    complete: Path, data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(complete)
    out = capsys.readouterr().out
    flat = " ".join(out.split())
    for title in ("Funnel: read = kept", "Audit: AUC", "NLL per token of 26 held-out pairs", "Did it work?"):
        assert title in flat
    assert all(" ".join(line.split()) in flat for line in data["verdict"])
    assert flat.count("Instruction: ") == 5
    for row in pick_examples(data["best"], 5):
        assert row["id"] in out
        assert row["instruction"] in flat
    value = data["evaluation"]["response_nll"]["both tags"]["models"][2]
    assert f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})" in out
    for path in ("report/report.html", "dataset", "iteration-2/finetune/model", "control/finetune/model"):
        assert f" {complete / path}\n" in out


def test_summary_is_plain_text_of_bounded_width_when_piped(
    complete: Path, data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert any("\x1b" in row["response"] for row in data["best"] + data["rejected"])
    print_summary(complete)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert max(len(line) for line in out.splitlines() if str(complete) not in line and ".jsonl" not in line) <= 120


def test_text_that_looks_like_rich_markup_is_printed_as_it_is(
    complete: Path, data: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data["best"][0].update(instruction="[bold]What?[/bold] [/red]", response="\x1b]0;title\x07[link=x]y\nsecond line")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(json.dumps(data))
    print_summary(tmp_path)
    out = capsys.readouterr().out
    assert "[bold]What?[/bold] [/red]" in out
    assert "]0;title[link=x]y\nsecond line" in out


def test_summary_prints_on_an_ascii_terminal(complete: Path) -> None:
    code = "import sys, pathlib, humpback.report.summary as s; s.print_summary(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(complete)],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.isascii()


def test_examples_come_from_different_documents_while_there_are_any() -> None:
    rows = [{"id": str(i), "source_uri": uri} for i, uri in enumerate("aaaaaabbac")]
    assert [row["id"] for row in pick_examples(rows, 5)] == ["0", "6", "9", "1", "7"]
    assert [row["id"] for row in pick_examples(rows[:3], 5)] == ["0", "1", "2"]
