"""The only file that knows of httpx: sends requests and deals with what goes wrong. In: jobs. Out: their answers, as they come.

A row ends answered or with a reason; what no row can be blamed for (a wrong key, no such model, a server that is gone) ends
them all with one error. The key is read from the environment here, sent in a header, and scrubbed from whatever is said.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import NamedTuple, TypeVar

import httpx

from humpback.engines.server.access import is_loopback, read_key
from humpback.engines.server.background import Background
from humpback.engines.server.limits import Limiter
from humpback.engines.server.retries import (
    BadAnswerError,
    Failure,
    GaveUpError,
    ServerDiedError,
    backoff_s,
    judge_status,
)
from humpback.errors import InputError, StageError
from humpback.recipe import ServerSettings

__all__ = ["Client", "Reply"]

T = TypeVar("T")

LARGEST_REPLY = 64 * 2**20
"""Bytes, unpacked. The log-probabilities of a long prompt are a few; a server gone mad must not fill the memory."""
CONNECT_S = 10.0
FEWEST_FAILURES = 5
"""A server is not given up before so many requests have failed, however impatient the recipe."""
MOST_TRIES = 1000
"""Of one row, whatever the deadline: each waits longer than the one before, up to half a minute."""
UNDER_WAY_S = 1.0
"""How long replies under way are waited for when the call ends for all: those of a dead server are there at once, or never."""
LOOKS = 5
"""Tries of a request that only looks what the server can do."""


class Reply(NamedTuple):
    """A whole HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """Return the body's value; raise BadAnswerError when it is none."""
        kind = self.headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise BadAnswerError(f"the reply is {kind}, not JSON")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise BadAnswerError(f"the reply is damaged JSON ({type(error).__name__})") from None


