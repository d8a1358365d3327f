"""A study with a judge: win rates against one baseline beside the likelihoods, prompt by prompt, and nothing trained for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.conftest import Command, Lab

PROMPTS = [{"instruction": f"How does one get to number {n}?", "category": "way"} for n in range(12)]


@pytest.fixture
def study(lab: Lab, tmp_path: Path) -> Path:
    """A study of two settings without a judge."""
    lab.recipe_file(tmp_path / "recipe.yaml", gate__segments=0)
    lab.write_lines(tmp_path / "prompts.jsonl", PROMPTS)
    _write(tmp_path / "study.yaml")
    return tmp_path / "study.yaml"


def _write(file: Path, **judge: object) -> None:
    given: dict[str, Any] = {"recipe": "recipe.yaml", "seeds": [0, 1], "resamples": 100, "steps": 2}
    given["factors"] = {"data": ["seed", "base"]}
    if judge:
        usual = {"model": "fake", "prompts": str(file.parent / "prompts.jsonl"), "verdicts": "probability"}
        given["judge"] = {**usual, "max_new_tokens": 32, **judge}
    file.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")


def _trained(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.glob("cells/*/arm/finetune/manifest.json")}


def test_win_rates_are_told_beside_the_likelihoods_and_nothing_is_trained_for_them(
    study: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    before = command("study", "ablation", study, "-o", out, "--json").json()
    models = _trained(out)
    _write(study, sample=10)
    plan = command("study", "ablation", study, "-o", out, "--dry-run").out
    assert "to judge, at most: 4 models by 10 answers each" in plan
    assert "to train" not in plan
    ended = command("study", "ablation", study, "-o", out, "--json")
    assert ended.status == 0, ended.err
    assert _trained(out) == models
    found = json.loads(ended.out)["metrics"]
    assert {name: found[name] for name in before["metrics"]} == before["metrics"]
    rate = found["win_rate"]
    assert (rate["prompts"], rate["asked"], rate["without_output"], rate["better"]) == (10, 10, 0, "higher")
    assert rate["rulings"] == {"parsed": 80}  # four cells, ten prompts, both orders
    first, second = rate["settings"]
    assert 0 < first["value"] < 100
    assert first["n"] == 10
    assert second["difference"]["value"] == pytest.approx(second["value"] - first["value"])
    assert rate["first_place"] > 90
    # the scripted judge goes by the place alone
    assert all("to the answer that stands first" in row["doubt"] for row in rate["settings"])
    assert "the judge fake is not believed on any setting" in rate["doubts"][0]
    assert command("study", "ablation", study, "-o", out, "--json").json()["metrics"] == found
    told = command("study", "ablation", study, "-o", out, "--quiet").out
    assert "win rate in percent by fake on 10 of 10 prompts, higher is better" in told
    for text in (told, (out / "study.md").read_text(encoding="utf-8"), (out / "study.html").read_text("utf-8")):
        assert "not believed on data=base: it gives" in text.replace("Not believed", "not believed")
    assert "win rate in percent by fake" in (out / "study.html").read_text(encoding="utf-8").lower()


def test_another_judge_trains_nothing_and_the_first_is_not_asked_again(
    study: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    _write(study, sample=10)
    first = command("study", "ablation", study, "-o", out, "--json").json()
    models = _trained(out)
    _write(study, sample=12)
    assert (
        "to judge, at most: 4 models by 12 answers" in command("study", "ablation", study, "-o", out, "--dry-run").out
    )
    second = command("study", "ablation", study, "-o", out, "--json").json()
    assert (second["failed"], second["metrics"]["win_rate"]["prompts"]) == ([], 12)
    assert second["metrics"]["nll"] == first["metrics"]["nll"]
    _write(study, sample=10)
    assert "4 cells, 4 done" in command("study", "ablation", study, "-o", out, "--dry-run").out
    assert command("study", "ablation", study, "-o", out, "--json").json() == first
    assert _trained(out) == models


def test_judges_files_are_found_beside_the_study_and_a_changed_one_is_named(
    study: Path, tmp_path: Path, command: Command, lab: Lab
) -> None:
    _write(study, prompts="prompts.jsonl")
    out = tmp_path / "out"
    told = command("study", "ablation", study, "-o", out, "--dry-run").out  # from another folder than the study's
    assert "time to judge: not known before the first model is judged" in told
    assert command("study", "ablation", study, "-o", out, "--json").json()["metrics"]["win_rate"]["prompts"] == 12
    models = _trained(out)
    extended = yaml.safe_load(study.read_text(encoding="utf-8")) | {"seeds": [0, 1, 2]}
    study.write_text(yaml.safe_dump(extended, sort_keys=False), encoding="utf-8")
    assert "time to judge: about" in command("study", "ablation", study, "-o", out, "--dry-run").out
    _write(study, prompts="prompts.jsonl")
    lab.write_lines(tmp_path / "prompts.jsonl", PROMPTS[:10])
    ended = command("study", "ablation", study, "-o", out)
    assert ended.status != 0
    assert "prompts.jsonl has other contents than when this cell was judged" in " ".join(
        (ended.out + ended.err).split()
    )
    (tmp_path / "prompts.jsonl").rename(tmp_path / "fewer.jsonl")
    _write(study, prompts="fewer.jsonl")
    assert command("study", "ablation", study, "-o", out, "--json").json()["metrics"]["win_rate"]["prompts"] == 10
    assert _trained(out) == models


def test_a_study_is_judged_once_from_whatever_folder_it_is_started(
    study: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(study, prompts="prompts.jsonl")
    assert command("study", "ablation", study, "-o", tmp_path / "out").status == 0
    monkeypatch.chdir(tmp_path)
    assert "4 cells, 4 done" in command("study", "ablation", study.name, "-o", "out", "--dry-run").out
    _write(study)  # names the prompts by their whole path
    assert (
        "4 cells, 4 done"
        in command("study", "ablation", Path("..") / tmp_path.name / study.name, "-o", "out", "--dry-run").out
    )
    _write(study, prompts="prompts.jsonl", reply_tokens=99)  # its probabilities are read, so it replies nothing
    assert "4 cells, 4 done" in command("study", "ablation", study, "-o", "out", "--dry-run").out
    assert len(list(tmp_path.glob("out/cells/seed-seed0-*/arm/judge-*"))) == 1


def test_rows_keep_answers_and_rulings(study: Path, tmp_path: Path, command: Command) -> None:
    _write(study, model="fake")
    command("study", "ablation", study, "-o", tmp_path / "out")
    (cell,) = tmp_path.glob("out/cells/seed-seed0-*")
    judged = json.loads(next(cell.glob("arm/judge-*/judged.json")).read_bytes())
    assert sorted(row["prompt"] for row in judged["rows"]) == sorted(str(row["instruction"]) for row in PROMPTS)
    for row in judged["rows"]:
        share = [row["orders"][order]["first"] for order in ("model_first", "baseline_first")]
        assert row["share"] == pytest.approx((share[0] + 1 - share[1]) / 2)
        assert row["output"]
        assert row["baseline"]


def test_baseline_may_be_a_file_of_outputs(study: Path, tmp_path: Path, command: Command, lab: Lab) -> None:
    rows = [{"instruction": row["instruction"], "output": "By bus.", "generator": "bus"} for row in PROMPTS]
    lab.write_lines(tmp_path / "bus.jsonl", rows)
    _write(study, baseline=str(tmp_path / "bus.jsonl"))
    assert command("study", "ablation", study, "-o", tmp_path / "out").status == 0
    (cell,) = tmp_path.glob("out/cells/seed-seed0-*")
    judged = json.loads(next(cell.glob("arm/judge-*/judged.json")).read_bytes())
    assert (judged["baseline"], {row["baseline"] for row in judged["rows"]}) == ("bus", {"By bus."})


def test_judge_without_a_usable_verdict_costs_the_win_rate_alone(study: Path, tmp_path: Path, command: Command) -> None:
    _write(study, verdicts="reply")  # the scripted engine writes instructions, not verdicts
    ended = command("study", "ablation", study, "-o", tmp_path / "out", "--json")
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert found["metrics"]["win_rate"]["settings"] == []
    assert "parsed" not in found["metrics"]["win_rate"]["rulings"]
    assert any("no verdict on a prompt that all cells answered" in note for note in found["notes"])
    assert len(found["metrics"]["nll"]["settings"]) == 2
    assert (
        "win rate in percent by fake on 0 of 12 prompts"
        in command("study", "ablation", study, "-o", tmp_path / "out").out
    )


def test_prompt_without_an_answer_is_no_loss(study: Path, tmp_path: Path, command: Command, lab: Lab) -> None:
    lab.write_lines(tmp_path / "prompts.jsonl", [*PROMPTS, {"instruction": "FAIL-ME"}])
    _write(study, model="fake")
    rate = command("study", "ablation", study, "-o", tmp_path / "out", "--json").json()["metrics"]["win_rate"]
    assert (rate["prompts"], rate["asked"], rate["without_output"]) == (12, 13, 4)


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"prompts": "none.jsonl"}, "none.jsonl cannot be read"),
        ({"prompts": "koala"}, "set HUMPBACK_PROMPTS"),
        ({"sample": 99}, "--sample 99 is more than the 12"),
        ({"baseline": "none.json"}, "none.json cannot be read"),
        ({"modle": "x"}, "modle"),
        ({"sample": 7}, "judge.sample=7 of the prompts is too few: on fewer than 8 no judge"),
        ({"max_new_tokens": 9000}, "leaves no room for a prompt beside judge.max_new_tokens=9000; use at least 9256"),
    ],
)
def test_wrong_judge_is_told_before_anything_is_made(
    judge: dict[str, object], words: str, study: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HUMPBACK_PROMPTS", raising=False)
    _write(study, **judge)
    ended = command("study", "ablation", study, "-o", tmp_path / "out")
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"model": "./nowhere"}, "nowhere"),
        ({"model": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
    ],
)
def test_judge_that_cannot_be_had_is_told_before_the_first_stage(
    judge: dict[str, object], words: str, study: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("httpx")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    _write(study, **judge)
    ended = command("study", "ablation", study, "-o", tmp_path / "out")
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert not list((tmp_path / "out").glob("**/manifest.json"))


def test_too_few_prompts_for_so_many_settings_are_told_before_the_first_stage(study: Path, command: Command) -> None:
    _write(study, sample=8)
    plan = command("study", "ablation", study, "--dry-run").out
    assert "note: 8 prompts let no judge be believed on all settings at once; 9 may" in plan
    _write(study, sample=9)
    assert "let no judge" not in command("study", "ablation", study, "--dry-run").out
