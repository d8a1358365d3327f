"""The process behind the vLLM engine, with a scripted child: whatever it does, every request is answered once or fails by name."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from humpback.engines import vllm_process
from humpback.engines.vllm_process import Adapter, Launch, Processes, VLLMProcess
from humpback.engines.vllm_wire import Frame
from humpback.errors import InputError, StageError

SCRIPT = str(Path(__file__).with_name("scripted_child.py"))
MakeProcess = Callable[..., VLLMProcess]


@pytest.fixture(autouse=True)
def no_backoff_and_logs_that_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_process, "BACKOFF_S", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[MakeProcess]:
    """Starts scripted children whose notes are in `tmp_path`; none outlives the test."""
    made: list[VLLMProcess] = []

    def make(*, stall_timeout_s: float = 60.0, start_timeout_s: float = 60.0, **plan: Any) -> VLLMProcess:
        made.append(VLLMProcess(launch_of(tmp_path, plan, stall_timeout_s, start_timeout_s)))
        return made[-1]

    yield make
    for process in made:
        process.stop()


def launch_of(
    folder: Path, plan: dict[str, Any], stall_timeout_s: float = 60.0, start_timeout_s: float = 60.0
) -> Launch:
    return Launch(
        command=(sys.executable, SCRIPT, json.dumps(plan), str(folder)),
        environment=tuple(sorted(os.environ.items())),
        settings=(("max_loras", 2), ("model", "m")),
        start_timeout_s=start_timeout_s,
        stall_timeout_s=stall_timeout_s,
    )


def notes(folder: Path, kind: str) -> list[Any]:
    path = folder / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def adapter(name: str, rank: int, *modules: str) -> Adapter:
    return Adapter(name=name, folder=f"/{name}", rank=rank, modules=frozenset(modules or {"q_proj"}))


def requests(count: int) -> list[Frame]:
    return [{"call": "likelihood", "tokens": [10, row], "start": 1, "last": 1} for row in range(count)]


def ask(process: VLLMProcess, asked: list[Frame]) -> list[float | str]:
    def read(row: int, frame: Frame) -> float | str:
        value = frame["logprob"]
        if not isinstance(value, int | float):
            raise TypeError(value)
        return float(value)

    return process.ask(asked, read, lambda error: error)


def expected(count: int) -> list[float]:
    return [-float(row) - 11 for row in range(count)]


# -- a child that lives ------------------------------------------------------------------------------------------------


def test_answers_come_in_order_and_what_the_child_prints_is_not_among_them(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    process = make_process()
    assert ask(process, requests(50)) == expected(50)
    assert ask(process, requests(3)) == expected(3)
    assert len(notes(tmp_path, "starts")) == 1
    assert process.restarts == 0


def test_nothing_is_started_for_nothing(make_process: MakeProcess, tmp_path: Path) -> None:
    assert ask(make_process(), []) == []
    assert notes(tmp_path, "starts") == []


def test_more_requests_than_a_chunk_are_all_answered(
    make_process: MakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_process, "CHUNK", 8)
    assert ask(make_process(), requests(50)) == expected(50)
    assert len(notes(tmp_path, "asked")) == 50


def test_requests_that_fill_the_pipe_block_nobody(make_process: MakeProcess) -> None:
    asked = [{**request, "tokens": [*request["tokens"], *[0] * 20_000]} for request in requests(100)]  # type: ignore[misc]
    assert ask(make_process(), asked) == expected(100)  # 6 MB; a pipe holds 64 kB


def test_a_refused_request_is_an_error_and_its_neighbours_are_answered(make_process: MakeProcess) -> None:
    asked = requests(3)
    asked[1] = {**asked[1], "tokens": [7]}
    assert ask(make_process(), asked) == [-11.0, "vLLM refuses the request", -13.0]


def test_the_log_is_removed_after_a_process_that_did_well(make_process: MakeProcess) -> None:
    process = make_process()
    ask(process, requests(1))
    assert process._log is not None
    path = process._log.path
    assert "noise on stdout" in path.read_text()
    process.stop()
    assert not path.exists()


# -- a child that does not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 3, 19])
@pytest.mark.parametrize(
    "fault", ["die", "raise", "garbage", "no object", "long", "stranger", "senseless", "truncated"]
)
def test_a_lost_child_is_replaced_and_asked_only_what_it_owes(
    make_process: MakeProcess, tmp_path: Path, fault: str, at: int
) -> None:
    process = make_process(first=fault, at=at)
    assert ask(process, requests(20)) == expected(20)
    assert len(notes(tmp_path, "starts")) == 2
    assert process.restarts == 1
    asked = notes(tmp_path, "asked")
    second = asked[asked.index([10, 0], 1) :] if at == 0 else asked[-(20 - at) :]
    assert second == [[10, row] for row in range(at, 20)]


def test_an_answer_given_twice_is_taken_once(make_process: MakeProcess, tmp_path: Path) -> None:
    process = make_process(first="twice", at=3)
    assert ask(process, requests(20)) == expected(20)
    assert len(notes(tmp_path, "starts")) == 2


@pytest.mark.parametrize("fault", ["hang", "stop"])
def test_a_child_that_hangs_is_replaced(make_process: MakeProcess, tmp_path: Path, fault: str) -> None:
    process = make_process(first=fault, at=3, stall_timeout_s=1.0)
    assert ask(process, requests(20)) == expected(20)
    first, _ = notes(tmp_path, "starts")
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_one_deadly_request_costs_one_row(make_process: MakeProcess, tmp_path: Path) -> None:
    process = make_process(poison=77)
    answers = ask(process, requests(200))
    assert isinstance(answers[77], str)
    assert "died 2 times on this request" in answers[77]
    assert [a for row, a in enumerate(answers) if row != 77] == [a for row, a in enumerate(expected(200)) if row != 77]
    answered = notes(tmp_path, "answered")
    assert len(answered) == len({tuple(tokens) for tokens in answered}) == 199  # nothing answered was asked again
    assert len(notes(tmp_path, "starts")) <= 8


def test_a_deadly_first_request_among_a_thousand_is_found(make_process: MakeProcess, tmp_path: Path) -> None:
    answers = ask(make_process(poison=0), requests(1024))
    assert isinstance(answers[0], str)
    assert answers[1:] == expected(1024)[1:]


def test_a_child_that_answers_nothing_ends_the_stage_by_name(make_process: MakeProcess, tmp_path: Path) -> None:
    process = make_process(first="raise", at=0, always=True)
    with pytest.raises(StageError, match=r"died 10 times .* the engine is dead.*humpback-vllm-.*\.log"):
        ask(process, requests(500))
    assert len(notes(tmp_path, "starts")) == 10


def test_a_child_that_does_a_little_before_each_death_gets_everything_done(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    assert ask(make_process(first="die", at=7, always=True), requests(100)) == expected(100)
    assert len(notes(tmp_path, "answered")) == 100


def test_a_killed_child_is_replaced_in_the_middle_of_a_call(make_process: MakeProcess, tmp_path: Path) -> None:
    process = make_process(first="hang", at=5)

    def kill() -> None:
        while not notes(tmp_path, "answered"):
            time.sleep(0.01)
        os.kill(notes(tmp_path, "starts")[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert ask(process, requests(20)) == expected(20)
    killer.join()
    assert len(notes(tmp_path, "answered")) == 20


def test_a_restart_is_told(make_process: MakeProcess, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ask(make_process(first="die", at=1), requests(3))
    assert "started again: killed by signal 9" in caplog.text


# -- starting ----------------------------------------------------------------------------------------------------------


def test_a_model_that_vllm_cannot_open_is_wrong_input_at_once(make_process: MakeProcess, tmp_path: Path) -> None:
    process = make_process(start="failed")
    with pytest.raises(InputError, match="no such model"):
        ask(process, requests(3))
    assert len(notes(tmp_path, "starts")) == 1


@pytest.mark.parametrize("fault", ["die", "version"])
def test_a_child_that_never_gets_ready_ends_the_stage_after_a_few_tries(
    make_process: MakeProcess, tmp_path: Path, fault: str
) -> None:
    with pytest.raises(StageError, match="3 times at its start"):
        ask(make_process(start=fault), requests(3))
    assert len(notes(tmp_path, "starts")) == 3


def test_a_child_that_hangs_at_its_start_is_ended(make_process: MakeProcess, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"silent for 0\.5 s while starting"):
        ask(make_process(start="hang", start_timeout_s=0.5), requests(3))


def test_a_child_that_dies_once_at_its_start_is_started_again(make_process: MakeProcess) -> None:
    assert ask(make_process(start="die once"), requests(3)) == expected(3)


# -- ending ------------------------------------------------------------------------------------------------------------


def test_stop_lets_the_child_end_and_a_later_call_starts_another(make_process: MakeProcess, tmp_path: Path) -> None:
    process = make_process()
    ask(process, requests(1))
    process.stop()
    process.stop()
    assert notes(tmp_path, "stopped") == notes(tmp_path, "starts")
    assert ask(process, requests(1)) == expected(1)
    assert len(notes(tmp_path, "starts")) == 2
    assert process.restarts == 0


def test_ctrl_c_ends_the_child_and_its_answers_are_not_taken_for_later_ones(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    process = make_process()

    def read(row: int, frame: Frame) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.ask(requests(5), read, lambda error: -1.0)
    with pytest.raises(ProcessLookupError):
        os.kill(notes(tmp_path, "starts")[0], 0)
    assert ask(process, requests(5)) == expected(5)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_child_ends_with_its_parent(tmp_path: Path, end: signal.Signals) -> None:
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with Ctrl-C ignored
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_vllm_process import VLLMProcess, launch_of
process = VLLMProcess(launch_of(Path({str(tmp_path)!r}), {{}}))
process.vocabulary
print("ready", flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(end)
    (child,) = notes(tmp_path, "starts")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        with contextlib.suppress(OSError, IndexError):  # nobody may be there to reap it
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_equal_launches_share_a_process_until_the_last_one_leaves(tmp_path: Path) -> None:
    processes = Processes()
    one = processes.get(launch_of(tmp_path, {}))
    assert processes.get(launch_of(tmp_path, {})) is one
    assert processes.get(launch_of(tmp_path, {"at": 1})) is not one
    first, second = object(), object()
    one.join(first)
    one.join(second)
    ask(one, requests(1))
    one.leave(first)
    assert notes(tmp_path, "stopped") == []
    one.leave(second)
    assert notes(tmp_path, "stopped") == notes(tmp_path, "starts")


def test_an_adapter_is_held_from_the_start_and_a_larger_one_needs_another_process(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    process = make_process()
    ask(process, requests(1))
    assert process.use_adapter(adapter("a", 5)) == {"name": "a", "id": 1, "path": "/a"}
    ask(process, requests(1))
    assert process.use_adapter(adapter("b", 8))["id"] == 2
    assert process.use_adapter(adapter("a", 5))["id"] == 1
    ask(process, requests(1))
    process.use_adapter(adapter("c", 17))
    ask(process, requests(1))
    process.use_adapter(adapter("d", 4, "v_proj"))
    ask(process, requests(1))
    engines = [settings["engine"] for settings in notes(tmp_path, "settings")]
    assert [engine.get("max_lora_rank") for engine in engines] == [None, 8, 32, 32]
    assert [engine.get("max_loras") for engine in engines] == [None, 2, 2, 2]
    assert [engine.get("lora_target_modules") for engine in engines[1:]] == [
        ["q_proj"],
        ["q_proj"],
        ["q_proj", "v_proj"],
    ]


def test_an_adapter_that_vllm_cannot_hold_is_refused_by_name(make_process: MakeProcess) -> None:
    with pytest.raises(InputError, match="rank 513"):
        make_process().use_adapter(adapter("a", 513))
