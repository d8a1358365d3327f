"""`humpback study scaling`: kinds over sizes and seeds on one set of candidates, a fit for each, and their comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
import yaml

if TYPE_CHECKING:
    from tests.conftest import Command, Lab

STUDY: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "seeds": [0, 1],
    "resamples": 100,
    "steps": 2,
    "sizes": [0, 3, 6],
    "kinds": {
        "uncurated": {"data": "seed+uncurated"},
        "curated": {"data": "seed+curated", "set": {"curate.top": 8}},
        "seed": {"data": "seed"},
    },
}


def _run(lab: Lab, folder: Path, command: Command, **changes: object) -> tuple[int, dict[str, Any], Path]:
    lab.recipe_file(folder / "recipe.yaml", gate__segments=0)
    file = folder / "scale.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False), encoding="utf-8")
    ended = command("study", "scaling", file, "-o", folder / "out", "--json")
    return ended.status, json.loads(ended.out), folder / "out"


@pytest.fixture(scope="module")
def done(lab: Lab, tmp_path_factory: pytest.TempPathFactory, command: Command) -> tuple[int, dict[str, Any], Path]:
    return _run(lab, tmp_path_factory.mktemp("scaling"), command)


def test_each_kind_is_fitted_over_the_pairs_it_was_trained_on(done: tuple[int, dict[str, Any], Path]) -> None:
    status, found, _ = done
    assert status == 1  # a kind of seed pairs has nothing to train on at size 0, and says so
    assert {row["name"] for row in found["failed"]} == {"kind=seed, size=0"}
    fits = {row["kind"]: row for row in found["metrics"]["nll"]["fits"]}
    seed_pairs = fits["curated"]["sizes"][0]
    assert fits["curated"]["sizes"] == fits["uncurated"]["sizes"] == [seed_pairs, seed_pairs + 3, seed_pairs + 6]
    assert fits["seed"]["sizes"] == [3, 6]
    for fit in fits.values():
        assert fit["alpha"]["low"] <= fit["alpha"]["value"] <= fit["alpha"]["high"]
    assert found["metrics"]["nll"]["log_base"] == "e"
    assert [(row["kind"], row["against"]) for row in found["metrics"]["nll"]["comparisons"]] == [
        ("uncurated", "curated"),
        ("uncurated", "seed"),
        ("curated", "seed"),
    ]


def test_candidates_are_written_and_scored_once_for_all_kinds_and_sizes(
    done: tuple[int, dict[str, Any], Path],
) -> None:
    _, _, folder = done
    for stage in ("augment", "iteration-1/score"):
        assert len({path.stat().st_ino for path in folder.glob(f"cells/*/{stage}/manifest.json")}) == 1
    assert len({path.stat().st_ino for path in folder.glob("cells/*/iteration-1/curate/manifest.json")}) == 1


def test_kinds_without_candidates_are_one_model_per_seed(done: tuple[int, dict[str, Any], Path]) -> None:
    _, _, folder = done
    models = list(folder.glob("cells/*curated-0-seed*/arm/finetune/manifest.json"))
    assert len(models) == 4  # two kinds, two seeds
    assert len({path.stat().st_ino for path in models}) == 2
    assert not list(folder.glob("cells/*curated-0-seed*/augment"))


def test_a_smaller_draw_of_a_seed_lies_in_its_larger_one(done: tuple[int, dict[str, Any], Path], lab: Lab) -> None:
    _, _, folder = done
    for seed in (0, 1):
        small, large = (
            {
                row["id"]
                for cell in folder.glob(f"cells/seed+uncurated-{n}-seed{seed}-*")
                for row in lab.rows(cell, "arm/draw", "drawn")
            }
            for n in (3, 6)
        )
        assert len(small) == 3
        assert small < large


def test_every_kind_has_a_sign_in_results_and_page(done: tuple[int, dict[str, Any], Path]) -> None:
    _, found, folder = done
    page = (folder / "study.html").read_text(encoding="utf-8")
    for told in found["metrics"].values():
        for sign, fit in zip(told["signs"], told["fits"], strict=True):
            assert sign["what"].endswith(f"of kind {fit['kind']}")
            assert sign["what"] in page


def test_the_plot_is_in_the_page_and_needs_nothing_else(done: tuple[int, dict[str, Any], Path]) -> None:
    _, _, folder = done
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 6  # three kinds, each by both metrics
    assert "http" not in page.replace("http-equiv", "")


def test_markdown_has_the_figures_and_a_plot_that_stands_alone(done: tuple[int, dict[str, Any], Path]) -> None:
    _, found, folder = done
    text = (folder / "study.md").read_text(encoding="utf-8")
    for metric, told in found["metrics"].items():
        assert f"](study-{metric}.svg)" in text
        for fit in told["fits"]:
            assert f"{fit['alpha']['value']:+.4f}" in text
        root = ElementTree.parse(folder / f"study-{metric}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(root.findall(".//{*}polyline")) == 3  # kinds
        assert "kind-0" in (root.findtext("{*}style") or "")


def test_sizes_that_do_not_grow_are_refused(lab: Lab, tmp_path: Path, command: Command) -> None:
    lab.recipe_file(tmp_path / "recipe.yaml")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**STUDY, "sizes": [6, 3]}), encoding="utf-8")
    ended = command("study", "scaling", tmp_path / "s.yaml", "-o", tmp_path / "out")
    assert ended.status == 2
    assert "sizes=[6, 3] must grow" in ended.err


def test_results_of_the_other_kind_are_not_written_over(lab: Lab, tmp_path: Path, command: Command) -> None:
    lab.recipe_file(tmp_path / "recipe.yaml")
    file, folder = tmp_path / "scale.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / "results.json").write_text('{"study": "ablation"}')
    ended = command("study", "scaling", file, "-o", folder)
    assert (ended.status, "holds the results of a study of ablation" in ended.err) == (2, True), ended.err
    assert (folder / "results.json").read_text() == '{"study": "ablation"}'
