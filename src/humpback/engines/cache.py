"""The cached engine: what a model has answered is kept as it arrives and never asked again.

Keys are content: call, model, prompt tokens, and what else decides the answer (sampling and seed, choices and layers,
continuation). They are fixed by what is asked and not by how it is computed: batch size, device, dtype, engine kind and the
stage that asks are no part of them. Two devices or two engines on the same weights differ by rounding alone, the contract suite
bounds it, and a run that is moved to another machine must not pay for its answers again; for the same reason `runtime:` bears no
identity of a stage. The price: to compare two engines or dtypes, give each a cache of its own, or the second is answered by the
first. Weights that were quantised or merged otherwise are another model, with another hash.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from humpback.engines.answers import AnswerCache, Source
from humpback.engines.base import (
    AsksTogether,
    Capability,
    ChoiceLogprobs,
    ChoiceQuestion,
    Completion,
    Engine,
    EngineTotals,
    Heard,
    Loglikelihood,
    ModelRef,
    Question,
    Sampling,
    TellsAnswers,
    TellsAttention,
    TellsLacks,
)
from humpback.engines.batching import kept_cost, plan_batches
from humpback.engines.packing import CHOICES, COMPLETIONS, LIKELIHOODS, Packing, pack_ids
from humpback.engines.together import ask_apart, regroup
from humpback.prompts import Choice, Continuation, Prompt, Tokenizer

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["CachedEngine"]

Answer = TypeVar("Answer", Completion, ChoiceLogprobs, Loglikelihood)


class CachedEngine:
    """An engine behind the answer cache. Unanswered requests go out in batches of like length, each committed as it comes."""

    def __init__(
        self,
        inner: Engine,
        cache: AnswerCache,
        *,
        batch_tokens: int,
        batch_rows: int = 64,
        on_answers: Callable[[Heard], None] | None = None,
    ) -> None:
        """`batch_tokens` and `batch_rows` bound what is asked at once, and so what a kill loses."""
        self.inner = inner
        self.cache = cache
        self.batch_tokens = batch_tokens
        self.batch_rows = batch_rows
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

    def lacks(self, capability: Capability) -> str:
        """Return why the engine does not claim a capability; "" from one that does not tell."""
        return self.inner.lacks(capability) if isinstance(self.inner, TellsLacks) else ""

    @property
    def attention(self) -> str:
        """How the engine attends; "" from one that does not tell, or has not loaded its model."""
        return self.inner.attention if isinstance(self.inner, TellsAttention) else ""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Return the kept draws, and draw the others."""
        head = self._begin_key("generate", json.dumps(dataclasses.asdict(sampling), sort_keys=True))
        draws = sampling.temperature != 0  # else the seed decides nothing
        keys = [_key(head, p.token_ids, seed=str(p.seed) if draws else "") for p in prompts]
        lengths = [kept_cost(len(p.token_ids) + sampling.max_tokens) for p in prompts]
        likelihoods = self._begin_key("loglikelihood", "")
        end = tuple(self.tokenizer.end_of_turn[-1:])

        def keep_own(row: int, drawn: Completion) -> None:
            """Keep what a completion that ended by itself says of its own likelihood: scoring need not compute it again."""
            if drawn.logprob is not None and drawn.finish == "stop" and drawn.token_ids[-1:] == end:
                key = _key(likelihoods, prompts[row].token_ids, drawn.token_ids)
                answer = Loglikelihood(logprob=drawn.logprob, tokens=len(drawn.token_ids))
                self.cache.put(
                    Source(self.inner.model.content_hash, "loglikelihood"), [(key, LIKELIHOODS.pack(answer))]
                )

        return self._answer(
            [COMPLETIONS] * len(prompts),
            keys,
            lengths,
            lambda rows: self.inner.generate([prompts[i] for i in rows], sampling),
            keep_own,
        )

    def ask(self, groups: Sequence[Sequence[Question]]) -> list[list[ChoiceLogprobs | Loglikelihood]]:
        """Return the kept answers to questions of both kinds, and ask for the others, a group's together."""
        inner = self.inner
        if not isinstance(inner, AsksTogether):
            return ask_apart(self, groups)
        questions = list(chain.from_iterable(groups))
        places = iter(range(len(questions)))
        answers: list[Any] = self._answer(
            [CHOICES if isinstance(question, ChoiceQuestion) else LIKELIHOODS for question in questions],
            [self._find_key(question) for question in questions],
            [_count_tokens(question) for question in questions],
            lambda rows: inner.ask([[questions[i] for i in rows]])[0],
            units=[list(islice(places, len(group))) for group in groups],
        )
        return regroup(iter(answers), groups)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        """Return the kept answers, and ask for the others."""
        head = self._begin_choices(choices, layers)
        return self._answer(
            [CHOICES] * len(prompts),
            [_key(head, p.token_ids) for p in prompts],
            [len(p.token_ids) for p in prompts],
            lambda rows: self.inner.choice_logprobs([prompts[i] for i in rows], choices, layers),
        )

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        """Return the kept answers, and ask for the others."""
        head = self._begin_key("loglikelihood", "")
        asked = list(zip(prompts, continuations, strict=True))
        return self._answer(
            [LIKELIHOODS] * len(asked),
            [_key(head, p.token_ids, c.token_ids) for p, c in asked],
            [len(p.token_ids) + len(c.token_ids) for p, c in asked],
            lambda rows: self.inner.loglikelihood([prompts[i] for i in rows], [continuations[i] for i in rows]),
        )

    def close(self) -> None:
        """Free the model's memory and let go of the file. Both open again by themselves."""
        self.inner.close()
        self.cache.close()

    def _find_key(self, question: Question) -> bytes:
        prompt = question.prompt.token_ids
        if isinstance(question, ChoiceQuestion):
            return _key(self._begin_choices(question.choices, question.layers), prompt)
        return _key(self._begin_key("loglikelihood", ""), prompt, question.continuation.token_ids)

    def _begin_choices(self, choices: Sequence[Choice], layers: Sequence[int]) -> _Hash:
        menu = json.dumps([[choice.token_id for choice in choices], list(layers)])
        return self._begin_key("choice_logprobs", menu)

    def _begin_key(self, call: Capability, settings: str) -> _Hash:
        """Begin the keys of one call with what all of its rows share."""
        return hashlib.sha256(json.dumps([call, self.inner.model.content_hash, settings]).encode())

    def _answer(
        self,
        packings: Sequence[Packing[Answer]],
        keys: Sequence[bytes],
        lengths: Sequence[int],
        ask: Callable[[list[int]], list[Answer]],
        also: Callable[[int, Answer], None] | None = None,
        units: Sequence[Sequence[int]] = (),
    ) -> list[Answer]:
        """Return all answers; `also` hears of each fresh one's row and answer, to keep what else it tells.

        `units` are rows that are asked in one batch, for they begin alike; by default each row is its own.
        """
        known = dict(zip(keys, packings, strict=True))
        answers = {key: known[key].unpack(data) for key, data in self.cache.get(list(known)).items()}
        first_row: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in answers:
                first_row.setdefault(key, row)  # the same question twice in one call is asked once
        missing = list(first_row.values())
        if hits := len(keys) - len(missing):
            self._count(EngineTotals(requests=hits, cache_hits=hits), work=hits)
        whole = sum(lengths[row] for row in missing)
        asked = set(missing)
        open_units = [
            left for unit in units or ([row] for row in missing) if (left := sorted(asked.intersection(unit)))
        ]
        pieces = [unit[at : at + self.batch_rows] for unit in open_units for at in range(0, len(unit), self.batch_rows)]
        # of rows that begin alike the longest is nearly all that is computed
        longest = [max(lengths[row] for row in piece) for piece in pieces]
        for batch in plan_batches(longest, self.batch_tokens, self.batch_rows, counts=[len(piece) for piece in pieces]):
            rows = [row for index in batch for row in pieces[index]]
            part = len(missing) * sum(lengths[row] for row in rows) / max(whole, 1)
            own = [keys[row] for row in rows]
            kinds = [packings[row] for row in rows]
            fresh = self._ask(kinds, own, functools.partial(ask, rows), work=part, also=_of_rows(also, rows))
            answers.update((keys[row], answer) for row, answer in zip(rows, fresh, strict=True))
        return [answers[key] for key in keys]

    def _ask(
        self,
        packings: Sequence[Packing[Answer]],
        keys: list[bytes],
        ask: Callable[[], list[Answer]],
        *,
        work: float,
        also: Callable[[int, Answer], None],
    ) -> list[Answer]:
        """Ask the engine and keep what it answers: each answer as it comes where the engine tells it, else all at the end."""
        kept: dict[int, bytes] = {}

        def store(answers: Iterable[tuple[int, Any]]) -> None:
            # an error is no answer: it is not stored, so that a resumed run asks again
            fine = [(index, answer) for index, answer in answers if not answer.error]
            packed = {index: packings[index].pack(answer) for index, answer in fine}
            for call in dict.fromkeys(packings[index].call for index in packed):
                items = [(keys[index], data) for index, data in packed.items() if packings[index].call == call]
                self.cache.put(Source(self.inner.model.content_hash, call), items)
            kept.update(packed)
            for index, answer in fine:
                also(index, answer)

        def as_kept(answers: list[Answer]) -> list[Answer]:
            # hidden states are rounded where they are kept: a run that was killed must go on with what one that was not has
            return [packings[i].unpack(kept[i]) if i in kept else answer for i, answer in enumerate(answers)]

        if isinstance(self.inner, TellsAnswers):
            self.inner.on_answer = lambda index, answer: store([(index, answer)])
            try:
                return as_kept(self._time(ask, len(keys), work=work))
            finally:
                self.inner.on_answer = None  # the next call may be another's, about other rows
        fresh = self._time(ask, len(keys), work=work)
        store(enumerate(fresh))
        return as_kept(fresh)

    def _time(self, ask: Callable[[], list[Answer]], count: int, *, work: float) -> list[Answer]:
        inner, started = dataclasses.replace(self.inner.totals), time.monotonic()
        fresh = ask()
        used = self.inner.totals.since(inner)
        errors = sum(answer.error is not None for answer in fresh)
        seconds = time.monotonic() - started
        self._count(dataclasses.replace(used, requests=count, cache_hits=0, errors=errors, seconds=seconds), work=work)
        return fresh

    def _count(self, used: EngineTotals, *, work: float) -> None:
        self.totals.add(used)
        if self.on_answers:
            self.on_answers(Heard(totals=used, work=work))


def _count_tokens(question: Question) -> int:
    target = () if isinstance(question, ChoiceQuestion) else question.continuation.token_ids
    return len(question.prompt.token_ids) + len(target)


def _of_rows(also: Callable[[int, Answer], None] | None, rows: Sequence[int]) -> Callable[[int, Answer], None]:
    """Return `also` for places among `rows`."""
    return lambda index, answer: also(rows[index], answer) if also else None


def _key(head: _Hash, prompt: Sequence[int], continuation: Sequence[int] = (), *, seed: str = "") -> bytes:
    """Finish a key with a row's own part; lengths come first, so that no two questions are the same bytes."""
    state = head.copy()
    state.update(f"{len(prompt)} {len(continuation)} {seed}\0".encode())
    state.update(pack_ids(prompt))
    state.update(pack_ids(continuation))
    return state.digest()
