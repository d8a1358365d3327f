"""Killed with SIGKILL at any moment, a run resumes to the files it would have had, and asks no model twice.

Moments are the low-level operations of a run: a file written but not in place, a rename, a deletion, a batch asked, answers
stored. The scripted run is deterministic, so the k-th moment of a stage is the same in every run, and a kill can be aimed.
Most sittings start from a copy of the folder as it was when the stage began, so that a test costs a part of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from humpback.engines.answers import AnswerCache
from humpback.engines.base import Sampling
from humpback.engines.cache import CachedEngine
from humpback.engines.fake import FakeEngine
from humpback.errors import DriftError, StorageError
from humpback.prompts import Choice, Continuation, Prompt
from humpback.recipe import Recipe
from humpback.rooms import results
from humpback.stages.table import stage_names
from humpback.store.rundir import RunDir
from humpback.store.shards import atomic_write

if TYPE_CHECKING:
    from tests.conftest import Child, Lab

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

STAGES = [
    name
    for name, _ in stage_names(
        Recipe.model_validate(
            {
                "iterations": 1,
                "model": {"base": "fake"},
                "seed": {"inputs": [{"path": "any"}]},
                "corpus": {"inputs": [{"path": "any"}]},
                "runtime": {"engine": "fake"},
            }
        )
    )
]
MAP_STAGES = ("ingest", "augment", "iteration-1/score")
RANDOM_KILLS = 50


class Moment(NamedTuple):
    """One low-level operation of a run."""

    stage: str
    what: str


DISCARDING = "discarding"
"""Stands for a stage's name while stages are removed to be made anew."""


