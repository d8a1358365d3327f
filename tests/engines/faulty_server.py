"""An OpenAI-compatible server for tests, which fails as it is told to. In: a model's exact log-probabilities. Out: HTTP.

It speaks as vLLM does, as llama.cpp does, or as a service that has chat alone, and keeps an account of what it has answered.
Faults are drawn from its own seed, for one in so many requests. As a script it serves in a process of its own:

    python faulty_server.py MODEL_FOLDER PORT [DELAY_S] [LOG_FILE]
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAULTS", "FaultyServer", "FileTokenizer", "HashModel", "Served", "digest"]

FAULTS = (
    *("429", "429 with seconds", "429 with date", "500", "503", "reset", "reset in the middle", "stall"),
    *("truncated", "HTML", "HTML 502", "wrong model", "two choices", "no choices", "wrong index", "not a number"),
)
NAME = "tested"
CURSE: dict[str, Any] = {"error": {"message": "out of luck", "code": 500}}
PAGE = b"<!doctype html><html><head><title>502</title></head><body>bad gateway</body></html>"


class Served(Protocol):
    """A model that knows its own numbers; `contract.PlainModel` is one."""

    vocabulary: int
    context: int | None

    def next_logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """Return [T, V]: row t is log p of every token after token_ids[: t + 1]."""
        ...


class HashModel:
    """A model whose next token depends on a small hash of all before: thousands of requests cost little."""

    vocabulary = 260
    context: int | None = 512

    def __init__(self) -> None:
        logits = np.random.default_rng(0).normal(size=(997, self.vocabulary)) * 2
        logits[:, 3] += 3.0  # it ends its turns now and then
        self._rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def next_logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        places, place = [], 0
        for token in token_ids:
            place = (31 * place + token + 1) % 997
            places.append(place)
        return np.asarray(self._rows[places])


class ReadsTokens(Protocol):
    """What the server needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def decode_plain(self, ids: Sequence[int]) -> str: ...

    def chat(self, user: str) -> str: ...


