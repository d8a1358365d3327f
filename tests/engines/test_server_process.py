"""Servers that humpback starts: stopped after use, replaced when killed; and a stage of ours killed while it asks one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from faulty_server import FaultyServer, FileTokenizer, HashModel

import humpback
from humpback.engines import EngineSpec
from humpback.engines.answers import AnswerCache, Source
from humpback.engines.base import ModelRef, Sampling
from humpback.engines.server.engine import ServerEngine
from humpback.errors import InputError, StageError
from humpback.executor import SerialExecutor
from humpback.prompts import RUBRIC, Prompt
from humpback.recipe import AugmentSettings, ServerSettings
from humpback.records import Candidate, Segment
from humpback.runner import Output, run_map
from humpback.store.shards import read_records, shard_files
from humpback.tasks import AugmentTask, Engines, PromptSpec

if TYPE_CHECKING:
    from tests.conftest import Lab

SCRIPT = Path(__file__).with_name("faulty_server.py")
FREE = Sampling(temperature=1.0, top_p=1.0, max_tokens=8)


def command(*more: str) -> str:
    """Return the template that serves the scripted model in a process of its own."""
    path = os.pathsep.join([str(Path(humpback.__file__).parents[1]), str(SCRIPT.parent)])
    return shlex.join(["env", f"PYTHONPATH={path}", sys.executable, str(SCRIPT), "{model}", "{port}", *more])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "answered.txt"


@pytest.fixture
def engine(byte_model: ModelRef, log: Path) -> Iterator[ServerEngine]:
    engine = ServerEngine(byte_model, ServerSettings(command=command("0.02", str(log)), start_s=60, concurrency=8))
    yield engine
    engine.close()


def model_at(folder: Path) -> ModelRef:
    return ModelRef(path=str(folder), content_hash="")


def ask_many(engine: ServerEngine, count: int) -> list[Prompt]:
    chats = [engine.tokenizer.chat(f"Row {number}") for number in range(count)]
    return [
        Prompt(user="", prefill="", text=chat, token_ids=tuple(engine.tokenizer.encode(chat)), seed=number)
        for number, chat in enumerate(chats)
    ]


def serving(model: ModelRef) -> list[psutil.Process]:
    """Return the servers of this model that run now."""
    words = (SCRIPT.name, model.path)
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and (line := process.info["cmdline"] or [])
        and any(word.endswith(words[0]) for word in line[1:2])
        and words[1] in line
    ]


def wait_until_gone(model: ModelRef) -> None:
    ends = time.monotonic() + 30
    while serving(model):
        assert time.monotonic() < ends, "the server was left running"
        time.sleep(0.1)


def test_a_server_is_started_when_asked_and_stopped_at_close(engine: ServerEngine, byte_model: ModelRef) -> None:
    assert serving(byte_model) == []
    (first,) = engine.generate(ask_many(engine, 1), FREE)
    assert len(serving(byte_model)) == 1
    engine.close()
    wait_until_gone(byte_model)
    assert engine.generate(ask_many(engine, 1), FREE) == [first]  # and started again when asked again


def test_a_server_killed_in_a_call_is_replaced_and_asked_only_what_is_open(
    engine: ServerEngine, byte_model: ModelRef, log: Path
) -> None:
    prompts = ask_many(engine, 120)
    assert engine.capabilities
    probes = Counter(log.read_text().split())
    killed: list[int] = []

    def kill_at_40(row: int, answer: object) -> None:
        killed.append(row)
        if len(killed) == 40:
            (process,) = serving(byte_model)
            process.send_signal(signal.SIGKILL)

    engine.on_answer = kill_at_40
    answers = engine.generate(prompts, FREE)
    assert [answer.error for answer in answers] == [None] * 120
    assert sorted(killed) == list(range(120))
    times = Counter(log.read_text().split()) - probes - probes  # the new server is probed as well
    assert len(times) == 120
    # one that it had written down, and not yet sent, when it died
    assert sum(times.values()) <= 120 + 1
    engine.close()
    engine.on_answer = None
    assert engine.generate(prompts, FREE) == answers


def test_a_server_that_keeps_dying_stops_the_run_and_shows_its_last_words(byte_model: ModelRef) -> None:
    settings = ServerSettings(command=command("0.02"), start_s=60, concurrency=4)
    engine = ServerEngine(byte_model, settings)
    assert engine.capabilities
    engine._bury(restarts=3)
    engine._open()
    with pytest.raises(StageError, match=r"died 4 times without an answer; it said last:\n(.*\n)*  serving at"):
        engine._bury(restarts=4)
    wait_until_gone(byte_model)


def test_a_command_that_ends_at_once_is_wrong_input_with_its_output(byte_model: ModelRef) -> None:
    failing = shlex.join([sys.executable, "-c", "print('no such device'); raise SystemExit(3)", "{model}", "{port}"])
    engine = ServerEngine(byte_model, ServerSettings(command=failing, start_s=60))
    with pytest.raises(InputError, match=r"ended with status 3 before it answered:\n(.*\n)*  no such device"):
        _ = engine.capabilities
    missing = ServerEngine(byte_model, ServerSettings(command="no-such-program {model} {port}", start_s=60))
    with pytest.raises(InputError, match="no-such-program: No such file"):
        _ = missing.capabilities


def test_a_command_that_never_answers_is_given_up_and_ended(byte_model: ModelRef) -> None:
    sleeping = shlex.join([sys.executable, "-c", "import time; time.sleep(600)", SCRIPT.name, "{model}", "{port}"])
    engine = ServerEngine(byte_model, ServerSettings(command=sleeping, start_s=1))
    with pytest.raises(StageError, match="has not answered after 1 s"):
        _ = engine.capabilities
    assert not [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(600)" in " ".join(p.info["cmdline"] or [])]


# -- ourselves -----------------------------------------------------------------------------------------------------------


def segments(count: int) -> list[Segment]:
    return [
        Segment(
            id=f"{number:032x}",
            text=f"Bread number {number} rises overnight in the kitchen. Yeast wants warmth and patience.",
            header_path="",
            source_uri="",
            offset=0,
            title="",
            licence="",
            language="",
            document_id="",
        )
        for number in range(count)
    ]


def run_stage(folder: Path, settings: ServerSettings, model: ModelRef) -> None:
    """Run `augment` over 96 segments in shards of 32."""
    spec = EngineSpec(
        model=model,
        engine="server",
        device="cpu",
        batch_tokens=2048,
        threads=1,
        cache=folder / "answers.sqlite",
        server=settings,
    )
    engines = Engines()
    prompts = PromptSpec(max_tokens=480, instruction_tokens=32, rubric=RUBRIC, seed_tag="", web_tag="")
    task = AugmentTask(
        backward=spec, prompts=prompts, settings=AugmentSettings(max_tokens=32), random_seed=0, engines=engines
    )
    (folder / "augment").mkdir(parents=True, exist_ok=True)
    output = Output(folder / "augment", "candidates", Candidate)
    try:
        work = run_map(task, segments(96), output, executor=SerialExecutor(), shard_rows=32)
    finally:
        engines.close()
    assert work.counts.read == 96
    assert work.counts.read == work.counts.kept + sum(work.counts.rejected.values())


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("kill_after", [5, 50])
def test_a_killed_stage_resumes_and_asks_nothing_again_that_it_was_told(
    byte_model: ModelRef, lab: Lab, tmp_path: Path, kill_after: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with FaultyServer(HashModel(), FileTokenizer(byte_model.path), delay_s=0.005) as server:
        settings = ServerSettings(url=server.url, concurrency=4)
        run_stage(whole, settings, byte_model)
        probes = sum(1 for body in server.bodies if "Bread" not in str(prompt_text(server, body)))

        def die() -> None:
            put, stored = AnswerCache.put, 0

            def put_and_die(self: AnswerCache, source: Source, items: list[tuple[bytes, bytes]]) -> None:
                nonlocal stored
                put(self, source, items)
                stored += len(items) * (source.call == "generate")  # a draw keeps its own likelihood too
                if stored >= kill_after:
                    os.kill(os.getpid(), signal.SIGKILL)

            AnswerCache.put = put_and_die  # type: ignore[method-assign]
            run_stage(killed, settings, byte_model)

        assert lab.in_child(die, tmp_path / "scratch").signal == signal.SIGKILL
        lab.cache_keys(killed / "answers.sqlite", tmp_path / "look")  # copies it there
        kept = count_draws(AnswerCache(tmp_path / "look" / "answers.sqlite"))
        assert kept >= kill_after
        server.bodies.clear()
        run_stage(killed, settings, byte_model)
        assert len(server.bodies) - probes == 96 - kept
    rows = [
        [record.instruction for record in read_records(shard_files(folder / "augment", "candidates"), Candidate)]
        for folder in (whole, killed)
    ]
    assert rows[0] == rows[1]
    assert rows[0]


def count_draws(cache: AnswerCache) -> int:
    found = sum(group.entries for group in cache.groups() if group.source.call == "generate")
    cache.close()
    return found


def prompt_text(server: FaultyServer, body: dict[str, object]) -> object:
    prompt = body.get("prompt")
    return server.tokenizer.decode(prompt) if isinstance(prompt, list) else prompt


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_server_of_ours_ends_when_we_are_killed(byte_model: ModelRef, lab: Lab, tmp_path: Path) -> None:
    def start_and_die() -> None:
        engine = ServerEngine(byte_model, ServerSettings(command=command(), start_s=50))
        assert engine.capabilities
        assert len(serving(byte_model)) == 1
        os.kill(os.getpid(), signal.SIGKILL)

    child = lab.in_child(start_and_die, tmp_path / "scratch")
    assert child.signal == signal.SIGKILL, child.error
    wait_until_gone(byte_model)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_server_of_ours_ends_when_ctrl_c_ends_our_process_group(
    byte_model: ModelRef, lab: Lab, tmp_path: Path
) -> None:
    def start_and_interrupt() -> None:
        os.setpgid(0, 0)  # as a shell starts a command
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        engine = ServerEngine(byte_model, ServerSettings(command=command(), start_s=50))
        assert engine.capabilities
        assert len(serving(byte_model)) == 1
        os.killpg(0, signal.SIGINT)

    child = lab.in_child(start_and_interrupt, tmp_path / "scratch")
    assert child.signal == signal.SIGINT, child.error
    wait_until_gone(byte_model)


def test_the_output_of_a_server_is_removed_with_it_and_kept_where_an_error_names_it(
    byte_model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = ServerEngine(byte_model, ServerSettings(command=command(), start_s=60))
    assert engine.capabilities
    assert len(list(tmp_path.glob("humpback-server-*"))) == 1
    engine.close()
    assert not list(tmp_path.glob("humpback-server-*"))
    failing = shlex.join([sys.executable, "-c", "raise SystemExit(3)", "{model}", "{port}"])
    with pytest.raises(InputError, match=r"output\.txt"):
        _ = ServerEngine(byte_model, ServerSettings(command=failing, start_s=60)).capabilities
    assert len(list(tmp_path.glob("humpback-server-*/output.txt"))) == 1


def test_a_missing_key_is_told_before_a_server_is_started(byte_model: ModelRef, tmp_path: Path) -> None:
    marking = shlex.join(["touch", str(tmp_path / "started"), "{model}", "{port}"])
    settings = ServerSettings(command=marking, start_s=60, api_key_env="HUMPBACK_NO_SUCH_KEY")
    engine = ServerEngine(byte_model, settings)
    with pytest.raises(InputError, match="HUMPBACK_NO_SUCH_KEY is not set"):
        _ = engine.capabilities
    assert engine._process is None
    assert not (tmp_path / "started").exists()


@pytest.mark.slow
def test_a_whole_run_asks_a_server_of_each_of_its_models(
    byte_model: ModelRef, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.rooms import Rooms
    from humpback.training.fake import train_fake
    from humpback.training.spec import TrainResult, TrainSpec

    def copy_model(spec: TrainSpec, on_step: object) -> TrainResult:
        assert serving(model_at(base)) == []  # the trainer has the memory to itself
        result = train_fake(spec)
        shutil.rmtree(spec.output)
        shutil.copytree(spec.base_model, spec.output)
        (spec.output / "generation_config.json").write_text(json.dumps({"trained": str(spec.output)}))
        return result

    monkeypatch.setattr(Rooms, "_trainer", lambda self: copy_model)
    base = Path(shutil.copytree(byte_model.path, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    log = tmp_path / "answered.txt"
    settings = {
        "runtime__engine": "server",
        "runtime__server": {"command": command("0", str(log)), "start_s": 60, "concurrency": 8},
        "model__base": str(base),
        "model__max_tokens": 4000,
        "curate__signal": "forward_lift",
        "gate__segments": 0,  # a model of random weights writes nothing worth reading
    }
    assert lab.run(tmp_path / "run", **settings)
    assert lab.manifest(tmp_path / "run", "augment")["failed"] == {}
    wait_until_gone(model_at(base))
    asked = log.read_text()
    assert not lab.run(tmp_path / "run", **settings)
    assert log.read_text() == asked  # a complete run starts no server