class Aim(NamedTuple):
    """The moment to kill at."""

    stage: str
    ordinal: int
    """Counted from 0 in the stage."""


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run, and all that it did."""

    folder: Path
    began: Path
    """A folder with the run as it was when each stage began."""
    moments: list[Moment]
    key_of: dict[str, str]
    """The answer cache's key, in hex, of every request."""
    answerable: frozenset[str]
    """Requests that get an answer; the others get an error, which is never stored."""

    def of_stage(self, stage: str) -> list[str]:
        return [moment.what for moment in self.moments if moment.stage == stage]

    def aim(self, stage: str, point: str) -> Aim:
        """Choose a moment of the stage: its identity opened and not yet written, half-way, its manifest likewise."""
        whats = self.of_stage(stage)
        opened = [n for n, what in enumerate(whats) if what.startswith("open ") and what.endswith(" wb, done")]
        start = next(n for n in opened if "stage.json" in whats[n])
        end = next(n for n in opened if "manifest.json" in whats[n])
        begun = whats.index("rename stage.json, done")
        return Aim(stage, {"start": start, "middle": (begun + 1 + end) // 2, "end": end}[point])


class Watcher:
    """Numbers the moments of the run in this process, logs them and every request, and kills at one of them."""

    def __init__(self, log: Path, kill_at: Aim | None = None, *, slow_s: float = 0.0, keep: Path | None = None) -> None:
        """`slow_s` is slept at every call of the engine; `keep` is a folder for copies of the run at every stage's begin."""
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.kill_at = kill_at
        self.slow_s = slow_s
        self.keep = keep
        self.count = 0
        self.stage = ""
        self.asked: list[str] = []

    def moment(self, what: str) -> None:
        self.say({"moment": [self.stage, what]})
        if self.kill_at == (self.stage, self.count):
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def say(self, entry: dict[str, object]) -> None:
        os.write(self.log, (json.dumps(entry) + "\n").encode())

    def hook(self) -> None:
        """Hook this process for the rest of its life."""
        self._watch(os, "replace", lambda *a, **_: f"rename {Path(a[1]).name}", after=True)
        self._watch(os, "rename", lambda *a, **_: f"move {Path(a[1]).name}", after=True)
        self._watch(os, "unlink", lambda *a, **_: f"delete {Path(a[0]).name}")
        self._watch(os, "rmdir", lambda *a, **_: f"delete {Path(a[0]).name}")
        self._watch(shutil, "rmtree", lambda *a, **_: f"delete all of {Path(a[0]).name}")
        self._watch(
            Path, "open", lambda path, mode="r", *_, **__: f"open {path.name} {mode}" * (mode[0] in "aw"), after=True
        )
        self._watch(pq.ParquetWriter, "write_table", lambda *_, **__: "half a shard", after=True)
        self._watch(AnswerCache, "put", lambda *_: "store answers", after=True)
        os.fsync = lambda _: self.moment("written")  # type: ignore[assignment]  # a kill loses no page cache
        self._hook_engine()
        results.write_report = lambda path, data: atomic_write(path, b"a page")  # a third of a short run's time
        real = RunDir.begin

        def begin(run_dir: RunDir, stage: str, identity: Any) -> bool:
            self.stage, self.count = stage, 0
            if self.keep:
                shutil.copytree(run_dir.path, self.keep / stage.replace("/", "."))
            return real(run_dir, stage, identity)

        RunDir.begin = begin  # type: ignore[method-assign]
        discarding = RunDir.discard

        def discard(run_dir: RunDir, stage: str) -> None:
            if self.stage != DISCARDING:
                self.stage, self.count = DISCARDING, 0
            discarding(run_dir, stage)

        RunDir.discard = discard  # type: ignore[method-assign]

    def _watch(self, owner: Any, name: str, describe: Callable[..., str], *, after: bool = False) -> None:
        """Make a moment of every call that `describe` has words for."""
        real = getattr(owner, name)

        def watched(*args: Any, **more: Any) -> Any:
            if what := describe(*args, **more):
                self.moment(what)
            result = real(*args, **more)
            if what and after:
                self.moment(f"{what}, done")
            return result

        setattr(owner, name, watched)

    def _hook_engine(self) -> None:
        def ask(name: str, ids_of: Callable[..., Iterator[tuple[str, bool]]]) -> None:
            real = getattr(FakeEngine, name)

            def asked(engine: FakeEngine, prompts: Sequence[Prompt], *more: Any) -> Any:
                found = list(ids_of(engine, prompts, *more))
                self.asked = [request for request, _ in found]
                self.say({"asked": found})
                self.moment("ask")
                time.sleep(self.slow_s)
                return real(engine, prompts, *more)

            setattr(FakeEngine, name, asked)

        for name, ids_of in (("generate", _draws), ("choice_logprobs", _choices), ("loglikelihood", _likelihoods)):
            ask(name, ids_of)
        real = CachedEngine._answer

        def answer(
            cached: CachedEngine, codec: Any, keys: Sequence[bytes], lengths: Any, inner: Any, *more: Any
        ) -> Any:
            def noting(rows: list[int]) -> Any:
                fresh = inner(rows)
                self.say({"keys": [[request, keys[r].hex()] for request, r in zip(self.asked, rows, strict=True)]})
                return fresh

            return real(cached, codec, keys, lengths, noting, *more)

        CachedEngine._answer = answer  # type: ignore[method-assign]


def _draws(engine: FakeEngine, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[str, bool]]:
    for prompt in prompts:
        yield _request("generate", engine, prompt, sampling, prompt.seed), "FAIL-ME" in prompt.text


def _choices(
    engine: FakeEngine, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int]
) -> Iterator[tuple[str, bool]]:
    for prompt in prompts:
        yield _request("choices", engine, prompt, choices, layers), "FAIL-ME" in prompt.text


def _likelihoods(
    engine: FakeEngine, prompts: Sequence[Prompt], continuations: Sequence[Continuation]
) -> Iterator[tuple[str, bool]]:
    for prompt, said in zip(prompts, continuations, strict=True):
        yield _request("likelihood", engine, prompt, said.token_ids), "FAIL-ME" in prompt.text + said.text


def _request(call: str, engine: FakeEngine, prompt: Prompt, *rest: object) -> str:
    return hashlib.sha256(repr((call, engine.model.content_hash, prompt.token_ids, *rest)).encode()).hexdigest()[:20]


def _entries(log: Path, name: str) -> list[Any]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def _asked(log: Path) -> list[str]:
    """Return the requests that can be answered, as often as they were asked."""
    return [request for batch in _entries(log, "asked") for request, fails in batch if not fails]


def _sitting(
    lab: Lab,
    run: Path,
    scratch: Path,
    name: str,
    kill_at: Aim | None = None,
    *,
    keep: Path | None = None,
    rerun_from: str | None = None,
) -> tuple[Child, Path]:
    """Work on the run in a child until it ends or is killed; return how it ended, and its log."""
    log = scratch / f"{name}.log"

    def work() -> None:
        Watcher(log, kill_at, keep=keep).hook()
        lab.run(run, rerun_from=rerun_from)

    return lab.in_child(work, scratch), log


@pytest.fixture(scope="module")
def whole(lab: Lab, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    ended, log = _sitting(lab, folder / "run", folder, "whole", keep=folder / "began")
    assert ended.exit_status == 0, ended.error
    lab.assert_same_run(finished, folder / "run")
    asked = _asked(log)
    assert len(asked) == len(set(asked)) > 100  # nothing is asked twice in one sitting either
    return Whole(
        folder=folder / "run",
        began=folder / "began",
        moments=[Moment(*entry) for entry in _entries(log, "moment")],
        key_of=dict(pair for batch in _entries(log, "keys") for pair in batch),
        answerable=frozenset(asked),
    )


def _kill(lab: Lab, whole: Whole, tmp_path: Path, aim: Aim) -> Path:
    """Return a run that was killed there, in the sitting that began the stage."""
    run = Path(shutil.copytree(whole.began / aim.stage.replace("/", "."), tmp_path / "run"))
    killed, log = _sitting(lab, run, tmp_path, "killed", aim)
    assert killed.signal == signal.SIGKILL, killed.error
    done = [what for stage, what in _entries(log, "moment") if stage == aim.stage]
    assert done == whole.of_stage(aim.stage)[: aim.ordinal + 1]
    before_the_last_batch = [request for batch in _entries(log, "asked")[:-1] for request, fails in batch if not fails]
    assert {whole.key_of[request] for request in before_the_last_batch} <= _answered(lab, tmp_path)
    return run


def _answered(lab: Lab, tmp_path: Path) -> set[str]:
    return {key.hex() for key in lab.cache_keys(tmp_path / "run" / "answers.sqlite", tmp_path / "copy")}


def _resume_and_compare(lab: Lab, whole: Whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answered = _answered(lab, tmp_path)
    assert answered <= set(whole.key_of.values())
    shards = {path: path.stat().st_ino for stage in MAP_STAGES for path in (run / stage).glob("[!.r]*.parquet")}
    resumed, log = _sitting(lab, run, tmp_path, "resumed")
    assert resumed.exit_status == 0, resumed.error
    lab.assert_same_run(whole.folder, run)
    assert {path: path.stat().st_ino for path in shards} == shards  # a finished shard is not worked again
    unanswered = (request for request in whole.answerable if whole.key_of[request] not in answered)
    assert sorted(_asked(log)) == sorted(unanswered)  # what was answered is not asked, what was not is asked once


# -- kill -9 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["start", "middle", "end"])
@pytest.mark.parametrize("stage", STAGES)
def test_run_killed_in_a_stage_resumes_to_the_same_files(
    lab: Lab, whole: Whole, tmp_path: Path, stage: str, point: str
) -> None:
    _kill(lab, whole, tmp_path, whole.aim(stage, point))
    _resume_and_compare(lab, whole, tmp_path)


@pytest.mark.parametrize("part", range(RANDOM_KILLS))
def test_run_killed_at_a_random_moment_resumes_to_the_same_files(
    lab: Lab, whole: Whole, tmp_path: Path, part: int
) -> None:
    edges = [len(whole.moments) * step // RANDOM_KILLS for step in (part, part + 1)]  # spread over the whole run
    number = random.Random(part).randrange(*edges)
    stage = whole.moments[number].stage
    _kill(lab, whole, tmp_path, Aim(stage, sum(moment.stage == stage for moment in whole.moments[:number])))
    _resume_and_compare(lab, whole, tmp_path)


def test_the_moments_cover_renames_answers_and_half_written_files(whole: Whole) -> None:
    whats = {moment.what for moment in whole.moments}
    for what in ("written", "ask", "store answers", "store answers, done", "half a shard", "half a shard, done"):
        assert what in whats
    for name in (
        "stage.json",
        "manifest.json",
        "scored-00001.parquet",
        "rejected-00000.parquet",
        "model",
        "recipe.yaml",
    ):
        assert {f"rename {name}", f"rename {name}, done"} <= whats
    assert {"open .stage.json.tmp wb, done", "open fake-model.json w, done"} <= whats
    assert list(dict.fromkeys(moment.stage for moment in whole.moments)) == STAGES


def test_run_killed_from_outside_again_and_again_ends_in_the_same_files(lab: Lab, whole: Whole, tmp_path: Path) -> None:
    dice = random.Random(0)
    run, log = tmp_path / "run", tmp_path / "slow.log"

    def work() -> None:
        Watcher(log, slow_s=0.003).hook()
        lab.run(run)

    kills = 0
    for _ in range(6):
        with lab.start_child(work, tmp_path) as child:
            time.sleep(dice.uniform(0.02, 0.2))
            kills += child.kill().signal == signal.SIGKILL
    assert kills > 1
    _resume_and_compare(lab, whole, tmp_path)


def test_run_with_a_pool_killed_from_outside_resumes_to_the_same_files(lab: Lab, whole: Whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with lab.start_child(lambda: lab.run(run, runtime__workers=2), tmp_path) as child:
        wait_until(lambda: (run / "augment" / "candidates-00000.parquet").exists())
        child.kill()
    lab.run(run)  # at once: the dead run's workers may still be ending
    lab.assert_same_run(whole.folder, run)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stage", ["augment", "iteration-1/mix"])
def test_run_resumed_with_another_shard_size_keeps_its_rows(lab: Lab, whole: Whole, tmp_path: Path, stage: str) -> None:
    half = [n for n, what in enumerate(whole.of_stage(stage)) if what == "half a shard, done"]
    run = _kill(lab, whole, tmp_path, Aim(stage, half[len(half) // 2]))
    assert [path.name for path in run.rglob(".*.tmp")] != []
    lab.run(run, runtime__shard_rows=100)
    prefixes = {"augment": "candidates", "iteration-1/score": "scored", "iteration-1/mix": "mix", "control/mix": "mix"}
    for name, prefix in prefixes.items():
        assert lab.rows(run, name, prefix) == lab.rows(whole.folder, name, prefix)
    assert [path.name for path in run.rglob(".*.tmp")] == []


# -- other remains of a kill ---------------------------------------------------------------------------------------------


def _discarding(lab: Lab, whole: Whole, tmp_path: Path, stage: str = "augment") -> int:
    """Return how many moments `--rerun-from STAGE` takes to remove what it rebuilds; check what it rebuilds."""
    ended, log = _sitting(lab, shutil.copytree(whole.folder, tmp_path / "run"), tmp_path, "rebuilt", rerun_from=stage)
    assert ended.exit_status == 0, ended.error
    lab.assert_same_run(whole.folder, tmp_path / "run")
    return sum(name == DISCARDING for name, _ in _entries(log, "moment"))


def test_kill_while_discarding_leaves_each_stage_whole_or_gone(lab: Lab, whole: Whole, tmp_path: Path) -> None:
    moments = _discarding(lab, whole, tmp_path / "rebuilt")
    dropped = STAGES[STAGES.index("augment") :]
    assert moments > 5 * len(dropped)
    for number in range(0, moments, 17):
        run = Path(shutil.copytree(whole.folder, tmp_path / f"run-{number}"))
        killed, _ = _sitting(lab, run, tmp_path, "killed", Aim(DISCARDING, number), rerun_from="augment")
        assert killed.signal == signal.SIGKILL, killed.error
        left = [stage for stage in STAGES if (run / stage).exists()]
        assert left == STAGES[: len(left)]  # the last stage goes first
        assert len(left) >= STAGES.index("augment")
        for stage in left:
            assert lab.listing(run / stage) == lab.listing(whole.folder / stage), stage
        assert lab.run(run) == (left != STAGES)
        lab.assert_same_run(whole.folder, run)  # what was moved aside is swept away too


def test_recipe_changed_after_a_kill_while_discarding_finds_no_old_shard(
    lab: Lab, whole: Whole, tmp_path: Path
) -> None:
    moments = _discarding(lab, whole, tmp_path / "rebuilt", "backward/gate")
    changed = {
        "augment__temperature": 0.0,
        "gate__min_lift_auc": 0,
    }  # made-up words: greedy drafts fit any text as well
    lab.run(tmp_path / "expected", **changed)
    for number in range(moments - 20, moments, 3):  # while the changed stages themselves are discarded
        run = Path(shutil.copytree(whole.folder, tmp_path / f"run-{number}"))
        killed, _ = _sitting(lab, run, tmp_path, "killed", Aim(DISCARDING, number), rerun_from="backward/gate")
        assert killed.signal == signal.SIGKILL, killed.error
        try:
            lab.run(run, **changed)
        except DriftError:
            assert (run / "backward" / "gate" / "manifest.json").exists()
        else:
            expected, found = lab.contents(tmp_path / "expected"), lab.contents(run)
            assert [name for name in expected if expected[name] != found.get(name)] == []


def test_torn_last_line_of_the_sittings_is_survived(lab: Lab, whole: Whole, tmp_path: Path) -> None:
    run = _kill(lab, whole, tmp_path, whole.aim("iteration-1/score", "end"))
    sittings = run / "iteration-1" / "score" / "sittings.jsonl"
    text = sittings.read_text()
    assert text.count("\n") == 3
    sittings.write_text(text[:-20])
    (run / "iteration-1" / "score" / "scored-00002.parquet").unlink()  # so that another line is written behind it
    _resume_and_compare(lab, whole, tmp_path)
    assert lab.manifest(run, "iteration-1/score")["seconds"] > 0


@pytest.mark.parametrize(
    ("shard", "reader"),
    [
        ("seed/pairs-00000", "backward/mix"),
        ("dedup/segments-00001", "augment"),
        ("augment/candidates-00000", "iteration-1/score"),
        ("iteration-0/mix/mix-00001", "iteration-0/finetune"),
        ("iteration-1/curate/curated-00000", "control/draw"),
    ],
)
@pytest.mark.parametrize("size", [0, 100, -1])
def test_truncated_shard_is_named_with_the_fix(
    lab: Lab, copy_of_finished: Path, shard: str, reader: str, size: int
) -> None:
    run = copy_of_finished
    path = run / f"{shard}.parquet"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StorageError, match=rf"{shard}\.parquet is damaged .*--rerun-from its stage"):
        lab.run(run, rerun_from=reader)


def test_truncated_shard_of_an_unfinished_stage_is_named_with_the_fix(lab: Lab, whole: Whole, tmp_path: Path) -> None:
    run = _kill(lab, whole, tmp_path, whole.aim("augment", "end"))
    path = run / "augment" / "candidates-00001.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StorageError, match=r"candidates-00001\.parquet is damaged .*--rerun-from its stage"):
        lab.run(run)
    lab.run(run, rerun_from="augment")
    lab.assert_same_run(whole.folder, run)
