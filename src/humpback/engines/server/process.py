"""A server of our own: started for one model on a free port, waited for, stopped. In: a command template. Out: an address."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from humpback.errors import InputError, StageError

__all__ = ["ServerProcess"]

STOP_S = 30.0
"""Longest wait for its end: the keeper gives it half of that."""
LOOK_EVERY_S = 0.5
TAIL = 12
"""Last lines of its output that an error shows."""


class ServerProcess:
    """One running command."""

    def __init__(self, command: str, model: str) -> None:
        """`command` is a template that holds {model} and {port}."""
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        words = [word.replace("{model}", model).replace("{port}", str(self.port)) for word in shlex.split(command)]
        self._log = Path(tempfile.mkdtemp(prefix="humpback-server-")) / "output.txt"
        keeper = Path(__file__).with_name("keeper.py")
        with self._log.open("wb") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, str(keeper), *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone: a keeper that died of it could not end its server
            )

    @property
    def died(self) -> bool:
        """Whether it has ended by itself."""
        return self._keeper.poll() is not None

    def wait(self, is_up: Callable[[], bool], longest_s: float) -> None:
        """Wait until it answers; raise InputError, with the end of its output, when it ends first or takes too long."""
        started = time.monotonic()
        while not is_up():
            if self.died:
                raise InputError(
                    f"runtime.server.command ended with status {self._keeper.returncode} before it answered:\n{self.tail()}"
                )
            if time.monotonic() - started > longest_s:
                told = self.tail()
                self.stop(keep_output=True)
                raise StageError(
                    f"runtime.server.command has not answered after {longest_s:g} s (runtime.server.start_s):\n{told}"
                )
            time.sleep(LOOK_EVERY_S)

    def tail(self) -> str:
        """Return the last lines of its output and where the rest is."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        return "\n".join(f"  {line}" for line in [*lines, f"({self._log})"])

    def stop(self, *, keep_output: bool = False) -> None:
        """End it and all it has started; its output stays where it is when it has ended by itself."""
        keep_output = keep_output or self.died
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        if not keep_output:
            shutil.rmtree(self._log.parent)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
