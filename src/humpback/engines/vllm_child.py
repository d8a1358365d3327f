"""The process that holds vLLM. In: frames on one pipe. Out: frames on another. Started by `vllm_process.py`, never imported by it.

It needs vLLM and the standard library, so it also runs in an environment that has no humpback. vLLM runs inside this very
process, not in one of its own behind it: whoever kills this process has killed the engine, and nothing keeps the memory.
A request that vLLM refuses is an answer with an error; its neighbours go on. Anything else ends the process: the parent restarts it.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

__all__: list[str] = []

VERSION = 1
"""Of the frames; `vllm_process.py` has the same number and refuses another."""
HEADER = struct.Struct(">I")
"""A frame is the length of its body in bytes, then the body: one JSON object in UTF-8."""
BEAT_S = 1.0
"""An engine that works shows it at least this often, between two of its steps."""

CPU_STEP_TOKENS = 2048
"""Prompt tokens of one step on a CPU."""

Frame = dict[str, Any]


def main() -> None:
    """Load the model named by the first frame, then answer what is asked until told to stop."""
    # this file's folder must not serve imports: `vllm.py` stands in it
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or os.curdir) != here]
    wire = Wire(int(sys.argv[1]), int(sys.argv[2]))
    settings = wire.inbox.get()
    try:
        engine = open_engine(settings["engine"])
    except Exception as error:  # whatever vLLM cannot do with these settings, the parent must tell it to the user
        wire.send({"kind": "failed", "error": f"{type(error).__name__}: {tell(error)}"})
        raise
    wire.send({"kind": "ready", "version": VERSION, **describe(engine)})
    serve(wire, engine)


class Wire:
    """The two pipes. A thread reads, so that the parent's end is noticed while vLLM works."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        os.set_inheritable(read_fd, False)  # processes of vLLM's own must not hold the pipes open
        os.set_inheritable(write_fd, False)
        self._incoming = os.fdopen(read_fd, "rb")
        self._outgoing = os.fdopen(write_fd, "wb")
        self.inbox: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.sent_at = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            body = json.dumps(frame).encode()
            self._outgoing.write(HEADER.pack(len(body)) + body)
        self._outgoing.flush()
        self.sent_at = time.monotonic()

    def _read(self) -> None:
        while frame := read_frame(self._incoming):
            self.inbox.put(frame)
        # the parent is gone: so is everyone who could use this process or the ones vLLM has started
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def read_frame(stream: BinaryIO) -> Frame | None:
    """Return the next frame, None at the end of the stream."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = stream.read(length)
    if len(body) < length:
        return None
    frame: Frame = json.loads(body)
    return frame


def open_engine(settings: Frame) -> Any:
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform

    settings = dict(settings)
    on_cpu = current_platform.is_cpu()
    wanted = settings.pop("device")
    if wanted != "auto" and (wanted == "cpu") != on_cpu:
        raise ValueError(
            f"runtime.device={wanted}, and this vLLM is built for {current_platform.device_type}; use runtime.device=auto"
        )
    if settings["dtype"] == "auto":  # what the reference engine takes
        settings["dtype"] = "float32" if on_cpu else "bfloat16"
    if on_cpu:
        del settings["gpu_memory_utilization"]
        # a prompt cut in two sets a seeded draw back by an offset, which a CPU's generator does not have: the engine dies
        settings |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(settings["max_model_len"], CPU_STEP_TOKENS),
        }
    # the parent says in full how to draw, and a published model asks for a repetition penalty or top_k
    return LLMEngine.from_engine_args(EngineArgs(generation_config="vllm", disable_log_stats=True, **settings))


def describe(engine: Any) -> Frame:
    import vllm

    return {"vllm": vllm.__version__, "vocabulary": engine.model_config.get_vocab_size()}


def serve(wire: Wire, engine: Any) -> None:
    asked: dict[str, Frame] = {}
    while True:
        while not asked or not wire.inbox.empty():
            frame = wire.inbox.get()
            if frame["kind"] == "stop":
                return
            if error := add(engine, frame):
                wire.send({"kind": "answer", "id": frame["id"], "error": error})
            else:
                asked[str(frame["id"])] = frame
        done = [output for output in engine.step() if output.finished]
        wire.send(*(read_answer(asked.pop(output.request_id), output) for output in done))
        if not done and time.monotonic() - wire.sent_at > BEAT_S:
            wire.send({"kind": "beat"})


def add(engine: Any, frame: Frame) -> str | None:
    """Hand a request to vLLM, or say why it refuses it."""
    from vllm.lora.request import LoRARequest

    adapter = frame["adapter"]
    lora = LoRARequest(adapter["name"], adapter["id"], adapter["path"]) if adapter else None
    try:
        params = CALLS[frame["call"]].params(frame)
        engine.add_request(str(frame["id"]), {"prompt_token_ids": frame["tokens"]}, params, lora_request=lora)
    except Exception as error:  # whatever it is, it is about this one request, which the engine has not taken in yet
        return f"vLLM refuses the request: {tell(error)}"
    return None


def read_answer(frame: Frame, output: Any) -> Frame:
    (drawn,) = output.outputs
    computed = len(frame["tokens"]) - (output.num_cached_tokens or 0)
    answer: Frame = {"kind": "answer", "id": frame["id"], "computed": computed}
    if drawn.finish_reason not in ("stop", "length"):
        return {**answer, "error": f"vLLM ended the request: {drawn.finish_reason}"}
    return {**answer, **CALLS[frame["call"]].read(frame, output, drawn)}


def tell(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split()) or "no reason given"


# -- the calls ---------------------------------------------------------------------------------------------------------


class Call:
    """How a request becomes vLLM's parameters, and how its output becomes an answer."""

    def __init__(self, params: Callable[[Frame], Any], read: Callable[[Frame, Any, Any], Frame]) -> None:
        self.params, self.read = params, read


