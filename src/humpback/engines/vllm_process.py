"""The process that holds vLLM, seen from here: started, asked, watched, restarted. In: requests. Out: an answer for each.

A process that dies, hangs or talks nonsense is replaced, and only what it has not answered is asked again. A request that keeps
killing it is found by asking ever fewer together, and becomes an error; its neighbours are answered. What runs on the other side is
`vllm_child.py`; nothing here knows of vLLM.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from humpback.engines.vllm_wire import ChildDied, Frame, Log, Wire
from humpback.errors import InputError, StageError

__all__ = ["Adapter", "Launch", "Processes", "VLLMProcess"]

A = TypeVar("A")

VERSION = 1
"""Of the frames; `vllm_child.py` has the same number."""
CHUNK = 1024
"""Requests in the process at once: more than vLLM runs side by side, and as many as a death can put under suspicion."""
DEATHS = 2
"""Deaths on the same requests before they are asked apart; on a single one, before it is given up."""
PIECES = 8
MAX_DEATHS = 10
"""In a row, without an answer in between: enough to find one deadly request in a thousand, too few to try for hours."""
MAX_FAILED_STARTS = 3
BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM can set its adapters' memory to."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How to start a process. Engines with equal launches share one."""

    command: tuple[str, ...]
    """The interpreter and the script; the numbers of two file descriptors are added."""
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    """All of it, sorted; never shown, as it may hold keys."""
    settings: tuple[tuple[str, str | int | float | bool], ...]
    """vLLM's `EngineArgs` as the child knows them, sorted."""
    start_timeout_s: float
    """Longest time to load the model and to be ready."""
    stall_timeout_s: float
    """Longest silence of a process that has work."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter on the process's model."""

    name: str
    """Its content hash: a folder that is written anew is another adapter."""
    folder: str
    rank: int
    modules: frozenset[str]
    """Last parts of the names of the layers it changes, for example q_proj."""


