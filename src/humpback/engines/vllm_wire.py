"""Pipes to a child process, and its end. In: frames to send. Out: frames received, or `ChildDied` with the reason.

A frame is the length of its body (four bytes, the largest first) and the body, one JSON object: what the other side sends can
be wrong, but it cannot run anything here. The child's own output goes to a log, never into the frames. It is the head of a
process group, so that whatever it has started goes with it; it ends itself when its pipe closes, however this process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

__all__ = ["ChildDied", "Frame", "Log", "Wire"]

Frame: TypeAlias = dict[str, object]

HEADER = struct.Struct(">I")
MAX_FRAME = 16 * 2**20
"""Longest frame taken, in bytes; an answer of a hundred thousand tokens has one."""
STOP_S = 10.0
"""Time a child has to end by itself."""


class ChildDied(Exception):
    """The child is dead, hangs or talks nonsense; it must be replaced."""


class Log:
    """Where a child's own output goes."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="humpback-vllm-", suffix=".log")
        os.close(handle)
        self.path = Path(name)

    def __str__(self) -> str:
        return str(self.path)

    def last_error(self) -> str:
        """Return the last line that names an error, or the last line."""
        with contextlib.suppress(OSError):
            lines = [line.strip() for line in self.path.read_text(errors="replace").splitlines() if line.strip()]
            named = [line for line in lines if "Error" in line]
            return (named or lines or [""])[-1][:300]
        return ""

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Wire:
    """A child process and the two pipes to it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Log) -> None:
        self._log = log
        child_reads, ours_to_write = os.pipe()
        ours_to_read, child_writes = os.pipe()
        try:
            with log.path.open("ab") as output:
                self._process = subprocess.Popen(
                    [*command, str(child_reads), str(child_writes)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=dict(environment),
                    pass_fds=(child_reads, child_writes),
                    start_new_session=True,  # Ctrl-C is for us to handle, and the group can be ended as a whole
                )
        except BaseException:  # Ctrl-C too: nobody else knows of these pipes; raised again
            os.close(ours_to_read)
            os.close(ours_to_write)
            raise
        finally:
            os.close(child_reads)
            os.close(child_writes)
        os.set_blocking(ours_to_write, False)
        self._out, self._in = ours_to_write, ours_to_read
        self._outgoing, self._incoming = bytearray(), bytearray()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, frame: Frame) -> None:
        """Put a frame in line; it goes out while `receive` waits, so that a child that does not read blocks nobody."""
        body = json.dumps(frame).encode()
        self._outgoing += HEADER.pack(len(body)) + body

    def receive(self, timeout_s: float, doing: str) -> Frame:
        """Return the next frame; `doing` says in an error what the child was at."""
        deadline = time.monotonic() + timeout_s
        while (frame := self._take()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChildDied(f"it was silent for {timeout_s:g} s while {doing}")
            self._wait(left)
        return frame

    def stop(self) -> None:
        """Let the child end by itself, then end it and all it has started."""
        self.send({"kind": "stop"})
        with contextlib.suppress(ChildDied, subprocess.TimeoutExpired):
            deadline = time.monotonic() + STOP_S
            while self._outgoing and time.monotonic() < deadline:
                self._wait(STOP_S)
            self._process.wait(max(deadline - time.monotonic(), 0))
        self.kill()

    def kill(self) -> None:
        """End the child and all it has started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses the group of a zombie
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for descriptor in (self._in, self._out):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    # -- inner -----------------------------------------------------------------------------------------------------

    def _take(self) -> Frame | None:
        if len(self._incoming) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._incoming)
        if length > MAX_FRAME:
            raise ChildDied(f"it sent a frame of {length} bytes")
        end = HEADER.size + length
        if len(self._incoming) < end:
            return None
        body = bytes(self._incoming[HEADER.size : end])
        del self._incoming[:end]
        try:
            frame = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ChildDied(f"it sent what is no JSON ({body[:60]!r})") from error
        if not isinstance(frame, dict):
            raise ChildDied(f"it sent what is no object ({body[:60]!r})")
        return frame

    def _wait(self, timeout_s: float) -> None:
        """Read and write what can be read and written without waiting, once something can be."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_READ)
            if self._outgoing:
                selector.register(self._out, selectors.EVENT_WRITE)
            ready = {key.fd for key, _ in selector.select(timeout_s)}
        if self._out in ready:
            self._write()
        if self._in in ready:
            data = os.read(self._in, 2**16)
            if not data:
                raise ChildDied(self._obituary())
            self._incoming += data

    def _write(self) -> None:
        try:
            written = os.write(self._out, self._outgoing[: 2**16])
        except BrokenPipeError:
            self._outgoing.clear()  # its last words may still be there to read
        else:
            del self._outgoing[:written]

    def _obituary(self) -> str:
        try:
            status = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe and went on"
        told = self._log.last_error()
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{how}{f' ({told})' if told and status > 0 else ''}"
