"""The gate in the run: it asks what augment will ask, stops before the big run, and can be corrected, passed and left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.engines.base import Completion
from humpback.engines.fake import FakeEngine
from humpback.errors import GateError
from humpback.report.status import print_status
from humpback.report.summary import print_summary

if TYPE_CHECKING:
    from tests.conftest import Lab


def _empty_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "_complete", lambda *_: Completion(text="", tokens=1, finish="stop"))


def test_its_answers_serve_augment_and_score(lab: Lab, finished: Path) -> None:
    gate, augment, score = (lab.manifest(finished, name) for name in ("backward/gate", "augment", "iteration-1/score"))
    assert gate["kept"] == 20
    assert augment["engine"]["requests"] - augment["engine"]["cache_hits"] == 2, "only the failing two are asked again"
    assert score["engine"]["cache_hits"] >= 2 * 20
    drafts = json.loads((finished / "backward/gate/gate.json").read_bytes())["drafts"]
    candidates = {row["segment_id"]: row["instruction"] for row in lab.rows(finished, "augment", "candidates")}
    assert {draft["segment_id"]: draft["instruction"] for draft in drafts} == candidates


def test_failing_requests_are_failed_and_judge_nothing(lab: Lab, finished: Path) -> None:
    manifest = lab.manifest(finished, "backward/gate")
    assert (manifest["read"], manifest["rejected"], manifest["failed"]) == (22, {}, {"engine_error": 2})
    assert {measure["n"] for measure in manifest["result"]["measures"]} == {20}


def test_bad_backward_model_is_stopped_before_augment(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _empty_handed(monkeypatch)
    run = tmp_path / "run"
    for _ in range(2):  # the same command again is refused again
        with pytest.raises(GateError, match=r"empty 1\.00 .*gate\.max_empty is 0\.1"):
            lab.run(run)
        assert not (run / "augment").exists()
    print_status(run, as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "backward/gate was refused" in told
    assert "gate.max_empty is 0.1" in told
    assert len(json.loads((run / "backward/gate/gate.json").read_bytes())["drafts"]) == 22


def test_raised_limit_goes_on_without_asking_again(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GateError, match="min_lift_auc"):
        lab.run(tmp_path / "run", gate__min_lift_auc=1)
    asked: list[int] = []
    real = FakeEngine.generate

    def generate(self: FakeEngine, prompts: Any, sampling: Any) -> object:
        asked.append(len(prompts))
        return real(self, prompts, sampling)

    monkeypatch.setattr(FakeEngine, "generate", generate)
    assert lab.run(tmp_path / "run")
    assert sum(asked) == 2 * 2, "the two that fail, by the gate and by augment"


def test_changed_limits_are_judged_on_what_was_measured(lab: Lab, copy_of_finished: Path) -> None:
    assert lab.run(copy_of_finished, gate__max_copy=0.9) is False
    with pytest.raises(GateError, match="min_lift_auc is 1"):
        lab.run(copy_of_finished, gate__min_lift_auc=1)
    assert lab.run(copy_of_finished) is False


def test_number_of_segments_is_capped_by_the_recipe_and_drawn_by_its_seed(lab: Lab, tmp_path: Path) -> None:
    drafts = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        lab.run(tmp_path / name, gate__segments=6, random_seed=seed)
        drafts.append(
            [d["segment_id"] for d in json.loads((tmp_path / name / "backward/gate/gate.json").read_bytes())["drafts"]]
        )
    assert 4 <= len(drafts[0]) <= 6
    assert drafts[0] == drafts[1] != drafts[2]


def test_no_segments_leave_the_gate_out(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run(tmp_path / "run", gate__segments=0)
    assert not (tmp_path / "run/backward/gate").exists()
    report = json.loads((tmp_path / "run/report/report.json").read_bytes())
    assert report["gate"] is None
    assert 'id="gate"' not in (tmp_path / "run/report/report.html").read_text(encoding="utf-8")
    print_summary(tmp_path / "run")
    assert "Gate of the backward model" not in capsys.readouterr().out


def test_figures_are_in_report_page_summary_and_status(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = json.loads((finished / "report/report.json").read_bytes())["gate"]
    assert {measure["name"]: measure["limit"] for measure in gate["measures"]}[
        "min_lift_auc".removeprefix("min_")
    ] == 0.7
    page = (finished / "report/report.html").read_text(encoding="utf-8")
    assert "Gate of the backward model" in page
    assert "at least 0.7" in page
    for show in (print_summary, lambda run: print_status(run, as_json=False)):
        show(finished)
        assert "lift_auc 0.6" in " ".join(capsys.readouterr().out.split())
