"""A child that speaks the frames of `vllm_child.py` without vLLM, and misbehaves as it is told. Run: PLAN FOLDER READ_FD WRITE_FD.

PLAN is a JSON object: `first` says what the first process does wrong (`die`, `hang`, `garbage`, `no object`, `long`, `twice`,
`stranger`, `senseless`, `truncated`) and `at` after how many answers; `start` does it before it is ready; `poison` is a token whose
request kills every process; `always` makes every process do what the first does. FOLDER gets a line per start, request and answer.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

VOCABULARY = 300


def main() -> None:
    plan, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    incoming, outgoing = os.fdopen(int(sys.argv[3]), "rb"), os.fdopen(int(sys.argv[4]), "wb")

    def send(frame: Any) -> None:
        body = json.dumps(frame).encode()
        outgoing.write(struct.pack(">I", len(body)) + body)
        outgoing.flush()

    def note(kind: str, value: Any) -> None:
        with (folder / f"{kind}.jsonl").open("a") as file:
            file.write(json.dumps(value) + "\n")

    def receive() -> Any:
        header = incoming.read(4)
        return json.loads(incoming.read(struct.unpack(">I", header)[0])) if header else sys.exit(0)

    note("starts", os.getpid())
    print("noise on stdout", flush=True)
    print("ValueError: noise on stderr", file=sys.stderr, flush=True)
    is_first = len((folder / "starts.jsonl").read_text().splitlines()) == 1
    note("settings", receive())
    if fault := plan.get("start"):
        start_badly(fault, send, is_first)
    send({"kind": "ready", "version": 1, "vocabulary": VOCABULARY})
    send({"kind": "beat"})
    answered = 0
    while (frame := receive())["kind"] != "stop":
        note("asked", frame["tokens"])
        if plan.get("poison") in frame["tokens"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if answered == plan.get("at") and (is_first or plan.get("always")):
            misbehave(plan["first"], frame, send, outgoing)
        note("answered", frame["tokens"])
        send(answer(frame))
        answered += 1
    note("stopped", os.getpid())


def start_badly(fault: str, send: Any, is_first: bool) -> None:
    if fault == "failed":
        send({"kind": "failed", "error": "ValueError: no such model"})
        sys.exit(1)
    if fault == "version":
        send({"kind": "ready", "version": 99, "vocabulary": VOCABULARY})
    if fault == "die" or (fault == "die once" and is_first):
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(600)


def misbehave(fault: str, frame: Any, send: Any, outgoing: Any) -> None:
    match fault:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise RuntimeError("the engine is dead")
        case "hang":
            time.sleep(600)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "garbage":
            outgoing.write(b"\0\0\0\x05hello")
        case "no object":
            send([1, 2])
        case "long":
            outgoing.write(b"\xff\xff\xff\xff")
        case "twice":
            send(answer(frame))
        case "stranger":
            send({**answer(frame), "id": 10**6})
        case "senseless":
            send({"kind": "answer", "id": frame["id"], "computed": 1})
        case "truncated":
            outgoing.write(b"\0\0\0\x50{")
            outgoing.flush()
            os._exit(0)
    outgoing.flush()


def answer(frame: Any) -> Any:
    """Answer what depends on the request alone."""
    told = {"kind": "answer", "id": frame["id"], "computed": len(frame["tokens"])}
    number = sum(frame["tokens"])
    if frame["tokens"][0] == 7:
        return {**told, "error": "vLLM refuses the request"}
    if frame["tokens"][0] == 8:
        number = float("nan")
    if frame["call"] == "generate":
        drawn = [*frame["tokens"][:2], *frame["ends"][:1]]
        return {**told, "tokens": drawn, "logprob": -number, "finish": "stop"}
    if frame["call"] == "choices":
        return {**told, "logprobs": [-float(token) - 1 for token in frame["choices"]]}
    return {**told, "logprob": -number - frame["last"]}


if __name__ == "__main__":
    main()
