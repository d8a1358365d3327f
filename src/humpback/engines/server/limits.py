"""How many requests may be in flight. In: what became of each. Out: places, as many as the server can use.

More is added while more in flight means more answered per second. The number falls by half when the server takes nothing more (429,
5xx, a reply that does not come), by less when it refuses a part, and by a quarter when replies only wait longer for one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

__all__ = ["Limiter"]

FIRST = 4
"""Requests in flight at the start; doubled per round while that pays."""
GAIN = 1.05
"""More in flight must answer at least this much more per second to count as faster."""
SLOWER = 1.5
"""Replies that take this much longer, and no more of them, are waiting for one another."""
AS_FAST = 1.1
"""Replies that take no longer than this leave room for one more."""
HALVED, EASED, AGED = 0.5, 0.75, 0.97


class Limiter:
    """Hands out places for requests."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.limit = float(min(FIRST, most))
        self.in_flight = 0
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._doubling = True
        self._best_rate = 0.0
        self._best_latency = 0.0
        self._begin_round()

    @contextlib.asynccontextmanager
    async def place(self, *, first: bool = False) -> AsyncIterator[None]:
        """Wait for a place and hold it; `first` goes before those that wait: it was asked before them."""
        while self.in_flight >= int(self.limit):
            waiter = asyncio.get_running_loop().create_future()
            if first:
                self._waiting.appendleft(waiter)
            else:
                self._waiting.append(waiter)
            await waiter
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._wake()

    def answered(self, started: float, work: float) -> None:
        """Take note of a reply to a request sent at `started`; `work` is its size in tokens."""
        self._answered += 1
        self._work += work
        self._latency += (self._clock() - started) / max(work, 1.0)
        self._end_round()

    def overloaded(self) -> None:
        """Take note of a request that the server could not take."""
        self._refused += 1
        self._end_round()

    # -- inner -----------------------------------------------------------------------------------------------------

    def _end_round(self) -> None:
        """Decide once per round: as many requests as may be in flight. An overload that makes many fail is one overload."""
        count = self._answered + self._refused
        if count < max(int(self.limit), FIRST):
            return
        if self._refused:
            self._doubling = False
            self._set(self.limit * (1 - (1 - HALVED) * self._refused / count))
        if self._answered:
            self._judge(self._work / max(self._clock() - self._round, 1e-9), self._latency / self._answered)
        self._begin_round()

    def _judge(self, rate: float, latency: float) -> None:
        """Decide by one round: `rate` is tokens per second, `latency` seconds per token of a request."""
        if rate > self._best_rate * GAIN:
            faster = self._best_latency == 0.0 or latency < self._best_latency * SLOWER
            self._best_rate = rate
            self._best_latency = latency if faster else self._best_latency
            self._set(self.limit * 2 if self._doubling else self.limit + 1)
        elif latency > self._best_latency * SLOWER:
            self._doubling = False
            # what was the best may no longer be: the server has other users
            self._best_rate, self._best_latency = self._best_rate * AGED, self._best_latency / AGED
            self._set(self.limit * EASED)
        elif latency < self._best_latency * AS_FAST:
            self._set(self.limit + 1)

    def _set(self, limit: float) -> None:
        self.limit = min(max(limit, 1.0), float(self.most))
        self._wake()

    def _begin_round(self) -> None:
        self._round, self._work, self._latency = self._clock(), 0.0, 0.0
        self._answered = self._refused = 0

    def _wake(self) -> None:
        free = int(self.limit) - self.in_flight
        while free > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1
