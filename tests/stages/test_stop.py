"""`iterations: auto`: how far the loop goes, which model is kept, and what a lowered number leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.engines.base import Loglikelihood, ModelRef
from humpback.engines.fake import FakeEngine
from humpback.errors import DriftError, RecipeError, StageError, StorageError
from humpback.evaluation.auditchange import AuditChange
from humpback.evaluation.stats import Interval
from humpback.prompts import Continuation, Prompt, Prompts
from humpback.recipe import EvaluateSettings, load_recipe
from humpback.records import Pair
from humpback.report.status import print_status, stage_states
from humpback.report.summary import print_summary
from humpback.rooms import deciding
from humpback.stages.stop import judge_iteration
from humpback.stages.table import find_course, stage_names
from humpback.store.rundir import RunDir
from humpback.trace import trace

if TYPE_CHECKING:
    from tests.conftest import Lab


class Sure(FakeEngine):
    """Gives every response the likelihood that its model's name says, and fails on FAIL-ME."""

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        nats, wobble = map(float, self.model.content_hash.split())
        return [
            Loglikelihood(logprob=0.0, tokens=0, error="scripted failure")
            if "FAIL-ME" in prompt.user
            else Loglikelihood(logprob=-10 * (nats + wobble * (index % 3 - 1)), tokens=10)
            for index, prompt in enumerate(prompts)
        ]


def _change(low: float | None = -0.01, high: float | None = 0.01) -> AuditChange:
    return AuditChange(
        signal="p_good", difference=Interval(value=((low or 0) + (high or 0)) / 2, low=low, high=high, n=12)
    )


def _judge(
    before: str, after: str, pairs: int = 12, failing: int = 0, audited: AuditChange | None = None
) -> dict[str, Any]:
    models = {name: ModelRef(path="fake", content_hash=text) for name, text in (("M_0", before), ("M_1", after))}
    rows = [
        Pair(
            id=f"{number}",
            instruction=f"What is {number}?" + (" FAIL-ME" if number < failing else ""),
            response="So.",
            split="holdout",
            source_uri="",
            licence="",
        )
        for number in range(pairs)
    ]
    prompts = Prompts(Sure(models["M_0"]).tokenizer, max_tokens=4096, instruction_tokens=128)
    events: list[str] = []

    def open_engine(model: ModelRef) -> Sure:
        events.append("open")
        return Sure(model)

    settings = EvaluateSettings(resamples=100)
    found = judge_iteration(
        rows,
        models,
        audited or _change(),
        open_engine,
        prompts,
        settings,
        random_seed=0,
        free=lambda: events.append("free"),
    )
    assert events == ["free", "open", "free", "open", "free"], "one model is in memory at a time"
    return found


def test_surely_better_is_better() -> None:
    found = _judge("3.0 0.1", "2.9 0.1")
    assert (found["improved"], found["goes_on"], found["fired"]) == (True, True, None)
    assert found["difference"]["value"] == pytest.approx(-0.1)
    assert "M_1 is better than M_0: -0.1000 nats per token on 12 held-out pairs" in found["why"]


@pytest.mark.parametrize("after", ["3.0 0.1", "3.1 0.1", "2.99 0.5"])
def test_the_same_the_worse_and_the_unsure_are_not_better(after: str) -> None:
    found = _judge("3.0 0.1", after)
    assert (found["improved"], found["goes_on"], found["fired"]) == (False, False, "likelihood")
    assert "M_1 is not surely better than M_0" in found["why"]


def test_too_few_pairs_are_no_evidence_and_failed_ones_count_for_neither() -> None:
    assert _judge("3.0 0.1", "2.0 0.1", pairs=5)["improved"] is False
    found = _judge("3.0 0.1", "2.0 0.1", failing=3)
    assert (found["improved"], len(found["failed"]), found["difference"]["n"]) == (True, 3, 9)
    with pytest.raises(StageError, match="no held-out pair has a likelihood"):
        _judge("3.0 0.1", "2.0 0.1", failing=12)


def test_a_better_model_that_judges_surely_worse_is_kept_and_ends_the_loop() -> None:
    found = _judge("3.0 0.1", "2.9 0.1", audited=_change(-0.08, -0.02))
    assert (found["improved"], found["goes_on"], found["fired"]) == (True, False, "audit")
    assert (
        "M_1 tells good pairs from spoilt ones worse than M_0: -0.050 AUC of p_good (-0.080 to -0.020)" in found["why"]
    )


