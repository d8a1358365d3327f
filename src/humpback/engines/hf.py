"""The reference engine: transformers, in process, on any machine. In: prompts. Out: completions, log-probabilities, hidden states.

Rows run as packs (`packs.py`): what they share at their start is computed once, and nothing is padding. What all rows of a call
share (the rubric, the shell of a prompt) is kept for the calls after it. A model that cannot be run so is run on padded rows.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from humpback.engines.base import (
    Capability,
    ChoiceLogprobs,
    ChoiceQuestion,
    Completion,
    EngineTotals,
    Loglikelihood,
    LoglikelihoodQuestion,
    ModelRef,
    Question,
    Sampling,
)
from humpback.engines.batching import kept_cost, plan_batches
from humpback.engines.drawing import Draw
from humpback.engines.hf_answering import A, Plan, answer_all
from humpback.engines.hf_format import choose_format, find_device
from humpback.engines.hf_generate import Grower, generate_padded
from humpback.engines.hf_limits import Allowance
from humpback.engines.hf_model import Network, Reading
from humpback.engines.hf_prefixes import Prefixes
from humpback.engines.hf_reading import feed, list_layers, read_answers, refuse
from humpback.engines.hf_tokenizer import HFTokenizer, first_line
from humpback.engines.packs import Row, build_pack, plan_packs
from humpback.engines.together import regroup
from humpback.errors import InputError, StageError
from humpback.memory import lacks_memory
from humpback.prompts import Choice, Continuation, Prompt
from humpback.recipe import NumberFormat

__all__ = ["HFEngine"]


class HFEngine:
    """One causal language model, loaded at the first call."""

    capabilities: frozenset[Capability] = frozenset({"generate", "choice_logprobs", "loglikelihood", "hidden_states"})

    def __init__(
        self,
        model: ModelRef,
        *,
        device: str = "auto",
        dtype: NumberFormat = "auto",
        batch_tokens: int | None = None,
        threads: int | None = None,
    ) -> None:
        """`device` is `auto` (CUDA where there is one), `cpu` or `cuda[:N]`; `dtype` is `auto` for what is fastest there;
        `batch_tokens` bounds one forward pass, and None is what suits the device.
        """
        self.model = model
        self.tokenizer = HFTokenizer(Path(model.path))
        self.totals = EngineTotals()
        self.attention = ""
        """How the model is run, told once it is loaded."""
        self._device = find_device(device)
        self._dtype: NumberFormat = dtype
        self._allowed = Allowance(self._device, batch_tokens)
        self._threads = threads
        self._loaded: Network | None = None
        self._prefixes = Prefixes()
        self.on_answer: Callable[[int, Completion | ChoiceLogprobs | Loglikelihood], None] | None = None
        """Hears of each answer as it comes: its place in the call, and itself."""

    @property
    def call_tokens(self) -> int:
        """Tokens that a call had best bring."""
        return self._allowed.call_tokens

    @property
    def call_rows(self) -> int:
        """Rows that a call had best bring."""
        return self._allowed.limits.call_rows

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Draw one completion per prompt. A row's draw depends on its prompt's seed, not on its batch."""
        asked = [p.token_ids for p in prompts]

        def fail(error: str) -> Completion:
            return Completion(text="", tokens=0, finish="error", error=error)

        def plan(rows: list[int]) -> list[list[int]]:
            if self._network.packs:
                return [rows] if rows else []  # the rows of a call take turns in the slots
            lengths = [kept_cost(len(asked[i]) + sampling.max_tokens) for i in rows]
            return [[rows[i] for i in batch] for batch in plan_batches(lengths, self._allowed.batch_tokens)]

        def compute(rows: list[int]) -> list[Completion]:
            return self._generate(
                [prompts[i] for i in rows], sampling, prefix, lambda i, answer: self._tell(rows[i], answer)
            )

        errors = [self._find_error(row, room=sampling.max_tokens) for row in asked]
        prefix = self._share([row for row, error in zip(asked, errors, strict=True) if not error])
        refused = [fail(e) if e else None for e in errors]
        return self._answer(refused, plan, compute, lambda _, error: fail(error), tells=not self._network.packs)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        """Return log P of each choice as the token that follows each prompt, and the hidden states there."""
        menu, read = tuple(choices), tuple(layers)
        return self._ask([ChoiceQuestion(prompt=prompt, choices=menu, layers=read) for prompt in prompts])

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        """Return log p(continuations[i] given prompts[i])."""
        asked = zip(prompts, continuations, strict=True)
        return self._ask([LoglikelihoodQuestion(prompt=p, continuation=c) for p, c in asked])

    def ask(self, groups: Sequence[Sequence[Question]]) -> list[list[ChoiceLogprobs | Loglikelihood]]:
        """Return the answers to questions of both kinds, from as few passes as hold what they do not share."""
        return regroup(iter(self._ask(list(chain.from_iterable(groups)))), groups)

    def _ask(self, questions: Sequence[Question]) -> list[Any]:
        layers = list_layers(questions)
        if wrong := [layer for layer in layers if not 0 <= layer <= self._network.layers]:
            raise InputError(f"layers={wrong} are outside 0 to {self._network.layers}, the layers of {self.model.path}")
        fed = [feed(question) for question in questions]

        def compute(rows: list[int]) -> list[ChoiceLogprobs | Loglikelihood]:
            reading, places = self._read([fed[i][0] for i in rows], [fed[i][1] for i in rows], prefix, layers)
            asked = [questions[i] for i in rows]
            return read_answers(asked, reading, places, layers, at_once=self._allowed.limits.positions)

        ready = [self._answer_at_once(question) for question in questions]
        prefix = self._share([q.prompt.token_ids for q, known in zip(questions, ready, strict=True) if known is None])
        return self._answer(ready, self._plan(fed, prefix), compute, lambda row, error: refuse(questions[row], error))

    def _answer_at_once(self, question: Question) -> ChoiceLogprobs | Loglikelihood | None:
        """Return the answer to what cannot be computed, or need not be."""
        prompt = question.prompt.token_ids
        if isinstance(question, ChoiceQuestion):
            error = self._find_error(prompt, answer=[choice.token_id for choice in question.choices], room=0)
            return refuse(question, error) if error else None
        target = question.continuation.token_ids
        if error := self._find_error(prompt, answer=target, room=len(target)):
            return refuse(question, error)
        return None if target else Loglikelihood(logprob=0.0, tokens=0)

    def close(self) -> None:
        """Free the model's memory, unless another engine uses it. The engine opens again by itself when asked."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = None
        self._prefixes.clear()
        gc.collect()
        self._allowed.release()

    # -- the model -------------------------------------------------------------------------------------------------

    @property
    def _network(self) -> Network:
        if self._loaded is None:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            chosen = choose_format(self._dtype, self._device)
            self._loaded = self._load(chosen.format)
            self.attention = self._loaded.base.attention
        return self._loaded

    def _load(self, number_format: NumberFormat) -> Network:
        try:
            return Network(self.model, self._device, getattr(torch, number_format))
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            # halving batches helps a pass, not the weights
            smaller = "set runtime.dtype=bfloat16, which takes half, or take" if number_format == "float32" else "take"
            raise StageError(
                f"the model in {self.model.path} does not fit in the memory of {self._device} in {number_format} "
                f"({type(error).__name__}: {first_line(error)}); end what else holds that memory, {smaller} "
                "another runtime.device or a smaller model.base; the same command goes on"
            ) from error

    def _tell(self, place: int, answer: Completion | ChoiceLogprobs | Loglikelihood) -> None:
        if self.on_answer and not answer.error:
            self.on_answer(place, answer)

    def _share(self, rows: Sequence[Row]) -> Row:
        return self._prefixes.share(rows) if self._network.packs else ()

    def _find_error(self, prompt: Row, *, room: int, answer: Sequence[int] = ()) -> str | None:
        network = self._network
        if not prompt:
            return "the prompt is empty"
        if network.context is not None and len(prompt) + room > network.context:
            return f"the prompt's {len(prompt)} tokens and {room} for the answer exceed the model's {network.context}"
        if (largest := max(*prompt, *answer, 0)) >= network.vocabulary:
            return f"token {largest} is outside the model's vocabulary of {network.vocabulary}"
        return None

    def _read(
        self, rows: Sequence[Row], firsts: Sequence[int], prefix: Row, layers: Sequence[int] = ()
    ) -> tuple[Reading, list[list[int]]]:
        """Run rows that all stand after `prefix`; read each from its position in `firsts` on.

        Return the reading and, per row, where in its logits the row's are: rows that share tokens share their logits.
        """
        if not self._network.packs:
            self.totals.tokens_in += sum(map(len, rows))
            wanted = [len(row) - first for row, first in zip(rows, firsts, strict=True)]
            keep = max(wanted)
            reading = self._network.read_padded(rows, keep=keep, layers=layers)
            return reading, [list(range(keep * (i + 1) - own, keep * (i + 1))) for i, own in enumerate(wanted)]
        pack = build_pack(rows, skipped=len(prefix))
        ends = [pack.places(i, len(row) - 1, len(row))[0] for i, row in enumerate(rows)]
        places = [pack.places(i, first, len(rows[i])) for i, first in enumerate(firsts)]
        numbers = {place: number for number, place in enumerate(dict.fromkeys(chain.from_iterable(places)))}
        before = self._prefixes.read(self._network, prefix, self.totals)
        reading = self._network.read_pack(pack, list(numbers), before=before, layers=layers, ends=ends)
        self.totals.tokens_in += len(pack.token_ids)
        return reading, [[numbers[place] for place in own] for own in places]

    def _generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefix: Row, tell: Callable[[int, Completion], None]
    ) -> list[Completion]:
        rows = [p.token_ids for p in prompts]
        network = self._network
        ends = network.base.ends | {self.tokenizer.eos_token_id, self.tokenizer.end_of_turn[-1]}
        draw = Draw(prompts, sampling, self.tokenizer, ends)
        if network.packs:
            room = self._allowed.slots_bytes()
            wanted = network.token_bytes * (max(map(len, rows)) + sampling.max_tokens)
            slots = int(min(max(room // wanted, 1), self._allowed.limits.slots, len(rows)))
            # a pack's keys and values stand beside the slots until they are copied there
            budget = max(min(self._allowed.batch_tokens, int(room / 4 // network.token_bytes)), 1)
            before = self._prefixes.read(network, prefix, self.totals)
            grower = Grower(network, rows, draw, slots=slots, batch_tokens=budget, prefix=prefix, before=before)
            grower.run(lambda row: tell(row, draw.completion(row)))
            self.totals.tokens_in += grower.tokens_in
        else:
            generate_padded(network, rows, draw)
            self.totals.tokens_in += sum(map(len, rows))
        self.totals.tokens_out += sum(map(len, draw.tokens))
        return [draw.completion(row) for row in range(len(rows))]

    def _plan(self, fed: Sequence[tuple[Row, int]], prefix: Row) -> Plan:
        """Return how to batch rows, each with the first of its positions that need logits."""
        rows, heads = [row for row, _ in fed], [len(row) - first for row, first in fed]
        logits = int(self._allowed.limits.logits_bytes / (self._network.head_width * 4))

        def plan(open_rows: list[int]) -> list[list[int]]:
            budget = self._allowed.batch_tokens
            if self._network.packs:
                chosen, own_heads = [rows[i] for i in open_rows], [heads[i] for i in open_rows]
                batches = plan_packs(
                    chosen, token_budget=budget, skipped=len(prefix), heads=own_heads, head_budget=logits
                )
                return [[open_rows[i] for i in batch] for batch in batches]
            # padded rows get as many logits as the one that needs most; each counts as so many tokens
            costs = [max(len(row), math.ceil(own * budget / logits)) for row, own in zip(rows, heads, strict=True)]
            kinds = [[i for i in open_rows if heads[i] <= 1], [i for i in open_rows if heads[i] > 1]]
            return [
                [kind[i] for i in batch] for kind in kinds for batch in plan_batches([costs[i] for i in kind], budget)
            ]

        return plan

    def _answer(
        self,
        ready: Sequence[A | None],
        plan: Plan,
        compute: Callable[[list[int]], list[A]],
        refuse: Callable[[int, str], A],
        *,
        tells: bool = True,
    ) -> list[A]:
        """Compute what is not ready and return all answers; `tells`: they are told here, otherwise `compute` has told them."""
        started = time.perf_counter()
        tell = self._tell if tells else lambda place, answer: None
        answers = answer_all(ready, plan, compute, refuse, allowed=self._allowed, tell=tell)
        self.totals.requests += len(ready)
        self.totals.seconds += time.perf_counter() - started
        return answers
