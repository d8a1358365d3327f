"""`humpback cache`: what a cache holds is told in the run's words, and what is removed is what was said."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.caching import name_models, parse_bytes, tell_bytes
from humpback.engines.answers import AnswerCache
from humpback.engines.fake import FakeEngine
from humpback.errors import InputError
from humpback.store.rundir import RunDir

if TYPE_CHECKING:
    from tests.conftest import Command, Lab


@pytest.fixture
def command(command: Command) -> Command:
    return functools.partial(command, "cache")


@pytest.fixture
def held(copy_of_finished: Path) -> Iterator[AnswerCache]:
    cache = AnswerCache(copy_of_finished / "answers.sqlite")
    yield cache
    cache.close()


def _groups(command: Command, place: Path) -> list[dict[str, Any]]:
    status, out, _ = command("stats", place, "--json")
    assert status == 0
    groups: list[dict[str, Any]] = json.loads(out)["groups"]
    return groups


# -- stats ---------------------------------------------------------------------------------------------------------------


def test_stats_names_the_models_of_the_run_and_adds_up(command: Command, finished: Path, held: AnswerCache) -> None:
    groups = _groups(command, finished)
    assert {group["name"] for group in groups} == {"base", "M_0", "M_1", "M_yx", "control"}
    assert ("M_yx", "generate") in {(group["name"], group["call"]) for group in groups}
    assert sum(group["entries"] for group in groups) == len(held.keys())
    status, out, _ = command("stats", finished)
    assert status == 0
    assert "M_yx" in out
    assert f"{len(held.keys()):,} answers; the file takes" in out


def test_stats_of_a_file_in_no_run_tells_hashes(command: Command, finished: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(finished / "answers.sqlite", tmp_path / "shared.sqlite"))
    assert {group["name"] for group in _groups(command, file)} == {None}
    assert [group["entries"] for group in _groups(command, file)] == [
        group["entries"] for group in _groups(command, finished / "answers.sqlite")
    ]


def test_a_file_that_is_no_cache_is_named_and_nothing_is_left_beside_it(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("model: {}\n")
    status, _, told = command("stats", file)
    assert (status, "recipe.yaml is no answer cache" in told) == (2, True)
    assert list(tmp_path.iterdir()) == [file]


def test_stats_of_a_run_whose_cache_lies_elsewhere_reads_that(command: Command, lab: Lab, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", runtime__cache=str(tmp_path / "shared.sqlite"))
    assert not (tmp_path / "run" / "answers.sqlite").exists()
    assert "M_yx" in {group["name"] for group in _groups(command, tmp_path / "run")}


@pytest.mark.parametrize(
    ("place", "why"), [("nothing.sqlite", "give a run's folder or a cache's file"), (".", "it has no recipe.yaml")]
)
def test_place_without_a_cache_is_refused_and_none_is_made(
    command: Command, tmp_path: Path, place: str, why: str
) -> None:
    status, _, err = command("stats", tmp_path / place)
    assert status == 2
    assert why in err
    assert list(tmp_path.iterdir()) == []


def test_models_with_the_same_content_have_all_their_names(copy_of_finished: Path) -> None:
    first, control = (copy_of_finished / room / "finetune" / "manifest.json" for room in ("iteration-1", "control"))
    twin = json.loads(first.read_bytes())
    twin["result"]["content_hash"] = json.loads(control.read_bytes())["result"]["content_hash"]
    first.write_text(json.dumps(twin))
    assert "M_1, control" in name_models(copy_of_finished).values()


# -- prune ---------------------------------------------------------------------------------------------------------------


def test_prune_removes_a_model_by_its_name_after_a_dry_run_that_removes_nothing(
    command: Command, copy_of_finished: Path
) -> None:
    before = _groups(command, copy_of_finished)
    gone = sum(group["entries"] for group in before if group["name"] == "M_1")
    status, out, _ = command("prune", copy_of_finished, "--model", "M_1", "--dry-run")
    assert (status, out.startswith(f"would remove {gone:,} answers")) == (0, True)
    assert _groups(command, copy_of_finished) == before
    status, out, _ = command("prune", copy_of_finished, "--model", "M_1")
    assert (status, out.startswith(f"removed {gone:,} answers")) == (0, True)
    assert _groups(command, copy_of_finished) == [group for group in before if group["name"] != "M_1"]


def test_prune_unused_keeps_the_models_of_the_run(command: Command, copy_of_finished: Path) -> None:
    before = _groups(command, copy_of_finished)
    manifest = copy_of_finished / "control" / "finetune" / "manifest.json"
    changed = json.loads(manifest.read_bytes())
    changed["result"]["content_hash"] = "trained again"
    manifest.write_text(json.dumps(changed))
    assert command("prune", copy_of_finished, "--unused")[0] == 0
    left = {group["name"] for group in _groups(command, copy_of_finished)}
    assert left == {group["name"] for group in before} - {"control"}


def test_a_pruned_run_is_complete_and_resumes_with_what_it_needs(
    command: Command, lab: Lab, finished: Path, copy_of_finished: Path
) -> None:
    assert command("prune", copy_of_finished, "--all")[0] == 0
    assert lab.run(copy_of_finished) is False
    lab.run(copy_of_finished, rerun_from="iteration-1/score")
    lab.assert_same_run(copy_of_finished, finished)


def test_prune_is_refused_while_the_run_is_worked_on(command: Command, copy_of_finished: Path) -> None:
    before = _groups(command, copy_of_finished)
    with RunDir(copy_of_finished):
        status, _, err = command("prune", copy_of_finished, "--all")
    assert status == 1
    assert "is being worked on by process" in err
    assert _groups(command, copy_of_finished) == before


def test_prune_of_a_shared_file_is_refused_while_any_run_has_it_open(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    cache = AnswerCache(Path(shutil.copy(finished / "answers.sqlite", tmp_path / "shared.sqlite")))
    status, _, err = command("prune", cache.path, "--all")
    assert status == 1
    assert "is in use by a run; wait for it, or stop it" in err
    assert cache.keys()
    cache.close()
    assert command("prune", cache.path, "--older-than", "0")[1].startswith("removed 0 answers")
    assert command("prune", cache.path, "--max-size", "1kB")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --model"),
        (["--all", "--unused"], "not 2"),
        (["--max-size", "big"], "'big' is no size; write it as 2GB"),
        (["--model", "M_7"], "--model M_7 fits no model of the cache; it has answers of: "),
    ],
)
def test_prune_that_says_not_what_goes_is_refused(
    command: Command, copy_of_finished: Path, options: list[str], message: str
) -> None:
    status, _, err = command("prune", copy_of_finished, *options)
    assert status == 2
    assert message in err


def test_unused_means_nothing_without_a_run(command: Command, finished: Path, tmp_path: Path) -> None:
    file = shutil.copy(finished / "answers.sqlite", tmp_path / "shared.sqlite")
    assert "lies in none; give a run's folder" in command("prune", file, "--unused")[2]


@pytest.mark.parametrize(
    ("text", "number"), [("2GB", 2 * 10**9), ("1.5 MB", 1_500_000), ("700", 700), ("3kb", 3000), ("1TiB", 10**12)]
)
def test_sizes_are_read(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "2G B"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no size"):
        parse_bytes(text)


def test_sizes_are_told() -> None:
    assert [tell_bytes(n) for n in (0, 999, 1500, 2_000_000, 3 * 10**9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.0 MB",
        "3.0 GB",
    ]


# -- shared by runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Counts what the model itself is asked, by stage and call."""
    count: Counter[tuple[str, str]] = Counter()
    stage = [""]
    begin = RunDir.begin

    def note_stage(self: RunDir, name: str, identity: Any) -> bool:
        stage[0] = name
        return begin(self, name, identity)

    monkeypatch.setattr(RunDir, "begin", note_stage)

    def hook(call: str) -> None:
        real = getattr(FakeEngine, call)

        def noting(self: FakeEngine, prompts: Any, *more: Any) -> Any:
            count[stage[0], call] += sum("FAIL-ME" not in prompt.text for prompt in prompts)
            return real(self, prompts, *more)

        monkeypatch.setattr(FakeEngine, call, noting)

    for call in ("generate", "choice_logprobs", "loglikelihood"):
        hook(call)
    return count


