"""What the tests of evaluation share: the command in this process, and the recorded data beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "evaluation"


@pytest.fixture
def recorded() -> Path:
    """The folder of recorded evaluation data."""
    if not RECORDED.is_dir():
        pytest.skip(f"the recorded data is not at {RECORDED}: it lies beside the project, and is no part of it")
    return RECORDED
