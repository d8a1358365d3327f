"""Executors: the same results in one process and in a pool, bounded reading ahead, and no process left behind.

Tasks are functions of the standard library, because a worker process must be able to import them.
"""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from humpback.errors import StageError
from humpback.executor import Executor, PoolExecutor, SerialExecutor

if TYPE_CHECKING:
    from tests.conftest import Lab

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

BOTH = pytest.mark.parametrize("executor", [SerialExecutor(), PoolExecutor(2)], ids=["serial", "pool"])


def _counted(numbers: range, read: list[int]) -> Iterator[int]:
    for number in numbers:
        read.append(number)
        yield number


@BOTH
def test_every_item_is_worked_once_and_no_further_ahead_than_the_workers(executor: Executor) -> None:
    read: list[int] = []
    results = []
    for result in executor.map(operator.neg, _counted(range(20), read)):
        results.append(result)
        assert len(read) - len(results) < 4  # 2 * workers
    assert sorted(results) == sorted(-n for n in range(20))


@BOTH
def test_error_of_the_task_comes_through_as_it_is(executor: Executor) -> None:
    with pytest.raises(ValueError, match="math domain error"):
        list(executor.map(math.sqrt, [4.0, -1.0]))
    assert _workers(psutil.Process()) == []


@BOTH
def test_no_items_give_no_results(executor: Executor) -> None:
    assert list(executor.map(operator.neg, [])) == []


def test_dead_worker_stops_the_stage_with_a_clear_message() -> None:
    with pytest.raises(
        StageError, match=r"a worker process died .* use fewer runtime\.workers than 2.*run the same command again"
    ):
        list(PoolExecutor(2).map(os._exit, [3, 3, 3]))
    assert _workers(psutil.Process()) == []


def test_abandoned_pool_ends() -> None:
    results = PoolExecutor(2).map(operator.neg, range(100))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert _workers(psutil.Process()) == []


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_workers_end_at_once_when_their_parent_is_killed(lab: Lab, tmp_path: Path, after_s: float) -> None:
    with lab.start_child(lambda: list(PoolExecutor(2).map(time.sleep, [300, 300])), tmp_path) as parent:
        family = psutil.Process(parent.pid)
        _wait(lambda: len(_workers(family)) == 2)
        time.sleep(after_s)
        workers = _workers(family)
        parent.kill()
    killed = time.monotonic()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert len(gone) == 2
    if after_s:  # they were at work, not still starting
        assert time.monotonic() - killed < 5


def _workers(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "resource_tracker" not in " ".join(child.cmdline())]


def _wait(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)