def test_a_changed_threshold_asks_nothing_again(lab: Lab, tmp_path: Path, asked: Counter[tuple[str, str]]) -> None:
    shared = {"runtime__cache": str(tmp_path / "shared.sqlite"), "curate__signal": "rating"}
    lab.run(tmp_path / "one", curate__threshold=3, **shared)
    assert asked["backward/gate", "generate"]  # what augment asks again
    assert asked["iteration-1/score", "choice_logprobs"]
    asked.clear()
    lab.run(tmp_path / "other", curate__threshold=4, **shared)
    assert lab.rows(tmp_path / "one", "iteration-1/curate", "curated") != lab.rows(
        tmp_path / "other", "iteration-1/curate", "curated"
    )
    assert {stage for stage, _ in +asked} == {"iteration-1/audit", "evaluate"}  # M_1 is another model
    score = lab.manifest(tmp_path / "other", "iteration-1/score")["engine"]
    assert score["cache_hits"] == score["requests"] > 0
    assert score["tokens_in"] == score["tokens_out"] == 0


def test_a_changed_rubric_asks_for_ratings_alone(lab: Lab, tmp_path: Path, asked: Counter[tuple[str, str]]) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Text:\n{instruction}\n{response}\n\nHow good is it, 1 to 5?")
    shared = {"runtime__cache": str(tmp_path / "shared.sqlite"), "curate__signal": "backward_lift"}
    lab.run(tmp_path / "one", **shared)
    asked.clear()
    lab.run(tmp_path / "other", prompts__rubric=str(rubric), **shared)
    assert {call for _, call in +asked} == {"choice_logprobs"}
    assert {stage for stage, _ in +asked} == {"iteration-0/audit", "iteration-1/score", "iteration-1/audit"}


