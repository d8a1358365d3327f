"""The run folder: one process at a time, no stale output, and nothing lost when the disk refuses."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from humpback.engines import fake
from humpback.engines.base import ModelRef
from humpback.errors import DriftError, GateError, InputError, LockedError, StorageError
from humpback.prompts import RUBRICS
from humpback.rooms import deciding
from humpback.stages.table import stage_names
from humpback.store.rundir import Counts, RunDir

if TYPE_CHECKING:
    from tests.conftest import Lab

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

NOBODY = 65534


# -- lock ----------------------------------------------------------------------------------------------------------------


def _hold(run: Path, ready: int) -> None:
    with RunDir(run):
        os.write(ready, b"x")
        os.read(os.pipe()[0], 1)  # never ends by itself


def test_second_process_is_refused_with_the_holders_id_until_kill_9_releases_the_lock(lab: Lab, tmp_path: Path) -> None:
    run = tmp_path / "run"
    reading, writing = os.pipe()
    with lab.start_child(lambda: _hold(run, writing), tmp_path / "holder") as holder:
        os.read(reading, 1)
        refused = lab.in_child(lambda: lab.run(run), tmp_path / "second")
        assert refused.exit_status == 1
        assert f"being worked on by process {holder.pid};" in refused.error
        with pytest.raises(LockedError):
            RunDir(run).__enter__()
        assert [path.name for path in run.iterdir()] == [".lock"]
        holder.kill()
        with RunDir(run):
            assert (run / ".lock").read_text() == str(os.getpid())
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_lock_is_released_when_the_run_ends_or_stops(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDir(tmp_path / "run"), pytest.raises(LockedError):
        lab.run(tmp_path / "run")
    monkeypatch.setattr(os, "pwrite", _refuse(errno.ENOSPC))  # the disk is full when the holder's id is written
    with pytest.raises(StorageError, match="disk is full"):
        lab.run(tmp_path / "run")
    monkeypatch.undo()
    with RunDir(tmp_path / "run"):
        pass


def test_run_folder_that_is_a_file_is_refused(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(InputError, match="is a file; name another folder"):
        lab.run(tmp_path / "file")
    with pytest.raises(StorageError, match="a part of that path is a file; choose another folder"):
        lab.run(tmp_path / "file" / "run")


# -- drift ---------------------------------------------------------------------------------------------------------------


def _assert_refused(lab: Lab, run: Path, stage: str, difference: str, **changes: object) -> None:
    before = lab.listing(run)
    with pytest.raises(DriftError) as caught:
        lab.run(run, **changes)
    message = str(caught.value)
    assert message.startswith(f"stage {stage} in {run} was made from something else:\n")
    assert any(line.startswith(f"  {difference}") for line in message.splitlines()), message
    assert f"--rerun-from {stage}," in message
    assert "another run folder (--run NAME)" in message
    assert caught.value.exit_status == 2
    assert lab.listing(run) == before


@pytest.mark.parametrize(
    ("changes", "stage", "difference"),
    [
        ({"random_seed": 8}, "seed", "random_seed: 7 -> 8"),
        ({"seed__holdout": 11}, "seed", "seed.holdout: 10 -> 11"),
        ({"corpus__min_chars": 310}, "ingest", "corpus.min_chars: 300 -> 310"),
        ({"corpus__sample": 15}, "dedup", "sample: null -> 15"),
        ({"prompts__seed_tag": "Be kind."}, "iteration-0/mix", "prompts.answer: "),
        ({"train__learning_rate": 2e-5}, "backward/finetune", "train.learning_rate: 1e-05 -> 2e-05"),
        ({"augment__temperature": 0.5}, "backward/gate", "augment.temperature: 0.7 -> 0.5"),
        ({"score__signals": ["rating"]}, "iteration-0/audit", "score.signals: 4 gone"),
        ({"prompts__rubric": "additive"}, "iteration-0/audit", "prompts.rate: "),
        ({"evaluate__confidence": 0.9}, "iteration-0/audit", "statistics.confidence: 0.95 -> 0.9"),
        ({"curate__top": 0.3}, "iteration-1/curate", "decision.value: 0.4 -> 0.3"),
    ],
)
def test_changed_recipe_value_is_refused_and_nothing_is_touched(
    lab: Lab, copy_of_finished: Path, changes: dict[str, object], stage: str, difference: str
) -> None:
    _assert_refused(lab, copy_of_finished, stage, difference, **changes)


@pytest.mark.parametrize(("name", "stage"), [("seed", "seed"), ("corpus", "ingest")])
def test_changed_input_file_is_refused_and_nothing_is_touched(
    own_lab: Lab, tmp_path: Path, name: str, stage: str
) -> None:
    own_lab.run(tmp_path / "run")
    path: Path = getattr(own_lab, name)
    path.write_text(path.read_text() + path.read_text().splitlines()[0].replace("the", "one", 1) + "\n")
    _assert_refused(own_lab, tmp_path / "run", stage, 'files.0.1: "')


def test_touched_input_file_is_no_drift(own_lab: Lab, tmp_path: Path) -> None:
    own_lab.run(tmp_path / "run")
    own_lab.corpus.write_bytes(own_lab.corpus.read_bytes())
    assert own_lab.run(tmp_path / "run") is False


@pytest.mark.parametrize(
    ("where", "stage", "difference"),
    [
        ("humpback.prompts.rendering.BACKWARD_PROMPT", "backward/mix", "prompts.backward: "),
    ],
)
def test_changed_prompt_wording_is_refused_and_nothing_is_touched(
    lab: Lab, copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch, where: str, stage: str, difference: str
) -> None:
    monkeypatch.setattr(where, "Kindly: {document} {instruction} {response}")
    _assert_refused(lab, copy_of_finished, stage, difference)


def test_changed_rubric_wording_is_refused_and_nothing_is_touched(
    lab: Lab, copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUBRICS, "paper", "Kindly: {instruction} {response}")
    _assert_refused(lab, copy_of_finished, "iteration-0/audit", "prompts.rate: ")


def test_settings_of_a_signal_that_is_not_computed_bear_no_identity(lab: Lab, copy_of_finished: Path) -> None:
    changes = {"score__samples": 5, "score__sample_temperature": 1.0, "score__reasoning_tokens": 64}
    assert lab.run(copy_of_finished, **changes) is False


def test_changed_model_is_refused_and_nothing_is_touched(
    lab: Lab, copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "fake_model", lambda _: ModelRef(path="fake", content_hash="another"))
    _assert_refused(lab, copy_of_finished, "backward/mix", 'models.base: "')


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime__shard_rows": 3, "runtime__batch_tokens": 64, "runtime__train_batch_tokens": 64},
        {"runtime__workers": 3, "runtime__threads": 1, "runtime__device": "cpu"},
        {"runtime__cache": "{tmp}/answers.sqlite", "runtime__model_cache": "{tmp}/models"},
    ],
)
def test_runtime_bears_no_identity(
    lab: Lab, copy_of_finished: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    changes = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    before = lab.listing(copy_of_finished)
    assert lab.run(copy_of_finished, **changes) is False
    after = lab.listing(copy_of_finished)
    assert [name for name in before if before[name] != after.get(name)] == ["recipe.yaml"]


# -- rerun ---------------------------------------------------------------------------------------------------------------


def test_rerun_from_keeps_what_is_before_and_rebuilds_the_rest(
    lab: Lab, copy_of_finished: Path, tmp_path: Path
) -> None:
    run = copy_of_finished
    places = {path: path.stat().st_ino for path in run.rglob("*") if path.name != "recipe.yaml"}
    changed = {path: path.stat().st_ctime_ns for path in places}  # a number may be given to another file at once
    assert lab.run(run, rerun_from="iteration-1/score", curate__threshold=4.0)
    stages = [name for name, _ in stage_names(lab.recipe())]
    at = stages.index("iteration-1/score")
    for stage in stages[:at]:
        assert all(places[path] == path.stat().st_ino for path in (run / stage).rglob("*")), stage
    for stage in stages[at:]:
        manifest = run / stage / "manifest.json"
        assert changed[manifest] < manifest.stat().st_ctime_ns, stage
    lab.run(tmp_path / "fresh", curate__threshold=4.0)
    lab.assert_same_run(tmp_path / "fresh", run)


@pytest.mark.parametrize("stage", ["iteration-1/score", "report"])
def test_a_rerun_that_is_refused_at_an_earlier_stage_has_lost_nothing(
    lab: Lab, copy_of_finished: Path, stage: str
) -> None:
    before = lab.listing(copy_of_finished)
    with pytest.raises(DriftError, match=r"stage seed in .* was made from something else"):
        lab.run(copy_of_finished, rerun_from=stage, seed__holdout=11)
    assert lab.listing(copy_of_finished) == before


@pytest.mark.parametrize("stage", [None, "iteration-1/curate", "iteration-1/mix"])
def test_a_curation_that_cannot_be_decided_leaves_a_finished_run_as_it_was(
    lab: Lab, copy_of_finished: Path, stage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise GateError("curate.precision=0.999 cannot be promised")

    before = lab.listing(copy_of_finished)
    told = (
        r"precision=0.999 .* Nothing was discarded: .*iteration-1/curate is complete .*--rerun-from iteration-1/curate"
    )
    with monkeypatch.context() as patched:
        patched.setattr(deciding, "decide", refuse)
        with pytest.raises(GateError, match=told):
            lab.run(copy_of_finished, rerun_from=stage)
    assert lab.listing(copy_of_finished) == before
    assert lab.run(copy_of_finished) is False
    assert lab.run(copy_of_finished, rerun_from="iteration-1/curate", curate__threshold=4.0)


@pytest.mark.parametrize("stage", ["iteration-1/score", "report"])
def test_the_fix_that_a_damaged_manifest_comes_with_mends_it(lab: Lab, copy_of_finished: Path, stage: str) -> None:
    manifest = copy_of_finished / stage / "manifest.json"
    manifest.write_text('{"name":')
    with pytest.raises(StorageError, match=rf"manifest.json is damaged .*--rerun-from {stage}"):
        lab.run(copy_of_finished)
    assert lab.run(copy_of_finished, rerun_from=stage)
    assert lab.run(copy_of_finished) is False


def test_a_stage_that_is_new_before_the_first_to_rebuild_is_run(lab: Lab, copy_of_finished: Path) -> None:
    shutil.rmtree(copy_of_finished / "evaluate")
    assert lab.run(copy_of_finished, rerun_from="dataset")
    assert (copy_of_finished / "evaluate" / "manifest.json").exists()


def test_manifest_comes_last(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, there = tmp_path / "run", {}
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "manifest.json":
            there[target.parent] = lab.listing(target.parent)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    lab.run(run)
    assert len(there) == len(stage_names(lab.recipe()))
    for folder, before in there.items():
        before["manifest.json"] = before.pop(".manifest.json.tmp")
        assert lab.listing(folder) == before


def test_stage_that_lost_rows_gets_no_manifest(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run") as run_dir:
        run_dir.begin("seed", {"stage": "seed"})
        with pytest.raises(AssertionError, match="stage seed lost rows"):
            run_dir.finish("seed", None, Counts(read=3, kept=2), seconds=0, result={}, engine={}, environment={})
        assert run_dir.state("seed") == "started"
        assert run_dir.manifest("seed") is None


def test_damaged_manifest_is_named_with_the_fix(lab: Lab, copy_of_finished: Path) -> None:
    for name in ("manifest.json", "stage.json"):
        path = copy_of_finished / "dedup" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StorageError, match=rf"dedup/{name} is damaged .*run again with --rerun-from dedup"):
            lab.run(copy_of_finished)
        path.write_bytes(whole)
    assert lab.run(copy_of_finished) is False


# -- the disk refuses ----------------------------------------------------------------------------------------------------


def _refuse(code: int, *, at: int = 0, real: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a stand-in that raises an OSError at its call number `at`, and works like `real` before."""
    calls = iter(range(1_000_000))

    def refusing(*args: Any, **more: Any) -> Any:
        if next(calls) >= at or real is None:
            raise OSError(code, os.strerror(code))
        return real(*args, **more)

    return refusing


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here: that takes root and a mount namespace")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("free_kb", [0, 4, 60, 150, 250, 400, 550])
def test_full_disk_stops_the_run_with_a_clear_message_and_leaves_it_resumable(
    lab: Lab, finished: Path, small_disk: Path, tmp_path: Path, free_kb: int
) -> None:
    run, ballast = small_disk / "run", small_disk / "ballast"
    ballast.write_bytes(b"\0" * (shutil.disk_usage(small_disk).free - free_kb * 1024))
    stopped = lab.in_child(lambda: lab.run(run), tmp_path / "child")
    assert stopped.exit_status == 1, stopped.error
    assert "free s" in stopped.error  # "free some space"; "free space or ..."
    assert str(run) in stopped.error
    ballast.unlink()
    resumed = lab.in_child(lambda: lab.run(run), tmp_path / "child")
    assert resumed.exit_status == 0, resumed.error
    lab.assert_same_run(finished, run)


