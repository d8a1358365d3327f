"""A small world for the scripted engine: documents, seed pairs and recipes, and what tests do with runs of them.

Tests get it as the fixture `lab`. Runs that must die (kill -9) or change user happen in a forked child of the warm test
process, so none of them pays for imports.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pyarrow.parquet as pq
import pytest
import yaml

from humpback import pipeline
from humpback.cli import main
from humpback.errors import HumpbackError
from humpback.progress import Console
from humpback.recipe import Recipe

# The same examples in every run: what passes here passes elsewhere. `make fuzz` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")

WORDS = (
    "river mountain copper lantern bridge garden window engine music bread winter market paper silver cloud needle "
    "harvest orchard saddle stone valley kettle forest anchor ribbon thunder meadow candle pepper violin"
).split()
GOOD_DOCUMENTS = 20
CHILD_SECONDS = 60
"""A child that hangs is ended by its own alarm."""

VOLATILE_FILES = ("sittings.jsonl", "plan.json", ".lock", "report.html")
"""Timing, the cut into shards, the lock, and the page, which shows the times of report.json."""
VOLATILE_KEYS = frozenset({"seconds", "engine", "environment", "rows_per_second", "tokens_per_second"})


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def command() -> Command:
    """Run the command in this process; anything but an exit status is a traceback and fails the test."""

    def run(*arguments: object) -> Ended:
        out, err, status = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["humpback", *map(str, arguments)])
            try:
                main()
            except SystemExit as ending:
                status = int(ending.code or 0)
        return Ended(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def process() -> Command:
    """Run the command in a process of its own."""

    def run(*arguments: object) -> Ended:
        call = [sys.executable, "-m", "humpback", *map(str, arguments)]
        done = subprocess.run(call, capture_output=True, text=True)
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@dataclass(frozen=True)
class Child:
    """How a forked child ended."""

    exit_status: int | None
    """None when a signal ended it."""
    signal: int | None
    error: str
    """The message of its HumpbackError, or the traceback of anything else."""


class Lab:
    """Seed, corpus and recipes in one folder; the data is the same in every lab, its place is not.

    The helpers of this file hang on it too, because test modules cannot import a conftest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed, self.corpus = folder / "seed.jsonl", folder / "corpus.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(self.seed, seed_rows())
        write_lines(self.corpus, document_rows())

    def settings(self, **changes: object) -> dict[str, Any]:
        """Return a recipe as plain values; a change's key is dotted with `__`: `runtime__workers=2`."""
        recipe: dict[str, Any] = {
            "random_seed": 7,
            "iterations": 1,
            "model": {"base": "fake", "max_tokens": 4096},
            "seed": {"inputs": [{"path": str(self.seed)}], "holdout": 10, "max_response_chars": 1500},
            "corpus": {"inputs": [{"path": str(self.corpus)}], "min_chars": 300},
            "evaluate": {"resamples": 100},
            "runtime": {"engine": "fake", "shard_rows": 8, "batch_tokens": 8192},
        }
        for key, value in changes.items():
            *sections, last = key.split("__")
            node = recipe
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = value
        return recipe

    def recipe(self, **changes: object) -> Recipe:
        return Recipe.model_validate(self.settings(**changes))

    def recipe_file(self, path: Path, **changes: object) -> Path:
        path.write_text(yaml.safe_dump(self.settings(**changes)), encoding="utf-8")
        return path

    def run(self, folder: Path, *, rerun_from: str | None = None, **changes: object) -> bool:
        """Run or resume the recipe with the changes; return whether there was anything to do."""
        return pipeline.run(self.recipe(**changes), folder, console=Console(quiet=True), rerun_from=rerun_from)

    def rows(self, run: Path, stage: str, prefix: str) -> list[dict[str, Any]]:
        """Return the rows of a stage, all shards in order."""
        files = sorted((run / stage).glob(f"{prefix}-*.parquet"))
        return [row for path in files for row in pq.read_table(path).to_pylist()]

    def manifest(self, run: Path, stage: str) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((run / stage / "manifest.json").read_bytes())
        return data

    def contents(self, run: Path) -> dict[str, Any]:
        return contents(run)

    def assert_same_run(self, one: Path, other: Path) -> None:
        """Same files with the same content, but for what `contents` leaves out."""
        first, second = contents(one), contents(other)
        assert sorted(first) == sorted(second)
        assert [name for name in first if first[name] != second[name]] == []

    def listing(self, folder: Path) -> dict[str, str]:
        """Return every file with a digest of its bytes; nothing is left out but the lock."""
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def write_lines(self, path: Path, rows: Iterable[dict[str, str]]) -> None:
        write_lines(path, rows)

    def documents(self) -> list[dict[str, str]]:
        return list(document_rows())

    def cache_keys(self, cache: Path, scratch: Path) -> set[bytes]:
        return cache_keys(cache, scratch)

    def in_child(self, work: Callable[[], object], scratch: Path) -> Child:
        """Run `work` in a forked child and tell how it ended; a HumpbackError ends it as it ends the command."""
        with start_child(work, scratch) as child:
            return child.wait()

    def start_child(self, work: Callable[[], object], scratch: Path) -> contextlib.AbstractContextManager[Running]:
        """Start `work` in a forked child; wait for it with the `wait` of what the block is given."""
        return start_child(work, scratch)


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """Without fsync a run takes a third of the time; a killed process loses nothing by it. `test_shards.py` tests the calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The data that no test changes."""
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def own_lab(tmp_path: Path) -> Lab:
    """Data that the test may change."""
    return Lab(tmp_path / "lab")