class Processes:
    """The processes of this process: one per launch, shared by all engines over the same base."""

    def __init__(self) -> None:
        self._by_launch: dict[Launch, VLLMProcess] = {}

    def get(self, launch: Launch) -> VLLMProcess:
        return self._by_launch.setdefault(launch, VLLMProcess(launch))


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Requests that are asked together."""

    rows: tuple[int, ...]
    deaths: int = 0
    """How often the process has died of these, as far as is known."""

    def split(self) -> list[_Chunk]:
        """Cut into pieces; a single row starts anew: it is given up only for deaths of its own."""
        size = -(-len(self.rows) // PIECES)
        pieces = [self.rows[at : at + size] for at in range(0, len(self.rows), size)]
        return [_Chunk(rows=piece, deaths=min(1, len(piece) - 1)) for piece in pieces]


class VLLMProcess:
    """One model in a process of its own, which is there when it is needed."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.restarts = 0
        """Processes started in place of one that was lost."""
        self._users: set[object] = set()
        self._adapters: dict[str, int] = {}
        """By name, the number that vLLM tells adapters apart by."""
        self._lora_rank = 0
        self._lora_modules: frozenset[str] = frozenset()
        self._wire: Wire | None = None
        self._vocabulary = 0
        self._log: Log | None = None
        self._was_ready = False
        self._deaths = 0
        """In a row, without an answer in between."""
        self._number = 0
        """Of the last request sent; never used twice."""

    def join(self, user: object) -> None:
        """Keep the process until `user` leaves."""
        self._users.add(user)

    def leave(self, user: object) -> None:
        """End the process, and free its memory, when nobody else uses it."""
        self._users.discard(user)
        if not self._users:
            self.stop()

    def use_adapter(self, adapter: Adapter) -> Frame:
        """Return what a request must say to be answered with an adapter; a process that cannot hold it is replaced."""
        rank = next((size for size in LORA_RANKS if size >= adapter.rank), None)
        if rank is None:
            raise InputError(
                f"the adapter {adapter.folder} has rank {adapter.rank}; vLLM takes at most {LORA_RANKS[-1]}"
            )
        if rank > self._lora_rank or not adapter.modules <= self._lora_modules:
            self._lora_rank, self._lora_modules = max(rank, self._lora_rank), self._lora_modules | adapter.modules
            self._was_ready = False
            self.stop()
        number = self._adapters.setdefault(adapter.name, len(self._adapters) + 1)
        return {"name": adapter.name, "id": number, "path": adapter.folder}

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model knows; starts the process to find out."""
        self._running()
        return self._vocabulary

    def ask(self, requests: Sequence[Frame], read: Callable[[int, Frame], A], refuse: Callable[[str], A]) -> list[A]:
        """Return one answer per request, in order: `read(index, frame)` of what the process says, or `refuse` of why there is none.

        `read` raises KeyError, TypeError or ValueError for what is no answer.
        """
        answers: dict[int, A] = {}
        rows = range(len(requests))
        waiting = deque(_Chunk(rows=tuple(rows[at : at + CHUNK])) for at in range(0, len(requests), CHUNK))
        while waiting:
            chunk = waiting.popleft()
            try:
                self._answer(chunk.rows, requests, answers, read, refuse)
                continue
            except ChildDied as error:
                death = error
            except BaseException:  # Ctrl-C: what is being answered must not be taken for an answer of the next call
                self._kill()
                raise
            self._bury(death)
            rows_left = tuple(row for row in chunk.rows if row not in answers)
            # a row is given up for deaths of its own only
            is_alone_now = len(rows_left) == 1 < len(chunk.rows)
            left = _Chunk(rows=rows_left, deaths=0 if is_alone_now else chunk.deaths + 1)
            if left.deaths < DEATHS:
                waiting.appendleft(left)
            elif len(left.rows) == 1:
                answers[left.rows[0]] = refuse(f"vLLM's process died {left.deaths} times on this request ({death})")
            else:
                waiting.extendleft(reversed(left.split()))
        return [answers[row] for row in rows]

    def stop(self) -> None:
        """End the process; it starts again when it is asked."""
        if self._wire is not None:
            self._wire.stop()
            self._wire = None
        if self._log is not None and not self.restarts:
            self._log.remove()
            self._log = None

    # -- one process -----------------------------------------------------------------------------------------------

    def _answer(
        self,
        rows: Sequence[int],
        requests: Sequence[Frame],
        answers: dict[int, A],
        read: Callable[[int, Frame], A],
        refuse: Callable[[str], A],
    ) -> None:
        wire = self._running()
        asked: dict[object, int] = {}
        for row in rows:
            self._number += 1
            asked[self._number] = row
            wire.send({"kind": "ask", "id": self._number, **requests[row]})
        while asked:
            frame = wire.receive(self.launch.stall_timeout_s, "working")
            if frame.get("kind") == "beat":
                continue
            row = asked.pop(frame.get("id"), -1)
            if frame.get("kind") != "answer" or row < 0:
                raise ChildDied(f"it sent what nobody asked for ({str(frame)[:100]})")
            answers[row] = self._read(row, frame, read, refuse)

    def _read(self, row: int, frame: Frame, read: Callable[[int, Frame], A], refuse: Callable[[str], A]) -> A:
        if error := frame.get("error"):
            return refuse(str(error))
        try:
            answer = read(row, frame)
        except (KeyError, TypeError, ValueError) as error:
            raise ChildDied(f"its answer makes no sense ({type(error).__name__}: {error})") from error
        self._deaths = 0
        return answer

    def _running(self) -> Wire:
        for attempt in range(MAX_FAILED_STARTS):
            if self._wire is not None:
                break
            if failures := self._deaths + attempt:
                time.sleep(min(BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S))
                self.restarts += 1
            try:
                self._start()
            except ChildDied as death:
                if attempt + 1 == MAX_FAILED_STARTS:
                    raise StageError(
                        f"vLLM's process died {MAX_FAILED_STARTS} times at its start ({death}); its log: {self._log}"
                    ) from death
                _log.warning("vLLM's process is started again: %s; its log: %s", death, self._log)
        assert self._wire is not None
        return self._wire

    def _start(self) -> None:
        self._log = self._log or Log()
        settings: Frame = dict(self.launch.settings)
        if self._lora_rank:
            # only what is adapted: around the output layer, vLLM's likelihoods of prompts fail
            modules = sorted(self._lora_modules)
            settings |= {"enable_lora": True, "max_lora_rank": self._lora_rank, "lora_target_modules": modules}
        else:
            del settings["max_loras"]
        self._wire = Wire(self.launch.command, dict(self.launch.environment), self._log)
        try:
            self._wire.send({"kind": "start", "version": VERSION, "engine": settings})
            self._vocabulary = self._greet(self._wire.receive(self.launch.start_timeout_s, "starting"))
        except BaseException:  # Ctrl-C too: a child without an owner would keep the GPU; raised again
            self._kill()
            raise

    def _greet(self, frame: Frame) -> int:
        """Return the size of the vocabulary out of a process's first frame."""
        if frame.get("kind") == "failed":
            told = str(frame.get("error"))
            if self._was_ready:  # it has worked before: memory that is not free yet, for example
                raise ChildDied(told)
            raise InputError(f"vLLM cannot open the model: {told}; its log: {self._log}")
        vocabulary = frame.get("vocabulary")
        if frame.get("kind") != "ready" or frame.get("version") != VERSION or not isinstance(vocabulary, int):
            raise ChildDied(f"it did not say that it is ready, but {str(frame)[:100]}")
        self._was_ready = True
        return vocabulary

    def _bury(self, death: ChildDied) -> None:
        """Clean up after a process, and say whether it is worth another."""
        self._kill()
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            self._deaths = 0
            raise StageError(
                f"vLLM's process died {MAX_DEATHS} times without an answer in between ({death}); its log: {self._log}. "
                "What is answered is kept; run the same command again"
            )
        _log.warning("vLLM's process is started again: %s; its log: %s", death, self._log)

    def _kill(self) -> None:
        if self._wire is not None:
            self._wire.kill()
            self._wire = None
