"""`humpback label` as it is called: statistics, refusals, and that the run audits its signals by what was said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback.cli import main
from humpback.errors import DriftError
from humpback.evaluation.labellog import FILE_NAME
from humpback.labelling.sample import load_population
from humpback.labelling.session import Session
from humpback.labelling.stats import measure, stat_lines

if TYPE_CHECKING:
    from tests.conftest import Lab


def _label(run: Path, labeller: str, count: int, *, wrong: int = 0) -> None:
    """Call curated pairs good and rejected ones bad, but for the first `wrong`."""
    session = Session(load_population(run), labeller, count)
    while session.current is not None:
        good = session.stratum().startswith("curated")
        session.answer(label=(5 if good else 1) if session.labelled >= wrong else (1 if good else 5))


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["humpback", "label", *map(str, arguments)])
    try:
        main()
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


def test_statistics_are_what_the_labels_say(lab: Lab, copy_of_finished: Path) -> None:
    _label(copy_of_finished, "ann", 1000)
    found = measure(load_population(copy_of_finished))
    curated = len(lab.rows(copy_of_finished, "iteration-1/curate", "curated"))
    assert (found["precision"]["value"], found["precision"]["n"]) == (1, curated)
    assert found["precision"]["low"] < 1
    assert found["recall"]["value"] == 1
    assert found["good"]["value"] == pytest.approx(curated / found["candidates"])
    assert sum(row["good"] for row in found["strata"]) == curated


def test_agreement_of_two_labellers_is_told_with_kappa(copy_of_finished: Path) -> None:
    _label(copy_of_finished, "ann", 10)
    _label(copy_of_finished, "bob", 10, wrong=2)
    found = measure(load_population(copy_of_finished))
    (agreement,) = found["agreement"]
    assert (agreement["pairs"], agreement["same"], agreement["graded"]) == (10, 0.8, 10)
    assert agreement["kappa"] == pytest.approx(agreement["kappa_graded"])
    assert 0.4 < agreement["kappa"] < 0.8
    assert found["split"] == 2
    assert any("ann and bob on 10 pairs: 80% the same, kappa 0." in line for line in stat_lines(found))


def test_stats_are_printed_as_words_and_as_json(
    copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(monkeypatch, copy_of_finished, "--stats") == 0
    assert "0 of 20 candidates are labelled" in capsys.readouterr().out
    _label(copy_of_finished, "ann", 2)
    assert _command(monkeypatch, copy_of_finished, "--stats", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 2
    assert _command(monkeypatch, copy_of_finished, "--stats") == 0
    assert "lie in strata without a label" in capsys.readouterr().out, "there are three strata"


def test_without_a_terminal_it_says_what_to_do_instead(
    copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(monkeypatch, copy_of_finished) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "--export" in said
    assert not (copy_of_finished / FILE_NAME).exists()


def test_tasks_are_given_one_at_a_time(
    copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(monkeypatch, copy_of_finished, "--stats", "--export", "a.csv") == 2
    assert "one at a time" in capsys.readouterr().err
    assert _command(monkeypatch, copy_of_finished, "--labeller", " ") == 2


def test_import_tells_what_became_of_each_line(
    copy_of_finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text("id,label\nnone,3\n", encoding="utf-8")
    assert _command(monkeypatch, copy_of_finished, "--import", tmp_path / "bad.csv") == 2
    told = capsys.readouterr()
    assert "1 lines, 0 labels taken, 1 rejected" in told.out
    assert "line 2: no candidate of this run has the id 'none'" in told.out
    assert "no label could be taken" in told.err


# -- the audit -----------------------------------------------------------------------------------------------------------


def test_run_audits_by_labels_when_the_recipe_asks_and_refuses_others_as_stale(
    lab: Lab, copy_of_finished: Path
) -> None:
    run = copy_of_finished
    _label(run, "ann", 1000)
    assert lab.run(run) is False, "labels nobody asked for change nothing"
    with pytest.raises(DriftError, match=r"human is new to (.|\n)*--rerun-from human"):
        lab.run(run, evaluate__labels=True)
    lab.run(run, evaluate__labels=True, rerun_from="human")
    manifest = lab.manifest(run, "human")
    assert (manifest["read"], manifest["kept"]) == (20, 20)
    first, second = manifest["result"]["models"]
    assert (first["model"], second["model"]) == ("M_0", "M_1")
    assert (first["pairs"], first["gone"], first["split"]) == (20, 0, 0)
    aucs = {entry["signal"]: entry["auc"] for entry in first["signals"]}
    signal = lab.manifest(run, "iteration-1/curate")["result"]["signal"]
    assert aucs[signal]["value"] == 1, "good was what that signal kept"
    assert aucs["probe"] is None, "ten held-out pairs teach no probe"
    rows = json.loads((run / "human/human.json").read_bytes())["rows"]
    assert [sum(row["model"] == name for row in rows) for name in ("M_0", "M_1")] == [20, 20]
    audits = json.loads((run / "report/report.json").read_bytes())["audits"]
    assert any(f"{signal} against 20 human labels: AUC 1.00" in note for note in audits[0]["notes"])
    assert f"{signal} against 20 human labels" in (run / "report/report.html").read_text(encoding="utf-8")
    assert lab.run(run, evaluate__labels=True) is False
    Session(load_population(run), "ann", 1000).undo()
    with pytest.raises(DriftError, match=r"stage human(.|\n)*labels\.pairs: 20 -> 19(.|\n)*--rerun-from human"):
        lab.run(run, evaluate__labels=True)


def test_more_labels_make_nothing_anew_that_decides(lab: Lab, copy_of_finished: Path) -> None:
    run = copy_of_finished
    before = {name: data for name, data in lab.listing(run).items() if name.startswith(("iteration-", "control/"))}
    for count in (4, 8):
        _label(run, "ann", count)
        lab.run(run, evaluate__labels=True, rerun_from="human")
        assert lab.manifest(run, "human")["read"] == count
    assert {name: data for name, data in lab.listing(run).items() if name in before} == before
    assert lab.run(run, evaluate__labels=True) is False


def test_run_that_asks_for_labels_and_has_none_says_so(lab: Lab, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", evaluate__labels=True)
    first, second = lab.manifest(tmp_path / "run", "human")["result"]["models"]
    assert first["pairs"] == second["pairs"] == 0
    assert any("no human labels yet" in note for note in first["notes"])
