"""A run whose P(good) people correct: labels added after the end change the curation and what follows, and no model before it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from humpback.errors import DriftError, RecipeError
from humpback.evaluation.correctionaudit import MIN_LABELS
from humpback.labelling.sample import load_population
from humpback.labelling.session import Session
from humpback.labelling.stats import measure, stat_lines
from humpback.pipeline import run
from humpback.progress import Console
from humpback.recipe import Recipe, check_section
from humpback.records import Rejected, Scored
from humpback.store.rundir import RunDir
from humpback.store.shards import read_records, shard_files

NOUNS = (
    "anchor",
    "basket",
    "candle",
    "drum",
    "ember",
    "fiddle",
    "glove",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
)


def _document(number: int) -> dict[str, str]:
    dice = random.Random(5000 + number)
    lines = [f"The {dice.choice(NOUNS)} is {' '.join(dice.sample(NOUNS, 7))} of day {number}-{i}." for i in range(14)]
    return {"text": " ".join(lines), "title": f"Document {number}"}


@pytest.fixture(scope="module")
def wide(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe with candidates enough to label."""
    path = tmp_path_factory.mktemp("wide") / "docs.jsonl"
    path.write_text("".join(json.dumps(_document(i)) + "\n" for i in range(70)), encoding="utf-8")
    settings = recipe.model_dump()
    settings["iterations"] = 1
    settings["gate"]["segments"] = 0
    settings["corpus"]["inputs"][0]["path"] = str(path)
    settings["evaluate"] |= {"control": False, "corruptions": ["mismatch_random", "cut_end"]}
    return Recipe.model_validate(settings)


@pytest.fixture(scope="module")
def uncorrected(wide: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uncorrected"
    run(wide, folder, console=Console(quiet=True))
    return folder


@pytest.fixture
def folder(uncorrected: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(uncorrected, tmp_path / "run"))


def _with(recipe: Recipe, **curate: Any) -> Recipe:
    settings = recipe.model_dump()
    settings["curate"] |= {"labels": True, **curate}
    return Recipe.model_validate(settings)


def _label(folder: Path, count: int) -> None:
    """Call candidates with an odd last digit of their id bad, so that P(good) knows nothing of it."""
    session = Session(load_population(folder), "ann", count)
    while session.current is not None:
        session.answer(label=1 if int(session.current.pair_id[-1], 16) % 2 else 5)


def _result(folder: Path, stage: str) -> dict[str, Any]:
    manifest = RunDir(folder).manifest(stage)
    assert manifest is not None
    return dict(manifest.result)


def _bytes(folder: Path, *rooms: str) -> dict[str, bytes]:
    paths = [path for room in rooms for path in sorted((folder / room).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_labels_correct_the_scores_that_curate_and_train_nothing_before_it_again(wide: Recipe, folder: Path) -> None:
    before = _bytes(folder, "backward", "augment", "iteration-0", "iteration-1/score")
    _label(folder, 50)
    with pytest.raises(DriftError, match="--rerun-from iteration-1/correct"):
        run(_with(wide), folder, console=Console(quiet=True))
    run(_with(wide), folder, console=Console(quiet=True), rerun_from="iteration-1/correct")
    assert _bytes(folder, "backward", "augment", "iteration-0", "iteration-1/score") == before

    found = _result(folder, "iteration-1/correct")
    assert (found["labels"], found["refused"]) == (50, None)
    decision = _result(folder, "iteration-1/curate")
    assert decision["signal"] == "p_good"
    assert "50 human labels corrected P(good)" in decision["why"]
    scored = {row.id: row for row in read_records(shard_files(folder / "iteration-1/score", "scored"), Scored)}
    kept = list(read_records(shard_files(folder / "iteration-1/curate", "curated"), Scored))
    lost = list(read_records(shard_files(folder / "iteration-1/curate", "rejected"), Rejected))
    assert kept
    for row in kept:
        assert row.scores["p_good_audit"] == scored[row.id].scores["p_good"]
    assert all("p_good_audit" in json.loads(row.row)["scores"] for row in lost if "below_top" in row.reason)
    page = (folder / "report/report.html").read_text(encoding="utf-8")
    assert "50 human labels corrected P(good)" in page
    assert "by labels that no correction saw" in page
    assert any("by the same labels it looks better" in line for line in stat_lines(measure(load_population(folder))))
    assert run(_with(wide), folder, console=Console(quiet=True)) is False


def test_more_labels_make_the_correction_stale_and_nothing_before_it(wide: Recipe, folder: Path) -> None:
    _label(folder, 44)
    run(_with(wide), folder, console=Console(quiet=True), rerun_from="iteration-1/correct")
    _label(folder, 48)
    with pytest.raises(DriftError, match=r"stage iteration-1/correct(.|\n)*labels\.pairs: 44 -> 48"):
        run(_with(wide), folder, console=Console(quiet=True))


def test_too_few_labels_correct_nothing_and_the_run_says_why(wide: Recipe, folder: Path) -> None:
    _label(folder, 12)
    curated = sorted(row.id for row in read_records(shard_files(folder / "iteration-1/curate", "curated"), Scored))
    run(_with(wide), folder, console=Console(quiet=True), rerun_from="iteration-1/correct")
    found = _result(folder, "iteration-1/correct")
    assert found["correction"] is None
    assert f"{MIN_LABELS} with" in found["refused"]
    assert found["refused"] in " ".join(_result(folder, "iteration-1/curate")["warnings"])
    again = list(read_records(shard_files(folder / "iteration-1/curate", "curated"), Scored))
    assert sorted(row.id for row in again) == curated
    assert not any("p_good_audit" in row.scores for row in again)
    assert "too few" in (folder / "report/report.html").read_text(encoding="utf-8")


def test_labels_do_not_correct_a_signal_that_is_set() -> None:
    for settings in ({"labels": True, "signal": "rating"}, {"labels": True, "policy": "threshold"}):
        with pytest.raises(RecipeError, match=r"labels=true corrects P\(good\)"):
            check_section(Recipe, {"curate": settings}, "recipe")
