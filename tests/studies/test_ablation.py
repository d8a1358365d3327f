"""`humpback study ablation`: cells share their stages, one failure leaves the others, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from humpback.errors import RecipeError
from humpback.evaluation.signals import SIGNALS
from humpback.studies.cell import CellRooms
from humpback.studies.grid import AblationStudy, load_study
from humpback.studies.running import plan_study
from humpback.training.fake import train_fake
from humpback.training.spec import TrainResult, TrainSpec

if TYPE_CHECKING:
    from tests.conftest import Command, Lab

FACTORS = {"data": ["seed", "seed+curated", "seed+uncurated", "seed+worst", "curated", "base"]}


def _write(lab: Lab, folder: Path, **study: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lab.recipe_file(folder / "recipe.yaml", gate__segments=0)
    path = folder / "study.yaml"
    path.write_text(
        yaml.safe_dump(
            {"recipe": "recipe.yaml", "seeds": [0, 1], "resamples": 100, "steps": 3, **study}, sort_keys=False
        ),
        encoding="utf-8",
    )
    return path


def _stages(folder: Path, stage: str) -> set[tuple[int, int]]:
    """Return the different files (device, inode) that the cells' manifests of a stage are."""
    found = (path.stat() for path in folder.glob(f"cells/*/{stage}/manifest.json"))
    return {(stat.st_dev, stat.st_ino) for stat in found}


@pytest.fixture(scope="module")
def done(lab: Lab, tmp_path_factory: pytest.TempPathFactory, command: Command) -> tuple[Path, Path, dict[str, Any]]:
    """A finished study of data, its file, and what it printed; to be read only."""
    folder = tmp_path_factory.mktemp("ablation")
    file = _write(lab, folder, factors=FACTORS)
    ended = command("study", "ablation", file, "-o", folder / "out", "--json")
    assert ended.status == 0, ended.err
    return folder / "out", file, json.loads(ended.out)


def test_every_setting_has_a_value_and_its_difference_from_the_first(done: tuple[Path, Path, dict[str, Any]]) -> None:
    _, _, found = done
    assert [row["setting"]["data"] for row in found["metrics"]["nll"]["settings"]] == FACTORS["data"]
    first, *others = found["metrics"]["nll"]["settings"]
    assert first["difference"] is None
    for row in others:
        assert row["difference"]["value"] == pytest.approx(row["value"] - first["value"])
        assert row["difference"]["low"] <= row["difference"]["high"]
    assert found["failed"] == []