class FileTokenizer:
    """A folder's tokenizer.json, without transformers, whose import takes seconds."""

    def __init__(self, folder: str) -> None:
        from tokenizers import Tokenizer

        self._file = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))

    def encode(self, text: str) -> list[int]:
        return list(self._file.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._file.decode(list(ids), skip_special_tokens=False))

    def decode_plain(self, ids: Sequence[int]) -> str:
        return str(self._file.decode(list(ids), skip_special_tokens=True))

    def chat(self, user: str) -> str:
        return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class FaultyServer:
    """One server on a free loopback port, in a thread of its own."""

    model: Served
    tokenizer: ReadsTokens
    manner: Literal["vllm", "llama.cpp", "legacy", "chat"] = "vllm"
    """vllm: all of its extensions. llama.cpp: its own endpoint, no likelihoods. legacy: completions, echo and five top
    log-probabilities, unknown settings refused. chat: messages only."""
    faults: Sequence[str] = ()
    rate: float = 0.0
    """Share of requests that meet a fault."""
    stall_s: float = 30.0
    seed: int = 0
    echoes: bool = True
    """Whether a prompt is told with its log-probabilities on request."""
    key: str | None = None
    ends: frozenset[int] = frozenset({3})
    """Tokens that end a turn."""
    cursed: Callable[[list[int]], bool] = lambda ids: False
    """Prompts that never get anything but 500."""
    delay_s: float = 0.0
    requests: int = 0
    met: Counter[str] = field(default_factory=Counter)
    """How often each fault was met."""
    answered: Counter[str] = field(default_factory=Counter)
    """Answers given whole, by the digest of what was asked."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    log: Path | None = None
    """Gets a line for every answer, before it is sent."""
    port: int = 0
    """0 takes a free one."""
    url: str = ""

    def __enter__(self) -> FaultyServer:
        self._dice, self._at_once = random.Random(self.seed), 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._start(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def stop(self) -> None:
        """Stop listening and break all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    def start_again(self) -> None:
        """Listen at the same port as before."""
        self._start(int(self.url.rpartition(":")[2]))

    # -- connections -----------------------------------------------------------------------------------------------

    def _start(self, port: int) -> None:
        async def listen() -> asyncio.Server:
            return await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**24)

        self._writers: set[asyncio.StreamWriter] = set()
        self._readers: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._writers.add(writer)
        self._readers[writer] = reader
        self._tasks.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            del self._readers[writer]
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        body = json.loads(content) if content else {}
        self.requests += 1
        self.headers.append(headers)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            return await self._reply(method, path, headers, body, writer)
        finally:
            self._at_once -= 1

    async def _reply(
        self, method: str, path: str, headers: dict[str, str], body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return await _send(writer, 401, _error(f"Incorrect API key: {headers.get('authorization')}"))
        status, data = self._answer(method, path, body)
        meets = self.faults and data is not CURSE and self._dice.random() < self.rate
        fault = self._dice.choice(self.faults) if meets else None
        if fault is not None and not (fault == "not a number" and b"logprob" not in json.dumps(data).encode()):
            self.met[fault] += 1
            return await self._fail(fault, status, data, writer)
        await asyncio.sleep(0)  # hear of a client that has given up in the meantime, on a busy machine
        if self._gone(writer):
            return False
        if status == 200 and method == "POST":
            self._note(body)
        return await _send(writer, status, json.dumps(data).encode())

    def _note(self, body: dict[str, Any]) -> None:
        """Enter an answer into the account, before its first byte is sent.

        After it, whoever has read the answer may look at the account, or clear it, before it stands there: the last question of a
        probe would count among the rows.
        """
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(digest(body) + "\n")
        self.bodies.append(body)
        self.answered[digest(body)] += 1

    def _gone(self, writer: asyncio.StreamWriter) -> bool:
        return writer.is_closing() or self._readers[writer].at_eof()

    async def _fail(self, fault: str, status: int, data: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        whole = json.dumps(data).encode()
        if fault.startswith("429"):
            waits = {"429 with seconds": "1", "429 with date": formatdate(usegmt=True)}
            return await _send(writer, 429, _error("slow down"), **{"retry-after": waits.get(fault, "")})
        if fault in ("500", "503"):
            return await _send(writer, int(fault), _error("overloaded"))
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "reset in the middle":
            writer.write(_head(200, len(whole), "application/json") + whole[: len(whole) // 2])
            await writer.drain()
            writer.transport.abort()
            return False
        if fault == "stall":
            await asyncio.sleep(self.stall_s)
            return False
        if fault == "truncated":
            return await _send(writer, 200, whole[: max(len(whole) // 2, 1)])
        if fault.startswith("HTML"):
            return await _send(writer, 502 if fault == "HTML 502" else 200, PAGE, kind="text/html")
        return await _send(writer, status, json.dumps(spoil(fault, data)).encode())

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        owners = {"vllm": "vllm", "llama.cpp": "llamacpp"}
        if path == "/v1/models":
            entry = {"id": NAME, "object": "model", "owned_by": owners.get(self.manner, "someone")}
            context = {"max_model_len": self.model.context} if self.manner == "vllm" else {}
            meta = {"meta": {"n_ctx": self.model.context, "n_vocab": self.model.vocabulary}}
            return 200, {"object": "list", "data": [entry | context | (meta if self.manner == "llama.cpp" else {})]}
        if path == "/tokenize" and self.manner in owners:
            return 200, {"tokens": self.tokenizer.encode(body["prompt"])}
        if path == "/completion" and self.manner == "llama.cpp":
            return self._native(body)
        chat = path == "/v1/chat/completions"
        if method != "POST" or not (chat or (path == "/v1/completions" and self.manner != "chat")):
            return 404, {"error": {"message": "Not Found", "code": 404}}
        if body.get("model") != NAME:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": 404}}
        known = {"model", "prompt", "messages", "n", "stream", "max_tokens", "temperature", "top_p", "stop", "seed"}
        unknown = sorted(body.keys() - known - {"logprobs", "top_logprobs", "echo"})
        if unknown and self.manner in ("legacy", "chat"):
            return 400, {"error": {"message": f"Unrecognized request argument: {unknown[0]}", "code": "unknown_field"}}
        if chat and self.manner == "chat" and body.get("logprobs"):
            return 400, {"error": {"message": "logprobs are not supported", "code": 400}}
        return self._complete(body, chat=chat)

    def _complete(self, body: dict[str, Any], *, chat: bool) -> tuple[int, dict[str, Any]]:
        ids = self._prompt_ids(body, chat=chat)
        if isinstance(ids, str):
            return 400, {"error": {"message": ids, "code": 400}}
        if self.cursed(ids):
            return 500, CURSE
        drawn, finish, text = self._draw(ids, body)
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if not chat and body.get("logprobs") is not None:
            choice["logprobs"] = self._tell(ids, drawn, body)
        if body.get("prompt_logprobs") is not None and self.manner == "vllm":
            rows = self.model.next_logprobs(ids)
            choice["prompt_logprobs"] = [
                None,
                *({str(token): {"logprob": float(row[token])}} for row, token in zip(rows, ids[1:], strict=False)),
            ]
        if body.get("return_token_ids") and self.manner == "vllm":
            choice["token_ids"] = drawn
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(drawn)}
        return 200, {"model": NAME, "choices": [choice], "usage": usage}

    def _prompt_ids(self, body: dict[str, Any], *, chat: bool) -> list[int] | str:
        if chat:
            ids = self.tokenizer.encode(self.tokenizer.chat(body["messages"][0]["content"]))
        else:
            ids = self.tokenizer.encode(body["prompt"]) if isinstance(body["prompt"], str) else body["prompt"]
        if not ids:
            return "the prompt must not be empty"
        if max(ids) >= self.model.vocabulary:
            return f"token {max(ids)} is out of vocabulary"
        if self.model.context is not None and len(ids) + body["max_tokens"] > self.model.context:
            return f"{len(ids)} tokens exceed the context of {self.model.context}"
        return list(ids)

    def _draw(self, ids: list[int], body: dict[str, Any]) -> tuple[list[int], str, str]:
        dice = np.random.default_rng(body["seed"] if body.get("seed") is not None else None)
        drawn: list[int] = []
        ends = self.ends | set(body.get("stop_token_ids") or ())
        while len(drawn) < body["max_tokens"]:
            token = _draw_token(self.model.next_logprobs([*ids, *drawn])[-1], body, dice)
            drawn.append(token)
            if token in ends:
                return drawn, "stop", self.tokenizer.decode_plain(drawn[:-1])
            text = self.tokenizer.decode_plain(drawn)
            cuts = [at for stop in body.get("stop") or () if (at := text.find(stop)) >= 0]
            if cuts:
                return drawn, "stop", text[: min(cuts)]
        return drawn, "length", self.tokenizer.decode_plain(drawn)

    def _tell(self, ids: list[int], drawn: list[int], body: dict[str, Any]) -> dict[str, Any]:
        """Return log-probabilities of what was drawn, and of the prompt where it is to be echoed."""
        rows = self.model.next_logprobs([*ids, *drawn])
        told = [*ids, *drawn] if body.get("echo") and self.echoes and self.manner != "llama.cpp" else drawn
        first = len(ids) + len(drawn) - len(told)
        most = {"legacy": 5, "vllm": 20, "llama.cpp": 10**6}[self.manner]
        count = min(int(body["logprobs"]), most)
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for at, token in enumerate(told, first):
            row = rows[at - 1] if at else None
            values.append(None if row is None else float(row[token]))
            named = body.get("logprob_token_ids") if self.manner == "vllm" else None
            best = named or (np.argsort(-row)[:count].tolist() if row is not None else [])
            tops.append(None if row is None else {self._name(i, body): float(row[i]) for i in (token, *best)})
        if self.manner == "llama.cpp":
            items = [
                [{"id": i, "logprob": float(rows[first - 1][i])} for i in np.argsort(-rows[first - 1])[:count].tolist()]
            ]
            return {"content": [{"id": told[0], "logprob": values[0], "top_logprobs": items[0]}]}
        return {"token_logprobs": values, "top_logprobs": tops}

    def _name(self, token: int, body: dict[str, Any]) -> str:
        return f"token_id:{token}" if body.get("return_tokens_as_token_ids") else self.tokenizer.decode([token])

    def _native(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer llama.cpp's own `/completion`: one token, with a bias on some."""
        ids = self._prompt_ids(body | {"max_tokens": 1}, chat=False)
        if isinstance(ids, str):
            return 400, {"error": {"message": ids, "code": 400}}
        row = self.model.next_logprobs(ids)[-1]
        biased = row.copy()
        for token, bias in dict(map(tuple, body["logit_bias"])).items():
            biased[token] += bias
        biased -= np.log(np.exp(biased - biased.max()).sum()) + biased.max()
        token = _draw_token(biased, body, np.random.default_rng(body.get("seed")))
        best = np.argsort(-(biased if body["post_sampling_probs"] else row))[: body["n_probs"]].tolist()
        if body["post_sampling_probs"]:
            told = {
                "prob": float(np.exp(biased[token])),
                "top_probs": [{"id": i, "prob": float(np.exp(biased[i]))} for i in best],
            }
        else:
            told = {"logprob": float(row[token]), "top_logprobs": [{"id": i, "logprob": float(row[i])} for i in best]}
        return 200, {"model": NAME, "completion_probabilities": [{"id": token, **told}]}


def spoil(fault: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return a reply that is valid JSON and no answer."""
    spoilt = json.loads(json.dumps(data))
    choices = spoilt.get("choices", [])
    if fault == "wrong model":
        spoilt["model"] = "another"
    elif fault == "two choices":
        spoilt["choices"] = choices * 2
    elif fault == "no choices":
        spoilt["choices"] = []
    elif fault == "wrong index":
        spoilt["choices"] = [choice | {"index": 1} for choice in choices]
    else:
        spoilt = _without_numbers(spoilt)
    return dict(spoilt)


def digest(body: dict[str, Any]) -> str:
    """Name a question: what is asked of which prompt."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _without_numbers(value: Any) -> Any:
    """Turn every log-probability into NaN."""
    if isinstance(value, dict):
        return {key: _without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_numbers(item) for item in value]
    return float("nan") if isinstance(value, float) else value


def _draw_token(logprobs: NDArray[np.float64], body: dict[str, Any], dice: np.random.Generator) -> int:
    if body.get("temperature") == 0:
        return int(logprobs.argmax())
    scaled = logprobs / body.get("temperature", 1.0)
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    kept = order[: int((probs[order].cumsum() < body.get("top_p", 1.0)).sum()) + 1]
    return int(dice.choice(kept, p=probs[kept] / probs[kept].sum()))


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


def _head(status: int, length: int, kind: str, **headers: str) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}\r\n".encode()


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, *, kind: str = "application/json", **headers: str
) -> bool:
    writer.write(_head(status, len(body), kind, **headers) + body)
    await writer.drain()
    return True


def main() -> None:
    folder, port = sys.argv[1], int(sys.argv[2])
    delay_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    log = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    model = HashModel()
    model.context = json.loads((Path(folder) / "config.json").read_text())["max_position_embeddings"]
    with FaultyServer(model, FileTokenizer(folder), port=port, delay_s=delay_s, log=log) as server:
        print(f"serving at {server.url}", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
