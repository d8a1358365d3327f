"""Executors: the same task over the same shards, in this process or in a pool of processes. Results never depend on which."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar, cast

from humpback.errors import StageError

__all__ = ["Executor", "PoolExecutor", "SerialExecutor"]

Work = TypeVar("Work")
Done = TypeVar("Done")


class Executor(Protocol):
    """Maps a task over work items; results come in the order they are finished."""

    def map(self, task: Callable[[Work], Done], items: Iterable[Work]) -> Iterator[Done]: ...


class SerialExecutor:
    """One item after another, in this process."""

    def map(self, task: Callable[[Work], Done], items: Iterable[Work]) -> Iterator[Done]:
        for item in items:
            yield task(item)


class PoolExecutor:
    """A pool of processes. Each holds one copy of the task, and with it one engine, for its whole life."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, task: Callable[[Work], Done], items: Iterable[Work]) -> Iterator[Done]:
        context = multiprocessing.get_context("spawn")  # fork would copy a process that may run torch's threads
        pool = concurrent.futures.ProcessPoolExecutor(
            self.workers, mp_context=context, initializer=cast(Any, _start_worker), initargs=cast(Any, (task,))
        )
        pending: set[concurrent.futures.Future[Done]] = set()
        try:
            for item in items:
                pending.add(pool.submit(cast(Callable[[Work], Done], _work), item))
                if len(pending) >= 2 * self.workers:  # items are read only as fast as they are worked on
                    done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise StageError(
                f"a worker process died ({error}); with too little memory use fewer runtime.workers than {self.workers}. "
                "Finished shards are kept; run the same command again."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_task: Callable[[object], object] | None = None  # one per worker process, set once by its initializer


def _start_worker(task: Callable[[object], object]) -> None:
    global _task
    _task = task
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker at once when its parent is gone: a killed parent cannot, and the resumed run writes the same files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: object) -> object:
    assert _task is not None
    return _task(item)
