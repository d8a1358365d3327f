"""The terminal, through a real pseudo-terminal: what is shown, what keys do, and that it is put back at the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.evaluation.labellog import FILE_NAME, read_events
from humpback.labelling.sample import draw, load_population

if TYPE_CHECKING:
    from tests.conftest import Lab

WAIT_S = 20.0


class Terminal:
    """The command in a terminal of its own, and what it wrote there."""

    def __init__(self, *arguments: object, rows: int = 30, columns: int = 90) -> None:
        self.fd, inner = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(inner)
        command = [sys.executable, "-m", "humpback", "label", *map(str, arguments)]
        environment = {**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"}
        for name in ("COLUMNS", "LINES"):  # they would count for more than the terminal's own size
            environment.pop(name, None)
        self.process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment,
            start_new_session=True,
            # tests that run in the background of a shell have Ctrl-C ignored, and hand that on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.inner = inner
        self.text = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        self.text = ""
        os.write(self.fd, keys.encode())

    def expect(self, pattern: str) -> str:
        """Wait until what was written since the last key matches."""
        until = time.monotonic() + WAIT_S
        while not re.search(pattern, self.text, re.DOTALL):
            if time.monotonic() > until:
                raise AssertionError(f"no {pattern!r} in {self.text!r}")
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self.fd, 65536).decode("utf-8", "replace"))
        return self.text

    def end(self) -> int:
        return self.process.wait(timeout=WAIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self.inner)


@pytest.fixture
def terminal(copy_of_finished: Path) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*arguments: object, **size: int) -> Terminal:
        opened.append(Terminal(copy_of_finished, *arguments, **size))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def _events(run: Path) -> list[tuple[str, int | None, bool | None]]:
    return [(event.event, event.label, event.good) for event in read_events(run / FILE_NAME)]


def test_keys_label_skip_undo_note_and_quit(terminal: Any, copy_of_finished: Path) -> None:
    screen = terminal("--labeller", "ann", "--count", "9")
    first, second, *_ = [place.pair_id for place in draw(load_population(copy_of_finished))]
    texts = load_population(copy_of_finished).read({first, second})
    assert texts[first].instruction in screen.expect("0 of 9 labelled by ann.*q quit")
    screen.press("4")
    assert texts[second].instruction in screen.expect(r"1 of 9 .*last: 4 \(good\).*q quit")
    screen.press("u")
    assert texts[first].instruction in screen.expect("0 of 9 .*q quit")
    screen.press("n")
    screen.expect("note")
    screen.press("is it so?\r")
    screen.expect(r"note: is it so\?.*q quit")
    screen.press("b")
    screen.expect("1 of 9 .*last: bad.*q quit")
    screen.press("s")
    screen.expect("1 skipped.*q quit")
    screen.press("G")
    screen.expect("2 of 9 .*last: good.*q quit")
    screen.press("x")
    screen.expect("does nothing")
    screen.press("q")
    assert screen.expect("2 of 9 pairs are labelled.*same command goes on")
    assert screen.end() == 0
    assert _events(copy_of_finished) == [
        ("label", 4, True),
        ("undo", None, None),
        ("label", None, False),
        ("skip", None, None),
        ("label", None, True),
    ]
    assert [event.note for event in read_events(copy_of_finished / FILE_NAME)] == ["", "", "is it so?", "", ""]
    assert termios.tcgetattr(screen.inner) == screen.before


def test_labels_survive_a_kill_and_the_next_session_resumes(terminal: Any, copy_of_finished: Path) -> None:
    screen = terminal("--labeller", "ann")
    screen.expect("0 of 50.*q quit")
    screen.press("5")
    screen.expect("1 of 50.*q quit")
    screen.process.send_signal(signal.SIGKILL)
    assert _events(copy_of_finished) == [("label", 5, True)]
    assert "1 of 50" in terminal("--labeller", "ann").expect("labelled by ann.*q quit")


@pytest.mark.parametrize("end", ["\x03", "\x04"])
def test_ctrl_c_and_ctrl_d_leave_as_q_does(terminal: Any, copy_of_finished: Path, end: str) -> None:
    screen = terminal("--labeller", "ann")
    screen.expect("q quit")
    screen.press("2")
    screen.expect("1 of 50.*q quit")
    if end == "\x03":  # the test's terminal is nobody's controlling one, so the signal is sent by hand
        screen.process.send_signal(signal.SIGINT)
    else:
        screen.press(end)
    screen.expect("1 of 50 pairs are labelled")
    assert screen.end() == 0
    assert termios.tcgetattr(screen.inner) == screen.before


def test_long_text_is_shown_in_pages_and_a_resize_draws_anew(terminal: Any) -> None:
    screen = terminal("--labeller", "ann", rows=12, columns=50)
    seen = screen.expect("page 1 of [2-9], [0-9]+ more lines.*q quit")
    screen.press(" ")
    assert screen.expect("page 2 of.*q quit") != seen
    screen.press("p")
    screen.expect("page 1 of.*q quit")
    screen.press("\x1b[6~")
    screen.expect("page 2 of.*q quit")
    screen.resize(60, 120)
    screen.process.send_signal(signal.SIGWINCH)
    screen.expect("INSTRUCTION.*RESPONSE.*q quit")
    assert "page" not in screen.text.rpartition("INSTRUCTION")[2]


def test_scores_are_hidden_until_they_are_asked_for(terminal: Any) -> None:
    blind = terminal("--labeller", "ann").expect("0 of 50.*q quit")
    assert not any(word in blind for word in ("rating", "lift", "curated", "rejected", "test:"))
    open_ = terminal("--labeller", "ann", "--show-scores").expect("0 of 50.*q quit")
    assert all(word in open_ for word in ("rating", "forward_lift", "test:"))
    assert "curated" in open_ or "rejected" in open_


def test_done_can_still_be_undone(terminal: Any, copy_of_finished: Path) -> None:
    screen = terminal("--labeller", "ann", "--count", "1")
    screen.expect("q quit")
    screen.press("1")
    screen.expect(r"Done: 1 labelled.*--count\s+51\s+goes\s+on.*u undo")
    screen.press("3")
    screen.expect("does nothing")
    screen.press("u")
    screen.expect("0 of 1 .*INSTRUCTION.*q quit")
    screen.press("3")
    screen.expect("1 of 1 ")
    screen.press("q")
    assert screen.end() == 0
    assert _events(copy_of_finished) == [("label", 1, False), ("undo", None, None), ("label", 3, False)]


def test_hostile_text_cannot_steer_the_terminal(own_lab: Lab, tmp_path: Path) -> None:
    rows = own_lab.documents()
    for row in rows:
        row["text"] = "\x1b]0;owned\x07\x1b[2J\u202eturned [bold]kept[/bold] " + row["text"]
    own_lab.write_lines(own_lab.corpus, rows)
    own_lab.run(tmp_path / "run")
    screen = Terminal(tmp_path / "run", "--labeller", "ann")
    try:
        raw = b""
        until = time.monotonic() + WAIT_S
        while b"q quit" not in raw and time.monotonic() < until:
            raw += os.read(screen.fd, 65536)
        assert b"owned" in raw
        assert b"\x1b]0;" not in raw
        assert "\u202e".encode() not in raw
        assert b"[bold]kept[/bold]" in raw
    finally:
        screen.close()
