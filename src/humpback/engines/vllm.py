"""The vLLM engine: prompts in, completions and log-probabilities out, for work near a GPU's limit.

vLLM runs in a process of its own (`vllm_process.py`, `vllm_child.py`), which may be of another Python environment; it is not
imported here. Prompts are checked before they are sent. Texts are made of the tokens here, as for the reference engine.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from humpback.engines.base import (
    Capability,
    ChoiceLogprobs,
    Completion,
    EngineTotals,
    Loglikelihood,
    ModelRef,
    Sampling,
)
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.engines.vllm_launch import plan_launch, read_adapter, read_context, read_ends
from humpback.engines.vllm_process import Processes
from humpback.engines.vllm_wire import Frame
from humpback.errors import InputError
from humpback.prompts import Choice, Continuation, Prompt
from humpback.recipe import NumberFormat, VLLMSettings

__all__ = ["VLLMEngine"]

MAX_IDS = 128
"""Tokens whose log-probabilities vLLM tells for one request."""
NOT_FINITE = "the model's logits are not finite"
SEED_RANGE = 2**63
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0
"""vLLM draws at 0.01 when asked for less, and refuses more than 2."""


class _Part(NamedTuple):
    """What was told of some of the choices after one prompt."""

    logprobs: dict[int, float]
    error: str | None


A = TypeVar("A", Completion, _Part, Loglikelihood)


class VLLMEngine:
    """One model, or one adapter on it. The process starts at the first call and ends with `close`."""

    capabilities: frozenset[Capability] = frozenset({"generate", "choice_logprobs", "loglikelihood"})

    def __init__(
        self,
        model: ModelRef,
        settings: VLLMSettings,
        *,
        max_tokens: int,
        device: str = "auto",
        dtype: NumberFormat = "auto",
        threads: int | None = None,
        processes: Processes | None = None,
        command: tuple[str, ...] | None = None,
    ) -> None:
        """`max_tokens` bounds prompt and answer together where the settings do not. Engines given the same `processes` share
        one process per base model. `command` starts another child than ours, for tests.
        """
        self.model = model
        self.tokenizer = HFTokenizer(Path(model.path))
        self.totals = EngineTotals()
        self.on_answer: Callable[[int, Completion | ChoiceLogprobs | Loglikelihood], None] | None = None
        """Hears of the index of a request in the call and its answer, as it comes: a kill loses only what is in flight."""
        self._room = min(settings.max_model_len or max_tokens, read_context(Path(model.path)) or sys.maxsize)
        self._ends = read_ends(Path(model.path), self.tokenizer)
        self._adapter = None if model.adapter is None else read_adapter(Path(model.adapter), model.content_hash)
        self._lora: Frame | None = None
        launch = plan_launch(
            model, settings, room=self._room, device=device, dtype=dtype, threads=threads, command=command
        )
        self._process = (processes or Processes()).get(launch)

    @property
    def restarts(self) -> int:
        """How often the process was lost and replaced."""
        return self._process.restarts

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Draw one completion per prompt. A row's draw depends on its prompt's seed, not on its batch."""
        if sampling.temperature and not MIN_TEMPERATURE <= sampling.temperature <= MAX_TEMPERATURE:
            raise InputError(
                f"temperature={sampling.temperature:g} is not what vLLM can draw at; use 0 (greedy) or "
                f"{MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
            )

        def refuse(error: str) -> Completion:
            return Completion(text="", tokens=0, finish="error", error=error)

        def ask(row: int) -> Frame:
            prompt = prompts[row]
            return {
                "call": "generate",
                "tokens": prompt.token_ids,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "stop": sampling.stop,
                "ends": sorted(self._ends),
                "seed": prompt.seed % SEED_RANGE if sampling.temperature else None,
            }

        def read(row: int, frame: Frame) -> Completion:
            ids, logprob = _integers(frame["tokens"]), _number(frame["logprob"])
            self.totals.tokens_out += len(ids)
            if not ids or not math.isfinite(logprob):
                return refuse(NOT_FINITE)
            return Completion(
                text=self._text(ids, sampling.stop),
                tokens=len(ids),
                finish="length" if frame["finish"] == "length" else "stop",
                token_ids=ids,
                logprob=logprob,
            )

        self.totals.requests += len(prompts)
        errors = [self._find_error(p.token_ids, room=sampling.max_tokens) for p in prompts]
        return self._answer([refuse(e) if e else None for e in errors], ask, read, refuse, self._tell)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        """Return log P of each choice as the token that follows each prompt."""
        if layers:
            raise InputError(f"layers={list(layers)}: vLLM tells no hidden states; use runtime.engine=hf")
        wanted = [choice.token_id for choice in choices]
        distinct = sorted(set(wanted))
        # all groups but the first find their prompts in vLLM's prefix cache
        groups = [distinct[at : at + MAX_IDS] for at in range(0, len(distinct), MAX_IDS)]

        def refuse(error: str) -> _Part:
            return _Part({}, error)

        def ask(place: int) -> Frame:
            row, group = divmod(place, len(groups))
            return {"call": "choices", "tokens": prompts[row].token_ids, "choices": groups[group]}

        def read(place: int, frame: Frame) -> _Part:
            values = _numbers(frame["logprobs"])
            if not all(map(math.isfinite, values)):
                return refuse(NOT_FINITE)
            return _Part(dict(zip(groups[place % len(groups)], values, strict=True)), None)

        self.totals.requests += len(prompts)
        errors = [self._find_error(p.token_ids, answer=wanted) for p in prompts]
        if not groups:
            return [_join(error, [], wanted) for error in errors]
        found: list[list[_Part]] = [[] for _ in prompts]

        def keep(place: int, part: _Part) -> None:
            parts = found[place // len(groups)]
            parts.append(part)
            if len(parts) == len(groups):
                self._tell(place // len(groups), _join(None, parts, wanted))

        ready = [refuse(error) if error else None for error in errors for _ in groups]
        parts = self._answer(ready, ask, read, refuse, keep)
        per_row = [parts[at : at + len(groups)] for at in range(0, len(parts), len(groups))]
        return [_join(None, parts_of_row, wanted) for parts_of_row in per_row]

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        """Return log p(continuations[i] given prompts[i])."""
        asked = [(p.token_ids, c.token_ids) for p, c in zip(prompts, continuations, strict=True)]

        def refuse(error: str) -> Loglikelihood:
            return Loglikelihood(logprob=0.0, tokens=0, error=error)

        def ask(row: int) -> Frame:
            prompt, target = asked[row]
            # the last token predicts nothing that is asked, so it is not fed
            return {
                "call": "likelihood",
                "tokens": (*prompt, *target[:-1]),
                "start": len(prompt),
                "last": target[-1],
            }

        def read(row: int, frame: Frame) -> Loglikelihood:
            logprob = _number(frame["logprob"])
            if not math.isfinite(logprob):
                return refuse(NOT_FINITE)
            return Loglikelihood(logprob=logprob, tokens=len(asked[row][1]))

        self.totals.requests += len(prompts)
        ready: list[Loglikelihood | None] = []
        for prompt, target in asked:
            error = self._find_error(prompt, answer=target, room=len(target))
            ready.append(refuse(error) if error else None if target else Loglikelihood(logprob=0.0, tokens=0))
        return self._answer(ready, ask, read, refuse, self._tell)

    def close(self) -> None:
        """End the process, which frees its memory, unless another engine uses it. It starts again when asked."""
        self._process.leave(self)

    # -- inner -----------------------------------------------------------------------------------------------------

    def _answer(
        self,
        ready: Sequence[A | None],
        ask: Callable[[int], Frame],
        read: Callable[[int, Frame], A],
        refuse: Callable[[str], A],
        tell: Callable[[int, A], None],
    ) -> list[A]:
        """Ask what is not ready, tell of each answer as it comes, and return all in order.

        Of a row whose numbers are none, something stays in the process's memory and can spoil later rows (seen on the CPU build: no
        weight times no number is no number). So such rows are asked once more in a new process, which is then replaced too.
        """
        started = time.perf_counter()
        answers = dict(enumerate(ready))
        for row, answer in enumerate(ready):
            if answer is not None:
                tell(row, answer)
        asked = [row for row, answer in answers.items() if answer is None]

        def ask_all(rows: list[int], *, is_last: bool) -> list[int]:
            def take(place: int, frame: Frame) -> A:
                answer = read(rows[place], frame)
                self.totals.tokens_in += _integers([frame["computed"]])[0]
                if is_last or answer.error != NOT_FINITE:
                    tell(rows[place], answer)
                return answer

            requests: list[Frame] = [{**ask(row), "adapter": self._lora} for row in rows]
            fresh = self._process.ask(requests, take, refuse)
            answers.update(zip(rows, fresh, strict=True))
            spoilt = [row for row, answer in zip(rows, fresh, strict=True) if answer.error == NOT_FINITE]
            if spoilt:
                self._process.stop()
            return spoilt

        spoilt = ask_all(asked, is_last=False)
        if spoilt and len(spoilt) < len(asked):  # where all are, it is the model
            ask_all(spoilt, is_last=True)
        self.totals.seconds += time.perf_counter() - started
        return [answer for answer in answers.values() if answer is not None]

    def _tell(self, row: int, answer: Completion | ChoiceLogprobs | Loglikelihood) -> None:
        if self.on_answer:
            self.on_answer(row, answer)

    def _find_error(self, prompt: tuple[int, ...], *, room: int = 0, answer: Sequence[int] = ()) -> str | None:
        """Say why a row cannot be asked: vLLM would refuse it, or take its neighbours down."""
        if not prompt:
            return "the prompt is empty"
        if len(prompt) + room > self._room:
            return (
                f"the prompt's {len(prompt)} tokens and {room} for the answer exceed {self._room}, "
                "the least of the model's context and runtime.vllm.max_model_len (or model.max_tokens)"
            )
        vocabulary = self._open()
        if (largest := max(*prompt, *answer, 0)) >= vocabulary:
            return f"token {largest} is outside the model's vocabulary of {vocabulary}"
        return None

    def _open(self) -> int:
        """Return the size of the vocabulary, of a process that has what this engine needs."""
        self._process.join(self)
        if self._adapter is not None:
            self._lora = self._process.use_adapter(self._adapter)
        return self._process.vocabulary

    def _text(self, ids: tuple[int, ...], stops: Sequence[str]) -> str:
        text = self.tokenizer.decode_plain(ids[:-1] if ids[-1] in self._ends else ids)
        cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
        return text[: min(cuts, default=None)]


def _join(error: str | None, parts: Sequence[_Part], wanted: Sequence[int]) -> ChoiceLogprobs:
    error = error or next((part.error for part in parts if part.error), None)
    found = {token: value for part in parts for token, value in part.logprobs.items()}
    if error:
        return ChoiceLogprobs(logprobs=(), mass=0.0, error=error)
    mass = min(math.fsum(map(math.exp, found.values())), 1.0)  # a choice given twice weighs once
    return ChoiceLogprobs(logprobs=tuple(found[token] for token in wanted), mass=mass)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{str(value)[:60]!r} is no number")
    return float(value)


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:60]!r} is no list of numbers")
    return [_number(item) for item in value]


def _integers(value: object) -> tuple[int, ...]:
    numbers = _numbers(value)
    if any(number != int(number) for number in numbers):
        raise ValueError(f"{str(value)[:60]!r} are no whole numbers")
    return tuple(map(int, numbers))