def generate_params(frame: Frame) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        temperature=frame["temperature"],
        top_p=frame["top_p"],
        max_tokens=frame["max_tokens"],
        seed=frame["seed"],
        stop=frame["stop"],
        stop_token_ids=frame["ends"],
        detokenize=bool(frame["stop"]),  # only to find stop strings: the parent makes the text, as for every engine
        logprobs=0,  # of the token drawn alone
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def read_completion(frame: Frame, output: Any, drawn: Any) -> Frame:
    ids = list(drawn.token_ids)
    logprob = math.fsum(place[token].logprob for place, token in zip(drawn.logprobs, ids, strict=True))
    return {"tokens": ids, "logprob": logprob, "finish": drawn.finish_reason}


def look_params(ids: list[int], **more: Any) -> Any:
    """Parameters that look at the next token's probabilities; the token drawn is of no interest."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        temperature=0,
        max_tokens=1,
        logprob_token_ids=ids,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **more,
    )


def read_choices(frame: Frame, output: Any, drawn: Any) -> Frame:
    place = drawn.logprobs[0]
    return {"logprobs": [place[token].logprob for token in frame["choices"]]}


def likelihood_params(frame: Frame) -> Any:
    # the last token is looked at as the one that comes next: it need not be fed, and a text may fill the whole context
    more = {"prompt_logprobs": 0} if frame["start"] < len(frame["tokens"]) else {}
    return look_params([frame["last"]], **more)


def read_likelihood(frame: Frame, output: Any, drawn: Any) -> Frame:
    fed = frame["tokens"][frame["start"] :]
    places = (output.prompt_logprobs or [])[frame["start"] :] if fed else []
    values = [place[token].logprob for place, token in zip(places, fed, strict=True)]
    return {"logprob": math.fsum([*values, drawn.logprobs[0][frame["last"]].logprob])}


CALLS = {
    "generate": Call(generate_params, read_completion),
    "choices": Call(lambda frame: look_params(frame["choices"]), read_choices),
    "likelihood": Call(likelihood_params, read_likelihood),
}


if __name__ == "__main__":
    main()