def test_all_cells_compute_in_the_number_formats_of_the_first(
    lab: Lab, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = iter(["bfloat16", "float32"])
    monkeypatch.setattr("humpback.opening.decide_format", lambda runtime: (name := next(decided), f"{name} (told)"))
    specs: list[TrainSpec] = []

    def train(spec: TrainSpec) -> TrainResult:
        specs.append(spec)
        return train_fake(spec)

    monkeypatch.setattr("humpback.training.fake.train_fake", train)
    ended = command(
        "study", "ablation", _write(lab, tmp_path, factors={"data": ["seed", "base"]}), "-o", tmp_path / "out"
    )
    assert ended.status == 0, ended.err
    manifests = [json.loads(path.read_bytes()) for path in tmp_path.glob("out/cells/*/arm/measure/manifest.json")]
    assert len(manifests) == 4
    assert {manifest["environment"]["numbers"] for manifest in manifests} == {"bfloat16 (told)"}
    assert {spec.precision_file for spec in specs} == {tmp_path / "out" / "precision.json"}


def test_arms_are_trained_on_what_their_name_says(done: tuple[Path, Path, dict[str, Any]]) -> None:
    _, _, found = done
    rows = {row["setting"]["data"]: row for row in found["metrics"]["nll"]["settings"]}
    seed, curated = rows["seed"]["examples"], rows["curated"]["examples"]
    assert seed > 0
    assert curated > 0
    for kind in ("curated", "uncurated", "worst"):
        assert rows[f"seed+{kind}"]["examples"] == seed + curated
    assert rows["base"]["examples"] == 0
    assert {row["steps"] for name, row in rows.items() if name != "base"} == {3}


def test_worst_are_scored_below_all_that_are_curated(done: tuple[Path, Path, dict[str, Any]], lab: Lab) -> None:
    folder, _, _ = done
    cells = list(folder.glob("cells/seed+worst-*"))
    assert len(cells) == 2
    for cell in cells:
        signal = json.loads((cell / "iteration-1/curate/manifest.json").read_bytes())["result"]["signal"]
        better = SIGNALS[signal].direct if signal in SIGNALS else float
        worst = [better(dict(row["scores"])[signal]) for row in lab.rows(cell, "arm/draw", "drawn")]
        curated = [better(dict(row["scores"])[signal]) for row in lab.rows(cell, "iteration-1/curate", "curated")]
        assert max(worst) <= min(curated)


def test_both_metrics_are_told_of_the_same_answers(done: tuple[Path, Path, dict[str, Any]]) -> None:
    _, _, found = done
    nll, lift = (found["metrics"][metric]["settings"] for metric in ("nll", "lift"))
    assert [row["name"] for row in nll] == [row["name"] for row in lift]
    assert [found["metrics"][metric]["better"] for metric in ("nll", "lift")] == ["lower", "higher"]
    for row in (*nll, *lift):
        assert sorted(row["by_seed"]) == ["0", "1"]
        assert sum(row["by_seed"].values()) / 2 == pytest.approx(row["value"])
    assert [row["value"] for row in nll] != pytest.approx([row["value"] for row in lift])


def test_nothing_is_ingested_augmented_or_scored_twice(done: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, _ = done
    for stage in ("ingest", "dedup", "augment", "backward/finetune", "iteration-0/audit", "iteration-1/score"):
        assert len(_stages(folder, stage)) == 1, stage
    assert len(list(folder.glob("cells/*/iteration-1/score"))) == 8  # four arms have candidates, with two seeds each
    assert len(_stages(folder, "arm/finetune")) == 10


def test_a_cell_that_trains_nothing_does_not_shorten_the_time_of_a_training(
    done: tuple[Path, Path, dict[str, Any]],
) -> None:
    folder, file, _ = done
    study, cells = load_study(file, AblationStudy)
    folders = [folder / "cells" / cell.folder / "arm" for cell in cells if cell.arm and cell.arm.data != "base"]
    times = [
        sum(json.loads((arm / name / "manifest.json").read_bytes())["seconds"] for name in ("finetune", "measure"))
        for arm in folders
    ]
    assert len(times) == 10 < len(cells)
    assert plan_study(study, cells, folder).seconds_each == pytest.approx(sum(times) / 10)


def test_a_finished_study_makes_nothing_again(
    done: tuple[Path, Path, dict[str, Any]], command: Command, lab: Lab
) -> None:
    folder, file, found = done
    before = {name: digest for name, digest in lab.listing(folder).items() if "answers.sqlite" not in name}
    again = command("study", "ablation", file, "-o", folder, "--json")
    assert json.loads(again.out) == found
    assert {name: digest for name, digest in lab.listing(folder).items() if "answers.sqlite" not in name} == before


def test_an_extended_study_makes_only_what_is_new(lab: Lab, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    command("study", "ablation", _write(lab, tmp_path, factors={"data": ["seed", "seed+curated"]}), "-o", out)
    old = _stages(out, "arm/finetune")
    file = _write(lab, tmp_path, factors={"data": ["seed", "seed+curated"], "curate.top": [0.4, 0.2]})
    told = command("study", "ablation", file, "-o", out, "--dry-run").out
    assert "8 cells, 4 done" in told
    ended = command("study", "ablation", file, "-o", out, "--json")
    assert ended.status == 0, ended.err
    assert len(_stages(out, "iteration-1/score")) == 1
    assert len(_stages(out, "iteration-1/curate")) == 2
    new = _stages(out, "arm/finetune") - old
    assert len(new) == 2  # two seeds with another share; the seed alone is the same whatever is curated


def test_tags_at_inference_need_no_training_of_their_own(lab: Lab, tmp_path: Path, command: Command) -> None:
    factors = {"train_tags": ["both", "none"], "infer_tags": ["both", "seed", "web", "none"]}
    file = _write(lab, tmp_path, factors=factors, seeds=[0])
    ended = command("study", "ablation", file, "-o", tmp_path / "out", "--json")
    assert len(json.loads(ended.out)["metrics"]["nll"]["settings"]) == 8
    assert len(_stages(tmp_path / "out", "arm/finetune")) == 2
    assert len(_stages(tmp_path / "out", "iteration-1/score")) == 1


def test_a_cell_that_fails_leaves_the_others_and_is_told_with_its_reason(
    lab: Lab, tmp_path: Path, command: Command
) -> None:
    file = _write(lab, tmp_path, seeds=[0], factors={"data": ["seed+curated"], "size": [2, 1000, 3]})
    ended = command("study", "ablation", file, "-o", tmp_path / "out", "--json")
    assert ended.status == 1
    found = json.loads(ended.out)
    assert [row["setting"]["size"] for row in found["metrics"]["nll"]["settings"]] == ["2", "3"]
    (failed,) = found["failed"]
    assert failed["setting"]["size"] == "1000"
    assert "size=1000: there are only" in failed["why"]
    assert "1 cells failed" in ended.err


def test_a_damaged_cell_leaves_the_others(lab: Lab, tmp_path: Path, command: Command) -> None:
    out, file = tmp_path / "out", _write(lab, tmp_path, seeds=[0], factors={"data": ["seed", "base"]})
    command("study", "ablation", file, "-o", out)
    (cell,) = out.glob("cells/base-*")
    for name in ("arm/measure/likelihoods.json", "seed/manifest.json"):
        (cell / name).unlink()  # a link: the other cell's file is to stay whole
        (cell / name).write_text("{", encoding="utf-8")
        ended = command("study", "ablation", file, "-o", out, "--json")
        assert ended.status == 1, ended.err
        found = json.loads(ended.out)
        assert [row["name"] for row in found["metrics"]["nll"]["settings"]] == ["data=seed"]
        assert [(row["name"], name in row["why"]) for row in found["failed"]] == [("data=base", True)]


def test_a_killed_study_goes_on_with_the_cell_that_it_was_at(
    lab: Lab, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _write(lab, tmp_path, factors={"data": ["seed", "seed+curated"]})
    whole = CellRooms.train

    def stop(self: CellRooms) -> None:
        if self.arm.data == "seed+curated":
            raise KeyboardInterrupt
        whole(self)

    with monkeypatch.context() as patch:
        patch.setattr(CellRooms, "train", stop)
        ended = command("study", "ablation", file, "-o", tmp_path / "out")
    assert ended.status == 1
    assert "the same command resumes it" in ended.err
    (scored,) = (tmp_path / "out").glob("cells/*/iteration-1/score/manifest.json")
    before = scored.stat()
    ended = command("study", "ablation", file, "-o", tmp_path / "out", "--json")
    assert ended.status == 0, ended.err
    assert (scored.stat().st_ino, scored.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(json.loads(ended.out)["metrics"]["nll"]["settings"]) == 2


def test_a_combination_that_is_no_recipe_is_a_failed_cell(lab: Lab, tmp_path: Path, command: Command) -> None:
    factors = {"curate.signal": ["forward_lift", "rating"], "curate.policy": ["top", "threshold"]}
    file = _write(lab, tmp_path, seeds=[0], factors=factors)
    found = json.loads(command("study", "ablation", file, "-o", tmp_path / "out", "--json").out)
    (failed,) = found["failed"]
    assert failed["setting"] == {"curate.signal": "forward_lift", "curate.policy": "threshold"}
    assert "cuts ratings" in failed["why"]
    assert len(found["metrics"]["nll"]["settings"]) == 3


def test_other_pairs_to_measure_on_are_none_of_the_seed(lab: Lab, tmp_path: Path, command: Command) -> None:
    rows = [json.loads(line) for line in lab.seed.read_text(encoding="utf-8").splitlines()][:3]
    rows += [{"instruction": f"What is number {n}?", "response": f"It is the number {n} of twenty."} for n in range(20)]
    lab.write_lines(tmp_path / "more.jsonl", rows)
    measure = {"inputs": [{"path": str(tmp_path / "more.jsonl")}]}
    file = _write(lab, tmp_path, seeds=[0], factors={"data": ["seed", "base"]}, measure=measure)
    found = json.loads(command("study", "ablation", file, "-o", tmp_path / "out", "--json").out)
    assert found["pairs"] == 20
    assert not any("held-out pairs" in note for note in found["notes"])


def test_a_sample_to_measure_on_is_drawn_of_what_the_seed_does_not_hold(
    lab: Lab, tmp_path: Path, command: Command
) -> None:
    # the seed's own file, of which the seed is a sample: a draw by the same hash would take the seed's pairs alone
    measure = {"inputs": [{"path": str(lab.seed)}], "sample": 16}
    half = {"seed.sample": 16, "seed.holdout": 8}
    file = _write(lab, tmp_path, seeds=[0], factors={"data": ["base"]}, measure=measure, set=half)
    ended = command("study", "ablation", file, "-o", tmp_path / "out", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["pairs"] >= 14


def test_pairs_to_measure_on_that_the_seed_holds_all_are_refused(lab: Lab, tmp_path: Path, command: Command) -> None:
    measure = {"inputs": [{"path": str(lab.seed)}]}
    file = _write(lab, tmp_path, seeds=[0], factors={"data": ["base"]}, measure=measure)
    ended = command("study", "ablation", file, "-o", tmp_path / "out")
    assert ended.status == 2
    assert "per token" not in ended.out  # a table of nothing
    assert "no pair to measure on is left" in ended.err
    assert "name pairs under measure" in ended.err


def test_a_file_to_measure_on_that_is_missing_is_told_before_anything_is_made(
    lab: Lab, tmp_path: Path, command: Command
) -> None:
    measure = {"inputs": [{"path": str(tmp_path / "none.jsonl")}]}
    file = _write(lab, tmp_path, factors={"data": ["seed"]}, measure=measure)
    ended = command("study", "ablation", file, "-o", tmp_path / "out")
    assert ended.status == 2
    assert "none.jsonl does not exist" in ended.err
    assert not (tmp_path / "out").exists()


def test_single_changes_one_thing_at_a_time(lab: Lab, tmp_path: Path) -> None:
    factors = {"data": ["seed+curated", "seed"], "curate.top": [0.4, 0.2, 0.1]}
    file = _write(lab, tmp_path, factors=factors, design="single", seeds=[0])
    _, cells = load_study(file, AblationStudy)
    assert [tuple(cell.setting.values()) for cell in cells] == [
        ("seed+curated", "0.4"),
        ("seed", "0.4"),
        ("seed+curated", "0.2"),
        ("seed+curated", "0.1"),
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"factors": {"data": ["seeds"]}}, "data=seeds"),
        ({"factors": {"curate.tpo": [1]}}, "did you mean top"),
        ({"factors": {"data": ["seed"]}, "sead": 1}, "sead is not a key of the study"),
        ({"factors": {"data": []}}, "needs values"),
        ({"factors": {"data": ["seed"]}, "seeds": [1, 1]}, "must be different"),
        ({"factors": {"data": ["seed"]}, "recipe": "none.yaml"}, "does not exist"),
        ({"factors": {"data": ["seed"]}, "metric": "lift"}, "metric is not a key of the study"),
    ],
)
def test_wrong_study_is_refused_by_what_is_wrong(lab: Lab, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        load_study(_write(lab, tmp_path, **change), AblationStudy)


def test_page_and_tables_show_every_setting(done: tuple[Path, Path, dict[str, Any]], command: Command) -> None:
    folder, file, found = done
    told = command("study", "ablation", file, "-o", folder, "--quiet").out
    page = (folder / "study.html").read_text(encoding="utf-8")
    for row in found["metrics"]["nll"]["settings"]:
        assert f"{row['setting']['data']} " in told
        assert f"<td>{row['setting']['data']}</td>" in page
    assert "<script" not in page
