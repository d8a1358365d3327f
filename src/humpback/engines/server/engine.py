"""The `server` engine: a model behind an OpenAI-compatible endpoint. In: prompts. Out: completions and log-probabilities.

The server is there (`url`), or started for the model and stopped after it (`command`). What it can do is probed before the
first work and claimed as far as it was seen to work. Prompts go as token ids where they are taken, so that the server's model
reads exactly the tokens that ours were trained on; a chat endpoint without a known tokenizer is sent the user's message.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from humpback.engines.base import (
    Capability,
    ChoiceLogprobs,
    Completion,
    EngineTotals,
    Loglikelihood,
    ModelRef,
    Sampling,
)
from humpback.engines.server import requests, wire
from humpback.engines.server.access import read_key
from humpback.engines.server.choosing import choose_logprobs
from humpback.engines.server.client import Client
from humpback.engines.server.findings import Findings
from humpback.engines.server.identity import check_served
from humpback.engines.server.probe import probe
from humpback.engines.server.process import ServerProcess
from humpback.engines.server.retries import BadAnswerError, GaveUpError, ServerDiedError
from humpback.engines.server.tokens import ESTIMATE, open_tokenizer
from humpback.errors import InputError, StageError
from humpback.prompts import Choice, Continuation, Prompt
from humpback.recipe import ServerSettings

__all__ = ["ServerEngine"]

T = TypeVar("T")
A = TypeVar("A", Completion, ChoiceLogprobs, Loglikelihood)

RESTARTS = 3
"""A server that dies this often without one answer between will not do better."""
DRAWN_COST = 8
"""A drawn token takes about as long as so many read ones."""
SAMPLE = "Größe 123: The quick brown fox, 日本.\n\n"
"""A text that shows whether two tokenizers are one."""


class ServerEngine:
    """One served model."""

    def __init__(self, model: ModelRef, settings: ServerSettings) -> None:
        self.model = model
        self.settings = settings
        self.totals = EngineTotals()
        self.tokenizer = open_tokenizer(settings.tokenizer, model.path)
        self.on_answer: Callable[[int, Completion | ChoiceLogprobs | Loglikelihood], None] | None = None
        """Hears of every answer of a call as it comes: the answer cache keeps it at once."""
        self._knows_tokenizer = settings.tokenizer != ESTIMATE
        self._found: Findings | None = None
        self._client: Client | None = None
        self._process: ServerProcess | None = None

    @property
    def findings(self) -> Findings:
        """What the server was found able to do; asks it at the first call."""
        if self._found is None:
            self._open()
        assert self._found is not None
        return self._found

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.findings.capabilities(knows_tokenizer=self._knows_tokenizer)

    def lacks(self, capability: Capability) -> str:
        """Return why a capability is not claimed, and what would give it."""
        return f"{self.findings.url}: {self.findings.lacks(capability, knows_tokenizer=self._knows_tokenizer)}"

    def close(self) -> None:
        """Let go of the server, and stop it when it is ours. The engine opens again by itself when asked."""
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.stop()
        self._client = self._process = None

    # -- calls -----------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Draw one completion per prompt, by the server's own generator with the prompt's seed."""
        found = self.findings

        async def draw(prompt: Prompt) -> Completion:
            seed = {"seed": requests.seed_of(prompt)} if sampling.temperature else {}
            if self._by_chat:
                if prompt.prefill:
                    raise GaveUpError("a chat endpoint cannot be given the start of an answer")
                path, body = "/v1/chat/completions", requests.chat_body(found, prompt.user, sampling, **seed)
                read = functools.partial(
                    wire.read_completion, found=dataclasses.replace(found, drawn_tokens=False), stop=sampling.stop
                )
            else:
                ends = {"stop_token_ids": list(self._ends)} if found.extensions and self._ends else {}
                text = prompt.token_ids if found.token_prompts else prompt.text
                path, body = "/v1/completions", requests.completion_body(found, text, sampling, **seed, **ends)
                read = functools.partial(wire.read_completion, found=found, stop=sampling.stop)
            work = len(prompt.token_ids) + DRAWN_COST * sampling.max_tokens
            answer = await self._ask(path, body, read, work=work)
            if not answer.tokens and answer.text:  # the server does not count
                answer = dataclasses.replace(answer, tokens=len(self.tokenizer.encode(answer.text)) + 1)
            self._count(len(prompt.token_ids), answer.tokens)
            return answer

        errors = [self._find_error(p.token_ids, room=sampling.max_tokens) for p in prompts]
        return self._answer(
            errors,
            lambda row: draw(prompts[row]),
            lambda error: Completion(text="", tokens=0, finish="error", error=error),
        )

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        """Return log P of each choice as the token that follows each prompt."""
        if layers:
            raise InputError(f"hidden states: {self.lacks('hidden_states')}")
        if self.findings.choices is None:
            raise InputError(f"choice_logprobs: {self.lacks('choice_logprobs')}")
        ids = tuple(dict.fromkeys(choice.token_id for choice in choices))  # given twice, it weighs once

        async def choose(prompt: Prompt) -> ChoiceLogprobs:
            if not ids:
                return ChoiceLogprobs(logprobs=(), mass=0.0)
            told = await choose_logprobs(self._ask, self.findings, self.tokenizer, prompt.token_ids, ids)
            self._count(len(prompt.token_ids), 0)
            mass = min(math.fsum(map(math.exp, told.values())), 1.0)
            return ChoiceLogprobs(logprobs=tuple(told[choice.token_id] for choice in choices), mass=mass)

        # a choice that is judged as the prompt's last token has one drawn after it
        room = 2 if self.findings.choices == "each" else 1
        errors = [self._find_error(p.token_ids, room=room, answer=ids) for p in prompts]
        return self._answer(
            errors,
            lambda row: choose(prompts[row]),
            lambda error: ChoiceLogprobs(logprobs=(), mass=0.0, error=error),
        )

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        """Return log p(continuations[i] given prompts[i])."""
        found = self.findings
        if found.likelihood is None:
            raise InputError(f"loglikelihood: {self.lacks('loglikelihood')}")
        tell = wire.read_prompt_logprobs if found.likelihood == "prompt_logprobs" else wire.read_echo
        asked = [(p.token_ids, c.token_ids) for p, c in zip(prompts, continuations, strict=True)]

        async def judge(prompt: tuple[int, ...], target: tuple[int, ...]) -> Loglikelihood:
            if not target:
                return Loglikelihood(logprob=0.0, tokens=0)
            ids = (*prompt, *target)
            read = functools.partial(tell, found=found, ids=ids, start=len(prompt))
            value = await self._ask("/v1/completions", requests.likelihood_body(found, ids), read, work=len(ids))
            self._count(len(ids), 0)
            return Loglikelihood(logprob=value, tokens=len(target))

        # one token is drawn, and needs its place
        errors = [self._find_error(p, room=len(t) + 1, answer=t) for p, t in asked]
        return self._answer(
            errors,
            lambda row: judge(*asked[row]),
            lambda error: Loglikelihood(logprob=0.0, tokens=0, error=error),
        )

    # -- rows ------------------------------------------------------------------------------------------------------

    def _answer(
        self,
        errors: Sequence[str | None],
        ask: Callable[[int], Awaitable[A]],
        refuse: Callable[[str], A],
    ) -> list[A]:
        """Ask for all rows without an error, starting the server again when it dies, and answer in the order asked."""
        started = time.monotonic()
        answers = {row: refuse(error) for row, error in enumerate(errors) if error}
        restarts = 0

        def hear(row: int, answer: A | GaveUpError) -> None:
            answers[row] = refuse(str(answer)) if isinstance(answer, GaveUpError) else answer
            if self.on_answer:
                self.on_answer(row, answers[row])

        while len(answers) < len(errors):
            before = len(answers)
            waiting = {row: functools.partial(ask, row) for row in range(len(errors)) if row not in answers}
            client = self._opened_client()
            retries = client.retries
            try:
                client.run(waiting, hear)
            except ServerDiedError:
                restarts = restarts + 1 if len(answers) == before else 1
                self._bury(restarts)
            finally:
                self.totals.retries += client.retries - retries
        self.totals.requests += len(errors)
        self.totals.seconds += time.monotonic() - started
        return [answers[row] for row in range(len(errors))]

    async def _ask(self, path: str, body: Mapping[str, object], read: Callable[[object], T], *, work: float) -> T:
        assert self._client is not None
        return await self._client.ask(path, body, read, work=work)

    def _find_error(self, prompt: Sequence[int], *, room: int, answer: Sequence[int] = ()) -> str | None:
        if not prompt:
            return "the prompt is empty"
        if not self._knows_tokenizer:
            return None
        found = self.findings
        if found.context is not None and len(prompt) + room > found.context:
            return f"the prompt's {len(prompt)} tokens and {room} for the answer exceed the server's {found.context}"
        if found.vocabulary is not None and (largest := max(*prompt, *answer, 0)) >= found.vocabulary:
            return f"token {largest} is outside the model's vocabulary of {found.vocabulary}"
        return None

    def _count(self, tokens_in: int, tokens_out: int) -> None:
        self.totals.tokens_in += tokens_in
        self.totals.tokens_out += tokens_out

    @property
    def _by_chat(self) -> bool:
        return not self._knows_tokenizer or not self.findings.completions

    @property
    def _ends(self) -> tuple[int, ...]:
        return tuple(self.tokenizer.end_of_turn[-1:])

    # -- the server ------------------------------------------------------------------------------------------------

    def _opened_client(self) -> Client:
        if self._client is None:
            self._open()
        assert self._client is not None
        return self._client

    def _open(self) -> None:
        if self.settings.command is not None:
            read_key(self.settings.api_key_env)  # a missing key is told before a server is started
            self._process = ServerProcess(self.settings.command, self.model.path)
            process = self._process
            client = Client(process.url, self.settings, died=lambda: process.died)
            try:
                process.wait(lambda: client.do(client.is_up()), self.settings.start_s)
            except BaseException:  # an interrupt too: a server that nobody asks would run on; it is raised again
                client.close()
                process.stop()
                self._process = None
                raise
        else:
            assert self.settings.url is not None
            client = Client(self.settings.url, self.settings)
        self._client = client
        try:
            self._found = client.do(probe(client))
            check_served(self._found, self.model)
            self._check_tokenizer(client, self._found)
        except BaseException:  # likewise
            self.close()
            raise

    def _bury(self, restarts: int) -> None:
        """Put away a server that has died, so that the next call starts another."""
        process = self._process
        assert process is not None
        told = process.tail()
        self.close()
        if restarts > RESTARTS:
            raise StageError(f"runtime.server.command died {restarts} times without an answer; it said last:\n{told}")

    def _check_tokenizer(self, client: Client, found: Findings) -> None:
        """Refuse a tokenizer that is not the served model's: its token ids would be other words there."""
        if not self._knows_tokenizer or not found.token_prompts:
            return
        ours = self.tokenizer.encode(SAMPLE)
        body = requests.tokenize_body(found, SAMPLE)
        reply = client.do(client.look("POST", "/tokenize", body))
        try:
            theirs = wire.read_tokens(reply.json()) if reply.status < 300 else None
        except BadAnswerError:
            theirs = None
        if theirs is not None and theirs != ours:
            place = self.settings.tokenizer or Path(self.model.path)
            raise InputError(
                f"{found.url}: {found.model} has another tokenizer than {place}: it cuts a text into {theirs[:8]}..., not "
                f"{ours[:8]}...; set runtime.server.tokenizer to the served model's"
            )