@pytest.mark.parametrize("change", [_change(-0.08, 0.01), _change(0.02, 0.05), _change(None, None)])
def test_an_audit_that_does_not_surely_fall_ends_nothing(change: AuditChange) -> None:
    assert _judge("3.0 0.1", "2.9 0.1", audited=change)["goes_on"] is True


def test_audits_without_a_signal_in_common_are_said_not_to_compare() -> None:
    found = _judge("3.0 0.1", "2.9 0.1", audited=AuditChange(signal="probe", difference=None))
    assert found["goes_on"] is True
    assert "audits of probe cannot be compared" in found["why"]


# -- the run -------------------------------------------------------------------------------------------------------------


def _improving(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the first `times` iterations improve."""

    def judge(pairs: object, models: dict[str, ModelRef], *_: object, **__: object) -> dict[str, Any]:
        t = int(list(models)[-1].removeprefix("M_"))
        return {
            "improved": t <= times,
            "goes_on": t <= times,
            "why": f"M_{t} as scripted",
            "difference": {},
            "failed": {},
        }

    monkeypatch.setattr(deciding, "judge_iteration", judge)


AUTO: dict[str, Any] = {"iterations": "auto", "max_iterations": 3, "gate__segments": 0, "curate__signal": "rating"}


@pytest.mark.parametrize(("times", "ran", "best"), [(0, 1, 0), (1, 2, 1), (2, 3, 2), (3, 3, 3)])
def test_it_goes_on_while_the_model_improves_and_keeps_the_best(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, ran: int, best: int
) -> None:
    _improving(monkeypatch, times)
    run = tmp_path / "run"
    lab.run(run, **AUTO)
    recipe = lab.recipe(**AUTO)
    course = find_course(recipe, RunDir(run))
    assert (course.iterations, course.best, course.settled) == (ran, best, True)
    assert [stage["name"] for stage in stage_states(run)] == [name for name, _ in stage_names(recipe, ran)]
    assert all(stage["state"] == "done" for stage in stage_states(run))
    assert {path.name for path in run.glob("iteration-*")} == {f"iteration-{t}" for t in range(ran + 1)}
    published = max(best, 1)
    curated = {row["id"] for row in lab.rows(run, f"iteration-{published}/curate", "curated")}
    dataset = {row["id"] for row in lab.rows(run, "dataset/data", "train")}
    assert curated <= dataset
    assert len(dataset) == len(curated) + 22, "the seed and the best model's pairs, and no others"
    assert lab.manifest(run, "control/draw")["kept"] == len(curated)
    assert lab.run(run, **AUTO) is False


def test_the_model_that_judges_worse_is_the_one_that_is_published(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {
        "improved": True,
        "goes_on": False,
        "fired": "audit",
        "why": "M_1 judges worse",
        "difference": {},
        "failed": {},
    }
    monkeypatch.setattr(deciding, "judge_iteration", lambda *_, **__: ended)
    lab.run(tmp_path / "run", **AUTO)
    course = find_course(lab.recipe(**AUTO), RunDir(tmp_path / "run"))
    assert (course.iterations, course.best, course.published, course.settled) == (1, 1, 1, True)
    told = json.loads((tmp_path / "run/report/report.json").read_bytes())["iterations"]["told"]
    assert told == "1 iteration, M_1 judges worse; M_1 is kept"


def test_a_stop_stage_from_before_audits_were_compared_still_says_how_far_the_run_went(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = {"improved": False, "why": "M_1 is not surely better", "difference": {}, "failed": {}}
    monkeypatch.setattr(deciding, "judge_iteration", lambda *_, **__: earlier)
    lab.run(tmp_path / "run", **AUTO)
    course = find_course(lab.recipe(**AUTO), RunDir(tmp_path / "run"))
    assert (course.iterations, course.best, course.settled) == (1, 0, True)


def test_report_says_which_model_is_kept_and_shows_the_curve(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _improving(monkeypatch, 1)
    run = tmp_path / "run"
    lab.run(run, **AUTO)
    data = json.loads((run / "report/report.json").read_bytes())
    assert (data["iterations"]["ran"], data["iterations"]["best"], data["iterations"]["published"]) == (2, 1, 1)
    assert [row["model"] for row in data["decay"]] == ["M_0", "M_1", "M_2"]
    assert data["decay"][0]["kept"] is None
    assert all(0 < row["kept"] <= 1 and row["mean"] for row in data["decay"][1:])
    page = (run / "report/report.html").read_text(encoding="utf-8")
    assert "M_2 as scripted; M_1 is kept" in page
    assert page.count('<svg class="curve"') == 2
    print_summary(run)
    assert "M_1 is kept" in " ".join(capsys.readouterr().out.split())


def test_kill_in_the_stop_stage_is_resumed_to_the_same_run(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _improving(monkeypatch, 1)
    lab.run(tmp_path / "whole", **AUTO)
    real = deciding.judge_iteration

    def killed(pairs: object, models: dict[str, ModelRef], *more: object, **settings: object) -> object:
        if "M_2" in models:
            raise KeyboardInterrupt
        return real(pairs, models, *more, **settings)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(deciding, "judge_iteration", killed)
        with pytest.raises(KeyboardInterrupt):
            lab.run(tmp_path / "run", **AUTO)
    states = {stage["name"]: stage["state"] for stage in stage_states(tmp_path / "run")}
    assert states["iteration-2/stop"] == "started"
    assert "iteration-3/score" not in states, "whether there is a third is not known yet"
    print_status(tmp_path / "run", as_json=False)
    assert "iterations: auto" in capsys.readouterr().out
    lab.run(tmp_path / "run", **AUTO)
    lab.assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_rerun_from_an_iteration_removes_those_after_it(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        _improving(patch, 2)
        lab.run(run, **AUTO)
    _improving(monkeypatch, 0)
    lab.run(run, **AUTO, rerun_from="iteration-1/stop")
    assert {path.name for path in run.glob("iteration-*")} == {"iteration-0", "iteration-1"}


def test_the_fix_that_a_damaged_stop_stage_comes_with_mends_it(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _improving(monkeypatch, 0)
    run = tmp_path / "run"
    lab.run(run, **AUTO)
    (run / "iteration-1/stop/manifest.json").write_text('{"name":')
    with pytest.raises(StorageError, match=r"manifest.json is damaged .*--rerun-from iteration-1/stop"):
        lab.run(run, **AUTO)
    assert lab.run(run, **AUTO, rerun_from="iteration-1/stop")
    assert lab.run(run, **AUTO) is False


def test_raised_maximum_goes_on_from_the_next_iteration(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _improving(monkeypatch, 9)
    run, more = tmp_path / "run", {**AUTO, "max_iterations": 2}
    lab.run(run, **{**AUTO, "max_iterations": 1})
    with pytest.raises(DriftError, match=r"iteration-2/score is new.*--rerun-from iteration-2/score"):
        lab.run(run, **more)
    kept = (run / "iteration-1/finetune/manifest.json").read_bytes()
    lab.run(run, **more, rerun_from="iteration-2/score")
    assert (run / "iteration-1/finetune/manifest.json").read_bytes() == kept
    assert find_course(lab.recipe(**more), RunDir(run)).best == 2


def test_lowered_number_is_refused_until_what_it_leaves_behind_may_go(lab: Lab, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lab.run(run, iterations=2, gate__segments=0)
    before = lab.listing(run)
    with pytest.raises(DriftError, match=r"holds iteration-2, and this recipe ends with iteration 1.*control/draw"):
        lab.run(run, gate__segments=0)
    assert lab.listing(run) == before
    lab.run(run, gate__segments=0, rerun_from="control/draw")
    assert not (run / "iteration-2").exists()
    lab.run(tmp_path / "fresh", gate__segments=0)
    row_id = lab.rows(run, "augment", "candidates")[0]["id"]
    assert [entry["iteration"] for entry in trace(run, row_id)["iterations"]] == [1]
    for stage in ("control/draw", "dataset", "evaluate"):
        assert lab.manifest(run, stage)["fingerprint"] == lab.manifest(tmp_path / "fresh", stage)["fingerprint"]


@pytest.mark.parametrize(("value", "words"), [("often", "auto"), ("0", "1 or more"), ("1.5", "iterations")])
def test_other_words_for_iterations_are_refused(lab: Lab, tmp_path: Path, value: str, words: str) -> None:
    path = lab.recipe_file(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match=words):
        load_recipe(path, [f"iterations={value}"])
