"""What the tests of studies share: the command in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from humpback.cli import main


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def run_command() -> Command:
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
