"""A run that curates by sampled ratings: every kind of reply is met and counted, the same however the run is cut or resumed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.engines.base import Capability
from humpback.engines.fake import FakeEngine
from humpback.errors import DriftError, InputError, RecipeError
from humpback.evaluation.rating import REPLY_COUNTS
from humpback.recipe import load_recipe
from humpback.report.results import render_results
from humpback.report.status import print_status
from humpback.report.summary import print_summary

if TYPE_CHECKING:
    from tests.conftest import Lab

CHANGES: dict[str, Any] = {
    "score__signals": ["rating", "sampled_rating"],
    "score__samples": 2,
    "curate__signal": "sampled_rating",
    "curate__threshold": 3.0,
}


@pytest.fixture(scope="session")
def sampled(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled") / "run"
    lab.run(folder, **CHANGES)
    return folder


def _replies(lab: Lab, run: Path) -> dict[str, int]:
    counts: dict[str, int] = lab.manifest(run, "iteration-1/score")["result"]["replies"]
    return counts


def test_manifest_counts_every_reply_once_by_what_it_was(lab: Lab, sampled: Path) -> None:
    counts, rows = _replies(lab, sampled), lab.rows(sampled, "iteration-1/score", "scored")
    assert counts["pairs"] == len(rows) == lab.manifest(sampled, "iteration-1/score")["kept"]
    assert counts["replies"] == 2 * len(rows)
    assert all(counts[kind] > 0 for kind in ("parsed", "truncated", "unparsed", "out_of_range", "constrained"))
    assert counts["replies"] == counts["parsed"] + counts["retried"] + counts["failed"]
    assert counts["retried"] == counts["truncated"] + counts["unparsed"] + counts["out_of_range"]
    by_row = Counter[str]()
    for row in rows:
        by_row.update({name: int(dict(row["scores"])[f"sampled_rating_{name}"]) for name in REPLY_COUNTS})
    assert {name: counts[name] for name in REPLY_COUNTS} == {name: by_row[name] for name in REPLY_COUNTS}


def test_curation_keeps_what_reaches_the_threshold(lab: Lab, sampled: Path) -> None:
    result = lab.manifest(sampled, "iteration-1/curate")["result"]
    assert (result["signal"], result["policy"], result["value"]) == ("sampled_rating", "threshold", 3.0)
    scores = {row["id"]: dict(row["scores"]) for row in lab.rows(sampled, "iteration-1/score", "scored")}
    curated = lab.rows(sampled, "iteration-1/curate", "curated")
    assert 0 < len(curated) < len(scores)
    assert all(scores[row["id"]]["sampled_rating"] >= 3 for row in curated)


def test_status_summary_results_and_page_show_the_counts(
    lab: Lab, sampled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = _replies(lab, sampled)
    told = f"{counts['replies']} sampled replies for {counts['pairs']} pairs: {counts['parsed']} parsed, "
    told += f"{counts['retried']} retried ("
    print_status(sampled, as_json=True)
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["iteration-1/score"]["replies"] == counts
    assert stages["iteration-1/curate"]["replies"] == {}
    for show in (lambda: print_status(sampled, as_json=False), lambda: print_summary(sampled)):
        show()
        said = " ".join(capsys.readouterr().out.split())
        assert told in said
        assert all(
            f"{kind} {counts[kind.replace(' ', '_')]}" in said for kind in ("truncated", "unparsed", "out of range")
        )
    assert told in (sampled / "report" / "report.html").read_text("utf-8")
    assert told in render_results(sampled).replace("\\", "")


def test_report_plots_the_rating_and_not_its_counts(sampled: Path) -> None:
    curation = json.loads((sampled / "report" / "report.json").read_bytes())["curation"][0]
    assert set(curation["histograms"]) == {"rating", "rating_entropy", "rating_label_mass", "sampled_rating"}


def test_same_run_in_other_shards_and_by_a_pool(lab: Lab, sampled: Path, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", runtime__shard_rows=3, runtime__workers=2, **CHANGES)
    assert lab.rows(tmp_path / "run", "iteration-1/score", "scored") == lab.rows(sampled, "iteration-1/score", "scored")
    assert _replies(lab, tmp_path / "run") == _replies(lab, sampled)


def test_engine_that_only_generates_rates_by_drawing_again(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat: frozenset[Capability] = frozenset({"generate", "loglikelihood"})
    monkeypatch.setattr(FakeEngine, "capabilities", chat)
    lab.run(tmp_path / "run", **{**CHANGES, "score__signals": ["sampled_rating"]})
    counts = _replies(lab, tmp_path / "run")
    assert counts["constrained"] == 0
    assert 0 < counts["resampled"] < counts["retried"]
    missing = [dict(row["missing"]) for row in lab.rows(tmp_path / "run", "iteration-1/score", "scored")]
    scores = [dict(row["scores"]) for row in lab.rows(tmp_path / "run", "iteration-1/score", "scored")]
    assert [("sampled_rating" in m) for m in missing] == [("sampled_rating" not in s) for s in scores]


def test_both_rubrics_and_one_of_ones_own_serve_both_ratings(lab: Lab, sampled: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Judge this.\nInstruction: {instruction}\nText:\n{response}\n\nHow good is it?")
    for rubric in ("additive", str(tmp_path / "own.txt")):
        run = tmp_path / Path(rubric).stem
        lab.run(run, prompts__rubric=rubric, **CHANGES)
        rows = lab.rows(run, "iteration-1/score", "scored")
        assert rows != lab.rows(sampled, "iteration-1/score", "scored")
        assert all({"rating", "sampled_rating"} <= dict(row["scores"]).keys() for row in rows)


def test_more_samples_are_refused_as_drift(lab: Lab, sampled: Path) -> None:
    with pytest.raises(DriftError, match=r"score\.samples: 2 -> 3"):
        lab.run(sampled, **{**CHANGES, "score__samples": 3})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"score__sample_temperature": 0}, "samples=3 with sample_temperature=0 draws the same reply each time"),
        (
            {"score__signals": ["sampled_rating"], "score__reasoning_tokens": 4000},
            "model.max_tokens=4096 leaves no room for a rubric and a pair beside score.reasoning_tokens=4000",
        ),
        ({"curate__signal": "sampled_rating"}, "curate.signal=sampled_rating is not computed"),
    ],
)
def test_settings_that_cannot_work_are_refused(lab: Lab, tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        load_recipe(lab.recipe_file(tmp_path / "recipe.yaml", **changes))


def test_rubric_that_is_neither_a_name_nor_a_file_is_refused_with_the_names(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompts.rubric=papr cannot be read: .* or paper or additive"):
        lab.run(tmp_path / "run", prompts__rubric="papr")
