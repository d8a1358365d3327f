"""The answer cache: what a model has answered is kept as it arrives and never asked again.

Keys are content: call, model, prompt tokens, and what else decides the answer (sampling and seed, choices, continuation).
Batch size, device and the stage that asks are not part of them. SQLite in WAL mode: a kill loses the batch in flight, no more.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from humpback.engines.base import (
    Capability,
    ChoiceLogprobs,
    Completion,
    Engine,
    EngineTotals,
    FloatArray,
    Loglikelihood,
    ModelRef,
    Sampling,
)
from humpback.engines.batching import kept_cost, plan_batches
from humpback.errors import StorageError
from humpback.prompts import Choice, Continuation, Prompt, Tokenizer

__all__ = ["AnswerCache", "CachedEngine"]

Answer = TypeVar("Answer", Completion, ChoiceLogprobs, Loglikelihood)


class AnswerCache:
    """A key-value file that several processes may use at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._clear_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=120, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
            )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return the stored values of those keys that are there."""
        found: dict[bytes, str] = {}
        with self._clear_errors():
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                found.update(self._db.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part))
        return found

    def put(self, items: Sequence[tuple[bytes, str]]) -> None:
        """Store answers in one transaction; they are there when this returns."""
        with self._clear_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", items)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def keys(self) -> set[bytes]:
        with self._clear_errors():
            return {key for (key,) in self._db.execute("SELECT key FROM answers")}

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"answer cache {self.path}: {error}; free space or fix permissions and run the same command again. "
                "If that is no answer cache, set runtime.cache to another file; if it is one and damaged, move it away: "
                "answers of unfinished stages are asked again."
            ) from error
        except OSError as error:
            raise StorageError(
                f"answer cache {self.path} cannot be made: {error.strerror}; choose another place"
            ) from error


@dataclasses.dataclass
class _Codec(Generic[Answer]):
    call: Capability
    kind: type[Answer]

    def encode(self, answer: Answer) -> str:
        return json.dumps(dataclasses.asdict(answer), default=_encode_array)

    def decode(self, text: str) -> Answer:
        values: dict[str, Any] = json.loads(text)
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if values.get("hidden"):
            values["hidden"] = _decode_array(values["hidden"])
        return self.kind(**values)


def _encode_array(array: FloatArray) -> dict[str, Any]:
    little_endian = array.astype("<f4")
    return {"shape": array.shape, "f4": base64.b64encode(little_endian.tobytes()).decode()}


def _decode_array(stored: dict[str, Any]) -> FloatArray:
    flat = np.frombuffer(base64.b64decode(stored["f4"]), dtype="<f4")
    return flat.reshape(stored["shape"]).astype(np.float32)


class CachedEngine:
    """An engine behind the answer cache. Unanswered requests go out in batches of like length, each committed as it comes."""

    def __init__(
        self,
        inner: Engine,
        cache: AnswerCache,
        *,
        batch_tokens: int,
        on_answers: Callable[[int, int], None] | None = None,
    ) -> None:
        self.inner = inner
        self.cache = cache
        self.batch_tokens = batch_tokens
        self.on_answers = on_answers
        self.totals = EngineTotals()

    @property
    def model(self) -> ModelRef:
        return self.inner.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.inner.capabilities

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        settings = json.dumps(dataclasses.asdict(sampling), sort_keys=True)
        keys = [
            self._key("generate", p.token_ids, settings, str(p.seed) if sampling.temperature else "") for p in prompts
        ]
        lengths = [kept_cost(len(p.token_ids) + sampling.max_tokens) for p in prompts]
        return self._answer(
            _Codec("generate", Completion),
            keys,
            lengths,
            lambda rows: self.inner.generate([prompts[i] for i in rows], sampling),
        )

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        menu = json.dumps([choice.token_id for choice in choices]) + (json.dumps(list(layers)) if layers else "")
        keys = [self._key("choice_logprobs", p.token_ids, menu) for p in prompts]
        return self._answer(
            _Codec("choice_logprobs", ChoiceLogprobs),
            keys,
            [len(p.token_ids) for p in prompts],
            lambda rows: self.inner.choice_logprobs([prompts[i] for i in rows], choices, layers),
        )

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        asked = list(zip(prompts, continuations, strict=True))
        keys = [self._key("loglikelihood", p.token_ids, json.dumps(c.token_ids)) for p, c in asked]
        return self._answer(
            _Codec("loglikelihood", Loglikelihood),
            keys,
            [len(p.token_ids) + len(c.token_ids) for p, c in asked],
            lambda rows: self.inner.loglikelihood([prompts[i] for i in rows], [continuations[i] for i in rows]),
        )

    def close(self) -> None:
        self.inner.close()
        self.cache.close()

    def _key(self, call: str, token_ids: Sequence[int], *parts: str) -> bytes:
        text = "\x1f".join((call, self.inner.model.content_hash, ",".join(map(str, token_ids)), *parts))
        return hashlib.sha256(text.encode()).digest()

    def _answer(
        self,
        codec: _Codec[Answer],
        keys: Sequence[bytes],
        lengths: Sequence[int],
        ask: Callable[[list[int]], list[Answer]],
    ) -> list[Answer]:
        answers = {key: codec.decode(text) for key, text in self.cache.get(list(dict.fromkeys(keys))).items()}
        first_row: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in answers:
                first_row.setdefault(key, row)  # the same question twice in one call is asked once
        missing = list(first_row.values())
        hits = len(keys) - len(missing)
        self.totals.requests += len(keys)
        self.totals.cache_hits += hits
        if self.on_answers and hits:
            self.on_answers(hits, 0)
        for batch in plan_batches([lengths[row] for row in missing], self.batch_tokens):
            rows = [missing[index] for index in batch]
            fresh = self._time(ask, rows)
            # an error is no answer: it is not stored, so that a resumed run asks again
            stored = [(keys[r], codec.encode(a)) for r, a in zip(rows, fresh, strict=True) if not a.error]
            self.cache.put(stored)
            answers.update((keys[row], answer) for row, answer in zip(rows, fresh, strict=True))
        return [answers[key] for key in keys]

    def _time(self, ask: Callable[[list[int]], list[Answer]], rows: list[int]) -> list[Answer]:
        inner, started = self.inner.totals, time.monotonic()
        before = (inner.tokens_in, inner.tokens_out)
        fresh = ask(rows)
        self.totals.seconds += time.monotonic() - started
        tokens_in, tokens_out = inner.tokens_in - before[0], inner.tokens_out - before[1]
        self.totals.tokens_in += tokens_in
        self.totals.tokens_out += tokens_out
        if self.on_answers:
            self.on_answers(len(rows), tokens_in + tokens_out)
        return fresh
