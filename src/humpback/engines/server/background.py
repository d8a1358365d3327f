"""An event loop in a thread of its own. In: coroutines from a caller that waits. Out: their results, as they come.

Not `asyncio.run`: a caller may have a loop running in his own thread (a notebook does), and connections outlive one call.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TypeVar

from humpback.engines.server.retries import GaveUpError

__all__ = ["Background"]

T = TypeVar("T")

END_S = 10.0


class Background:
    """Runs coroutines while its caller waits; the thread starts with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, jobs: Mapping[int, Callable[[], Awaitable[T]]], hear: Callable[[int, T | GaveUpError], None]) -> None:
        """Work on all jobs at once; `hear(row, answer)` is called here, in the caller's thread, as each one ends.

        Any other error than GaveUpError ends them all, and is raised.
        """
        ended: queue.SimpleQueue[tuple[int, T | GaveUpError] | None] = queue.SimpleQueue()

        async def finish(row: int, job: Callable[[], Awaitable[T]]) -> None:
            try:
                ended.put((row, await job()))
            except GaveUpError as error:
                ended.put((row, error))

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                for row, job in jobs.items():
                    group.create_task(finish(row, job))

        future = asyncio.run_coroutine_threadsafe(work(), self._running())
        future.add_done_callback(lambda _: ended.put(None))
        try:
            while (item := ended.get()) is not None:
                hear(*item)
        except BaseException:  # what the listener raises, and an interrupt: nobody hears the rest; it is raised again
            future.cancel()
            raise
        try:
            future.result()
        except BaseExceptionGroup as group:
            raise _first(group) from None

    def do(self, work: Coroutine[object, object, T]) -> T:
        """Run one coroutine to its end."""
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:  # an interrupt of the waiting thread does not reach the loop's; it is raised again
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread; it starts again when asked."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(END_S)
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
            self._thread.start()
        return self._loop


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error of a group: they are all of the same cause."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