def test_a_changed_backward_prompt_asks_no_rating_of_held_out_pairs_again(
    lab: Lab, tmp_path: Path, asked: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"runtime__cache": str(tmp_path / "shared.sqlite")}
    lab.run(tmp_path / "one", **shared)
    asked.clear()
    monkeypatch.setattr(
        "humpback.prompts.rendering.BACKWARD_PROMPT", "What was asked, to be told this?\n\nText:\n{document}"
    )
    lab.run(tmp_path / "other", **shared)
    assert asked["iteration-0/audit", "choice_logprobs"] == 0
    assert asked["iteration-0/audit", "loglikelihood"] > 0  # of the backward model, which is another
    assert asked["backward/gate", "generate"] > 0


# -- totals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_totals_of_shards_manifest_and_status_are_equal_and_add_up(
    lab: Lab, tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from humpback.report.status import print_status

    run = tmp_path / "run"
    lab.run(run, runtime__workers=workers, gate__segments=0)
    print_status(run, as_json=True)
    status = json.loads(capsys.readouterr().out)
    stages = {stage["name"]: stage for stage in status["stages"]}
    for name in ("augment", "iteration-1/score"):
        shards = [json.loads(line)["engine"] for line in (run / name / "sittings.jsonl").read_text().splitlines()]
        assert len(shards) > 1
        engine = lab.manifest(run, name)["engine"]
        assert engine == stages[name]["engine"]
        assert engine == {key: pytest.approx(sum(shard[key] for shard in shards)) for key in engine}
        assert engine["tokens_in"] > 0
    assert stages["augment"]["engine"]["errors"] == stages["augment"]["failed"]["engine_error"] == 2
    for key, value in status["engine"].items():
        assert value == pytest.approx(sum(stage["engine"][key] for stage in status["stages"]))
    if workers == 1:  # two workers may ask the same question at once; nothing else is asked twice
        cache = AnswerCache(run / "answers.sqlite")
        assert (
            len(cache.keys())
            == status["engine"]["requests"] - status["engine"]["cache_hits"] - status["engine"]["errors"]
        )
        cache.close()


def test_status_reads_manifests_that_count_no_errors(
    copy_of_finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from humpback.report.status import print_status

    path = copy_of_finished / "augment" / "manifest.json"
    old = json.loads(path.read_bytes())
    for key in ("errors", "retries"):
        del old["engine"][key]
    path.write_text(json.dumps(old))
    print_status(copy_of_finished, as_json=True)
    augment = next(row for row in json.loads(capsys.readouterr().out)["stages"] if row["name"] == "augment")
    assert augment["engine"] == {**old["engine"], "errors": 0, "retries": 0}
