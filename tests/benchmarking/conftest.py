"""What the tests of evaluation share: the command in this process, and the recorded data beside the checkout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from humpback.cli import main

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "evaluation"


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process; anything but an exit status is a traceback and fails the test."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["humpback", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as ending:
            status = int(ending.code or 0)
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture
def recorded() -> Path:
    """The folder of recorded evaluation data."""
    if not RECORDED.is_dir():
        pytest.skip(f"the recorded data is not at {RECORDED}")
    return RECORDED
