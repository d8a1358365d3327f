"""A whole run with enough held-out pairs for P(good): what the audit learns reaches the scores, the curation and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from humpback.errors import GateError
from humpback.evaluation.corruptions import KINDS
from humpback.evaluation.judge import load_judge
from humpback.pipeline import run
from humpback.progress import Console
from humpback.recipe import Recipe
from humpback.records import Rejected, Scored
from humpback.report.page import write_report
from humpback.store.rundir import RunDir
from humpback.store.shards import read_records, shard_files


def _result(run_folder: Path, stage: str) -> dict[str, Any]:
    manifest = RunDir(run_folder).manifest(stage)
    assert manifest is not None
    return dict(manifest.result)


def _scored(run_folder: Path, t: int) -> list[Scored]:
    return list(read_records(shard_files(run_folder / f"iteration-{t}/score", "scored"), Scored))


def test_every_model_has_a_judge_of_its_own(complete: Path) -> None:
    judges = [(complete / f"iteration-{t}/audit/judge.npz").read_bytes() for t in range(3)]
    models = [_result(complete, f"iteration-{t}/finetune")["content_hash"] for t in range(3)]
    assert len(set(models)) > 1
    assert len(set(judges)) == len(set(models))  # refitted for each M_t; a model that was taken over is the same one
    judge = load_judge(complete / "iteration-0/audit/judge.npz")
    assert judge.probe is not None
    assert {"probe", "forward_lift", "rating"} <= set(judge.calibration.columns)


def test_candidates_are_scored_by_the_judge_of_the_model_that_scores(complete: Path) -> None:
    judge = load_judge(complete / "iteration-0/audit/judge.npz")
    rows = _scored(complete, 1)
    assert rows
    for row in rows:
        assert "probe" in row.scores
        assert {f"probe_{kind}" for kind in KINDS if kind in judge.calibration.columns} <= set(row.scores)
        assert judge.calibration.p_good([row.scores]) == [pytest.approx(row.scores["p_good"])]


def test_no_pair_of_the_audit_is_both_learnt_from_and_judged_on(complete: Path) -> None:
    rows = json.loads((complete / "iteration-0/audit/audit.json").read_bytes())["rows"]
    fold_of: dict[str, set[int]] = {}
    for row in rows:
        fold_of.setdefault(row["pair_id"], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in fold_of.values())
    assert len({fold for folds in fold_of.values() for fold in folds}) >= 3


def test_audit_holds_every_kind_its_calibration_and_its_costs(complete: Path) -> None:
    audit = _result(complete, "iteration-0/audit")
    assert set(audit["calibration"]["unseen"]) <= set(KINDS)
    assert len(audit["calibration"]["points"]) == 5
    assert set(audit["cost"]) == {"rating", "backward_lift", "forward_lift", "ifd", "probe"}
    assert {"length", "words", "p_good"} <= {entry["signal"] for entry in audit["signals"]}


def test_scores_say_what_they_are_worth_beside_the_audit_and_the_model_before(complete: Path) -> None:
    first, second = (_result(complete, f"iteration-{t}/score") for t in (1, 2))
    assert first["agreement"] == {}
    assert -1 <= second["agreement"]["p_good"]["kappa"] <= 1
    assert first["scores"]["shift"]["auc"] is not None
    assert first["scores"]["candidates"] == len(_scored(complete, 1))
    changed = _result(complete, "iteration-2/curate")["changed"]
    assert changed["stayed"] + changed["joined"] == len(
        list(read_records(shard_files(complete / "iteration-2/curate", "curated"), Scored))
    )


def test_report_tells_of_collapse_shift_and_agreement(tmp_path: Path, data: dict[str, Any]) -> None:
    data["curation"][0]["scores"]["entropy"]["rating"] = {"bits": 0.1, "collapsed": True, "n": 5}
    write_report(tmp_path / "report.html", data)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Collapsed scores" in html
    assert "Agreement with the model before" in html
    assert "classifier tells candidates from audit pairs" in html.replace("\n", " ")
    assert "expected calibration error" in html


def test_precision_out_of_reach_stops_the_run_and_another_policy_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    asked = {**recipe.model_dump(mode="json"), "iterations": 1}
    asked["curate"] |= {"policy": "precision", "precision": 0.999}
    with pytest.raises(
        GateError, match=r"curate\.precision=0\.999 cannot be promised .* best that can be promised is 0\.\d\d"
    ):
        run(Recipe.model_validate(asked), tmp_path / "run", console=Console(quiet=True))
    assert RunDir(tmp_path / "run").state("iteration-1/curate") == "refused"
    asked["curate"] |= {"policy": "diverse", "max_per_source": 1, "top": 5}
    run(Recipe.model_validate(asked), tmp_path / "run", console=Console(quiet=True))
    folder = tmp_path / "run/iteration-1/curate"
    kept = list(read_records(shard_files(folder, "curated"), Scored))
    assert 0 < len(kept) <= 5
    assert len({row.source_uri for row in kept}) == len(kept)
    for row in read_records(shard_files(folder, "rejected"), Rejected):
        assert "p_good" in json.loads(row.row)["scores"]  # a rejected row keeps its scores