@pytest.mark.parametrize("at", [0, 1, 9, 20, 40])
@pytest.mark.parametrize(("owner", "name"), [(os, "replace"), (os, "fsync"), (pq.ParquetWriter, "write_table")])
def test_refused_write_stops_the_run_and_leaves_it_resumable(
    lab: Lab, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(owner, name, _refuse(errno.ENOSPC, at=at, real=getattr(owner, name)))
    with pytest.raises(
        StorageError, match="the disk is full; free some space, then run the same command again"
    ) as caught:
        lab.run(run)
    assert caught.value.exit_status == 1
    monkeypatch.undo()
    lab.run(run)
    lab.assert_same_run(finished, run)


def test_model_that_cannot_be_written_stops_the_run_and_leaves_it_resumable(
    lab: Lab, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("humpback.training.fake._write", _refuse(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"backward/finetune cannot be written: the disk is full"):
        lab.run(tmp_path / "run")
    monkeypatch.undo()
    lab.run(tmp_path / "run")
    lab.assert_same_run(finished, tmp_path / "run")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="humpback-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


def _as_nobody(work: Callable[[], object]) -> Callable[[], object]:
    """Root may write anywhere, so it becomes another user first."""

    def working() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()

    return working


@pytest.mark.parametrize("where", [".", "run", "run/augment", "run/iteration-0"])
def test_read_only_folder_stops_the_run_with_a_clear_message_and_leaves_it_resumable(
    lab: Lab, open_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    lab = type(lab)(open_folder / "lab")
    run, locked = open_folder / "run", open_folder / where
    if where != ".":  # begun, and stopped in the augment stage
        real = os.replace

        def replace(source: Path, target: Path) -> None:
            if target.name == "candidates-00001.parquet":
                raise OSError(errno.ENOSPC, "full")
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(StorageError):
            lab.run(run)
        monkeypatch.undo()
        locked.mkdir(exist_ok=True)
        _give_away(run)
    locked.chmod(0o555)
    stopped = lab.in_child(_as_nobody(lambda: lab.run(run)), tmp_path / "child")
    assert stopped.exit_status == 1, stopped.error
    assert "permission" in stopped.error
    assert str(locked) in stopped.error
    locked.chmod(0o755)
    _give_away(open_folder)
    resumed = lab.in_child(_as_nobody(lambda: lab.run(run)), tmp_path / "child")
    assert resumed.exit_status == 0, resumed.error
    lab.run(tmp_path / "whole")
    lab.assert_same_run(tmp_path / "whole", run)