class Client:
    """One server, asked many things at once. Its methods may be called from any one thread at a time."""

    def __init__(self, url: str, settings: ServerSettings, *, died: Callable[[], bool] = lambda: False) -> None:
        """`died` tells whether a server of our own has ended."""
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self.is_here = is_loopback(self.url)
        self.settings = settings
        self.limiter = Limiter(settings.concurrency)
        self.requests = 0
        """Requests sent, every try counted."""
        self.retries = 0
        """Those of them that ask a row again after a failure."""
        self._died = died
        self._key = read_key(settings.api_key_env)
        self._dice = random.Random()  # only waits depend on it
        self._ending = False
        """Whether a failure of one row is ending all."""
        self._background = Background(f"server {self.url}")
        self._http: httpx.AsyncClient | None = None
        self._forgive()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    # -- for the engine --------------------------------------------------------------------------------------------

    def run(self, jobs: Mapping[int, Callable[[], Awaitable[T]]], hear: Callable[[int, T | GaveUpError], None]) -> None:
        """Work on all jobs at once; `hear(row, answer)` is called here, in the caller's thread, as each one ends."""
        self._forgive()
        self._ending = False
        self._background.run(jobs, hear)

    def do(self, work: Coroutine[object, object, T]) -> T:
        """Run one coroutine to its end."""
        return self._background.do(work)

    def close(self) -> None:
        """Close the connections and end the thread; the client works again when asked."""
        if self._http is not None:
            self._background.do(self._http.aclose())
            self._http = None
        self._background.close()

    # -- requests --------------------------------------------------------------------------------------------------

    async def ask(self, path: str, body: Mapping[str, object], read: Callable[[object], T], *, work: float = 1.0) -> T:
        """Send a request until `read` accepts the reply; raise GaveUpError at the deadline or when asking again is vain.

        `read` raises BadAnswerError for a reply that is none. `work` is the request's size, in tokens.
        """
        tries, spent = 0, 0.0
        while True:
            async with self.limiter.place(first=tries > 0):
                sent = time.monotonic()
                outcome = await self._see_through(self._try("POST", path, body, read))
                self._tell_limiter(outcome, sent, work)
            if not isinstance(outcome, Failure):
                self._forgive()
                return outcome
            tries += 1
            try:
                await self._stop_if_vain(outcome)
            except (InputError, StageError, ServerDiedError):
                self._ending = True
                raise
            wait = max(backoff_s(tries, self._dice), outcome.retry_after_s or 0.0)
            if outcome.kind != "absent":  # what nobody heard costs the server's patience, not the row's time
                spent += time.monotonic() - sent + wait
            if spent > self.settings.deadline_s or tries > MOST_TRIES:
                raise GaveUpError(f"{outcome.reason} ({tries} tries in {spent - wait:.0f} s)")
            await asyncio.sleep(wait)
            self.retries += 1

    async def look(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        """Send a request that only looks what there is, a few times if need be, and return the reply whatever its status."""
        failure = None
        for tries in range(1, LOOKS + 1):
            outcome = await self._send(method, path, body)
            if isinstance(outcome, Reply) and outcome.status < 300:
                return outcome
            failure = self._judge(outcome) if isinstance(outcome, Reply) else outcome
            if failure.kind in ("key", "quota") or (isinstance(outcome, Reply) and outcome.status < 400):
                raise self._fatal(failure)  # a redirect is not followed: the key goes where the recipe says
            if isinstance(outcome, Reply) and failure.kind != "busy":
                return outcome
            if tries < LOOKS:
                wait = max(backoff_s(tries, self._dice), failure.retry_after_s or 0.0)
                await asyncio.sleep(min(wait, self.settings.deadline_s))
        assert failure is not None
        raise InputError(
            f"{self.url}{path} gives no answer ({failure.reason}, {LOOKS} tries); start the server, or "
            "correct runtime.server.url"
        )

    async def is_up(self) -> bool:
        """Tell whether anything answers."""
        reply = await self._send("GET", "/v1/models", None)
        return isinstance(reply, Reply) and reply.status < 500

    # -- one try ---------------------------------------------------------------------------------------------------

    async def _try(
        self, method: str, path: str, body: Mapping[str, object], read: Callable[[object], T]
    ) -> T | Failure:
        reply = await self._send(method, path, body)
        if isinstance(reply, Failure):
            return reply
        if not 200 <= reply.status < 300:
            return self._judge(reply)
        try:
            return read(reply.json())
        except BadAnswerError as error:
            return Failure(kind="broken", reason=str(error))

    async def _see_through(self, one_try: Coroutine[object, object, T | Failure]) -> T | Failure:
        """Make one try; when another row's failure ends all, let a reply that is under way come: it need not be asked for again."""
        task = asyncio.create_task(one_try)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._ending:
                await asyncio.wait({task}, timeout=UNDER_WAY_S)
            if not task.done() or task.cancelled():
                task.cancel()
                raise
            outcome = task.result()
            if isinstance(outcome, Failure):
                raise
            return outcome

    def _judge(self, reply: Reply) -> Failure:
        failure = judge_status(reply.status, reply.headers, reply.body)
        reason = failure.reason.replace(self._key, "***") if self._key else failure.reason
        return dataclasses.replace(failure, reason=reason)

    async def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> Reply | Failure:
        self.requests += 1
        # ASCII, so that no text is refused here; lone surrogates are the server's to judge
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        wait = self.settings.timeout_s
        try:
            async with (
                asyncio.timeout(wait),
                self._connections().stream(method, self.url + path, content=content, headers=headers) as response,
            ):
                received = bytearray()
                async for part in response.aiter_bytes():
                    received += part
                    if len(received) > LARGEST_REPLY:
                        return Failure(kind="row", reason=f"the reply is larger than {LARGEST_REPLY >> 20} MiB")
                return Reply(response.status_code, dict(response.headers), bytes(received))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Failure(kind="absent", reason=f"nothing answers at {self.url} ({error or type(error).__name__})")
        except (TimeoutError, httpx.TimeoutException):
            return Failure(kind="busy", reason=f"no reply within {wait:g} s")
        except httpx.HTTPError as error:
            return Failure(kind="broken", reason=f"the connection broke ({type(error).__name__})")

    def _tell_limiter(self, outcome: object, sent: float, work: float) -> None:
        if not isinstance(outcome, Failure):
            self.limiter.answered(sent, work)
        elif outcome.kind == "busy":
            self.limiter.overloaded()

    # -- what ends all rows ----------------------------------------------------------------------------------------

    async def _stop_if_vain(self, failure: Failure) -> None:
        if failure.kind == "row":
            self._forgive()
            raise GaveUpError(failure.reason)
        if failure.kind in ("key", "place", "quota"):
            raise self._fatal(failure)
        if failure.kind in ("absent", "broken") and self._died():
            raise ServerDiedError(failure.reason)
        if (failure.retry_after_s or 0.0) > self.settings.deadline_s:
            raise StageError(
                f"{self.url} asks to wait {failure.retry_after_s:.0f} s ({failure.reason}), longer than "
                f"runtime.server.deadline_s={self.settings.deadline_s:g}; resume with the same command then"
            )
        self._failures += 1
        silent_s = time.monotonic() - self._heard
        if self._failures < FEWEST_FAILURES or silent_s < self.settings.patience_s:
            return
        if failure.kind != "absent" and await self.is_up():
            self._forgive()  # it is there: the rows it fails on are to blame, each until its own deadline
            return
        raise StageError(
            f"{self.url} has answered nothing for {silent_s:.0f} s ({self._failures} requests failed, the last with: "
            f"{failure.reason}); start it again, then resume with the same command"
        )

    def _fatal(self, failure: Failure) -> InputError | StageError:
        reason = failure.reason
        if failure.kind == "key":
            variable = self.settings.api_key_env
            sent = f"the key in {variable} is refused" if variable else "no key was sent"
            fix = f"correct {variable}" if variable else "name its variable, runtime.server.api_key_env"
            return InputError(f"{self.url}: {sent} ({reason}); {fix}")
        if failure.kind == "quota":
            return StageError(f"{self.url}: the account has nothing left ({reason}); resume with the same command")
        return InputError(
            f"{self.url}: {reason}; check runtime.server.url and runtime.server.model with: "
            f"humpback doctor --server {self.url}"
        )

    def _forgive(self) -> None:
        self._heard, self._failures = time.monotonic(), 0

    def _connections(self) -> httpx.AsyncClient:
        if self._http is None:
            most = self.settings.concurrency + 1
            self._http = httpx.AsyncClient(
                headers={"authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx.Timeout(self.settings.timeout_s, connect=CONNECT_S),
                limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
                follow_redirects=False,  # the key goes to the server that was named, and nowhere else
                trust_env=not self.is_here,
            )
        return self._http