@pytest.fixture(scope="session")
def finished(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of the lab's recipe; to be read only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    lab.run(folder)
    return folder


@pytest.fixture
def copy_of_finished(finished: Path, tmp_path: Path) -> Path:
    """A complete run that the test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


# -- data ----------------------------------------------------------------------------------------------------------------


def seed_rows() -> Iterator[dict[str, str]]:
    """30 pairs to use, and one each of: the same instruction again, too long a response, too long an instruction."""
    dice = random.Random(1)
    for number in range(30):
        first, second = dice.sample(WORDS, 2)
        response = " ".join(sentence(dice, number) for _ in range(3))
        yield {
            "instruction": f"How does the {first} reach the {second} number {number}?",
            "response": f"The {first} reaches the {second}. {response}",
        }
    yield {"instruction": "Is this said twice?", "response": "It is said the first time."}
    yield {"instruction": "is this said TWICE", "response": "It is said the second time."}
    yield {"instruction": "Tell me all about everything.", "response": "It goes on and on. " * 100}
    yield {"instruction": "Tell me this " + "and that " * 19 + "please.", "response": "This is this and that is that."}


def document_rows() -> Iterator[dict[str, str]]:
    """20 documents to keep, 2 that the scripted engine fails on, and one each of: copy, too short, too long, no text."""
    dice = random.Random(2)
    good = [document(dice, number) for number in range(GOOD_DOCUMENTS)]
    failing = [{**document(dice, 90 + n), "title": f"Failing {n}"} for n in range(2)]
    for row in failing:
        row["text"] += " FAIL-ME."
    yield from good[:9]
    yield failing[0]
    yield {"title": "A copy", "text": good[3]["text"].upper(), "source_uri": "test:copy"}
    yield from good[9:15]
    yield {"title": "Short", "text": "Too short to say anything."}
    yield failing[1]
    yield {"title": "Long", "text": " ".join(sentence(dice, n) for n in range(70))}
    yield {"title": "Empty", "text": ""}
    yield from good[15:]


def document(dice: random.Random, number: int) -> dict[str, str]:
    end = "." if number % 3 else ""  # the scripted engine rates responses low that do not end in a full stop
    text = " ".join(sentence(dice, n) for n in range(dice.randint(7, 12)))
    title = f"About {dice.choice(WORDS)} {number}"
    return {"title": title, "text": text.rstrip(".") + end, "source_uri": f"test:{number}"}


def sentence(dice: random.Random, number: int) -> str:
    a, b, c, d, e, f = dice.sample(WORDS, 6)
    return f"{a.title()} {b} and {c} with {d} near the {e} of {f} {number}."


def write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# -- looking into a run --------------------------------------------------------------------------------------------------


def contents(run: Path) -> dict[str, Any]:
    """Return what a run folder holds: every file's bytes, JSON without times, engine counts and machine.

    The answer cache counts by its keys. Two runs are the same when this is equal.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if path.name in VOLATILE_FILES or "/finetune/work" in name or path.name.startswith("answers.sqlite"):
            continue
        if path.name in ("manifest.json", "report.json"):
            data = _without_volatile(json.loads(path.read_bytes()))
            if path.name == "report.json":
                del data["run"], data["recipe"]["runtime"]
            found[name] = data
        elif path.name == "recipe.yaml":
            found[name] = {k: v for k, v in yaml.safe_load(path.read_bytes()).items() if k != "runtime"}
        else:
            found[name] = path.read_bytes()
    return found


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_volatile(item) for key, item in value.items() if key not in VOLATILE_KEYS}
    return [_without_volatile(item) for item in value] if isinstance(value, list) else value


def cache_keys(cache: Path, scratch: Path) -> set[bytes]:
    """Return the keys an answer cache would show; read from a copy, so that a killed run's file stays as it is."""
    scratch.mkdir(parents=True, exist_ok=True)
    for path in cache.parent.glob(cache.name + "*"):
        shutil.copy(path, scratch)
    if not (scratch / cache.name).exists():
        return set()
    with contextlib.closing(sqlite3.connect(scratch / cache.name)) as db:
        if not db.execute("SELECT name FROM sqlite_master WHERE name = 'answers'").fetchone():
            return set()
        return {key for (key,) in db.execute("SELECT key FROM answers")}


# -- children ------------------------------------------------------------------------------------------------------------


class Running:
    """A forked child at work."""

    def __init__(self, pid: int, said: Path) -> None:
        self.pid = pid
        self._said = said
        self._ended: Child | None = None

    def wait(self) -> Child:
        if self._ended is None:
            status = os.waitpid(self.pid, 0)[1]
            error = self._said.read_text(encoding="utf-8")
            if os.WIFSIGNALED(status):
                self._ended = Child(exit_status=None, signal=os.WTERMSIG(status), error=error)
            else:
                self._ended = Child(exit_status=os.WEXITSTATUS(status), signal=None, error=error)
        return self._ended

    def kill(self) -> Child:
        """Send SIGKILL, unless it has ended and been waited for, and wait."""
        if self._ended is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()


@contextlib.contextmanager
def start_child(work: Callable[[], object], scratch: Path) -> Iterator[Running]:
    scratch.mkdir(parents=True, exist_ok=True)
    said = scratch / "error.txt"
    report = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)  # opened here: the child may not be allowed to
    pid = os.fork()
    if pid == 0:
        _be_child(work, report)
    os.close(report)
    child = Running(pid, said)
    try:
        yield child
    finally:
        child.kill()


def _be_child(work: Callable[[], object], report: int) -> None:
    status = 70
    try:
        signal.alarm(CHILD_SECONDS)
        gc.disable()  # a collection would copy every page that parent and child share
        work()
        status = 0
    except HumpbackError as error:
        status = error.exit_status
        os.write(report, str(error).encode())
    except BaseException:
        os.write(report, traceback.format_exc().encode())
    finally:
        os._exit(status)
