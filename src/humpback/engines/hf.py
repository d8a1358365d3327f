"""The reference engine: transformers, in process, on any machine. In: prompts. Out: completions and log-probabilities.

float32 on a CPU, bfloat16 on a CUDA device. Rows are left padded, which aligns their ends, where the answers are.
The draw of a completion is made here and not by transformers, so that it depends on the row's seed alone.
"""

from __future__ import annotations

import gc
import inspect
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from humpback.engines.base import (
    Capability,
    ChoiceLogprobs,
    Completion,
    EngineTotals,
    Loglikelihood,
    ModelRef,
    Sampling,
)
from humpback.engines.batching import kept_cost, plan_batches
from humpback.engines.drawing import NOT_FINITE, Draw
from humpback.engines.hf_tokenizer import HFTokenizer, first_line
from humpback.engines.models import quiet_loading
from humpback.errors import InputError
from humpback.prompts import Choice, Continuation, Prompt

__all__ = ["HFEngine"]

A = TypeVar("A")

MIN_PREFIX = 16
"""A shared prefix shorter than this is not worth a pass of its own, in tokens."""
MAX_PREFIXES = 4
LOGITS_BYTES = {"cpu": 400e6, "cuda": 2e9}
"""Most memory the logits of one batch may take."""
POSITIONS = 32
"""Positions whose log-probabilities are computed at once."""
NO_MEMORY = "the row does not fit in the device's memory"


class HFEngine:
    """One causal language model, loaded at the first call."""

    capabilities: frozenset[Capability] = frozenset({"generate", "choice_logprobs", "loglikelihood", "hidden_states"})

    def __init__(
        self, model: ModelRef, *, device: str = "auto", batch_tokens: int = 2048, threads: int | None = None
    ) -> None:
        """`device` is `auto` (CUDA where there is one), `cpu` or `cuda[:N]`; `batch_tokens` bounds one forward pass."""
        self.model = model
        self.tokenizer = HFTokenizer(Path(model.path))
        self.totals = EngineTotals()
        self._device = (
            torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
        )
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device={device!r} is not there; use runtime.device=cpu or auto")
        self._batch_tokens = batch_tokens
        self._threads = threads
        self._loaded: Any = None
        self._prefixes: dict[tuple[int, ...], DynamicCache] = {}
        self._previous: tuple[int, ...] = ()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Draw one completion per prompt. A row's draw depends on its prompt's seed, not on its batch."""

        def refuse(error: str) -> Completion:
            return Completion(text="", tokens=0, finish="error", error=error)

        def compute(rows: list[int]) -> list[Completion]:
            return self._generate([prompts[i] for i in rows], sampling)

        errors = [self._find_error(p.token_ids, room=sampling.max_tokens) for p in prompts]
        lengths = [kept_cost(len(p.token_ids) + sampling.max_tokens) for p in prompts]
        return self._answer([refuse(e) if e else None for e in errors], lengths, compute, refuse)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        """Return log P of each choice as the token that follows each prompt, and the hidden states there."""
        choice_ids = tuple(choice.token_id for choice in choices)
        distinct = {token: i for i, token in enumerate(choice_ids)}.values()  # given twice, it weighs once

        def refuse(error: str) -> ChoiceLogprobs:
            return ChoiceLogprobs(logprobs=(), mass=0.0, error=error)

        def compute(rows: list[int]) -> list[ChoiceLogprobs]:
            suffixes = [prompts[i].token_ids[len(prefix) :] for i in rows]
            logits_B_T_V, hidden_B_L_W = self._forward(suffixes, keep=1, prefix=prefix, layers=layers)
            logprobs_B_C = logits_B_T_V[:, -1].float().log_softmax(-1)[:, list(choice_ids)]
            fine = logprobs_B_C.isfinite().all(-1) & hidden_B_L_W.isfinite().flatten(1).all(-1)
            return [
                ChoiceLogprobs(
                    logprobs=tuple(row),
                    mass=min(math.fsum(math.exp(row[i]) for i in distinct), 1.0),
                    hidden=hidden if layers else None,
                )
                if is_fine
                else refuse(NOT_FINITE)
                for row, hidden, is_fine in zip(
                    logprobs_B_C.tolist(), hidden_B_L_W.cpu().numpy(), fine.tolist(), strict=True
                )
            ]

        errors = [self._find_error(p.token_ids, answer=choice_ids, room=0) for p in prompts]
        prefix = self._shared_prefix([p.token_ids for p, error in zip(prompts, errors, strict=True) if not error])
        lengths = [max(len(p.token_ids) - len(prefix), kept_cost(len(p.token_ids))) for p in prompts]
        return self._answer([refuse(e) if e else None for e in errors], lengths, compute, refuse)

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        """Return log p(continuations[i] given prompts[i])."""
        asked = [(p.token_ids, c.token_ids) for p, c in zip(prompts, continuations, strict=True)]
        # what the logits take is bounded as well, as if each of their tokens were `weight` tokens
        logit_rows = LOGITS_BYTES[self._device.type] / (self._net.get_output_embeddings().weight.shape[0] * 4)
        weight = self._batch_tokens / logit_rows

        def refuse(error: str) -> Loglikelihood:
            return Loglikelihood(logprob=0.0, tokens=0, error=error)

        def compute(rows: list[int]) -> list[Loglikelihood]:
            targets = [asked[i][1] for i in rows]
            # the last token predicts nothing that is asked, so it is not fed
            fed = [(*asked[i][0], *asked[i][1][:-1]) for i in rows]
            logits_B_T_V, _ = self._forward(fed, keep=max(map(len, targets)))
            values = [_sum_logprobs(row, target) for row, target in zip(logits_B_T_V, targets, strict=True)]
            return [
                Loglikelihood(logprob=value, tokens=len(target)) if math.isfinite(value) else refuse(NOT_FINITE)
                for value, target in zip(values, targets, strict=True)
            ]

        ready: list[Loglikelihood | None] = []
        for prompt, target in asked:
            error = self._find_error(prompt, answer=target, room=len(target))
            ready.append(refuse(error) if error else None if target else Loglikelihood(logprob=0.0, tokens=0))
        lengths = [max(len(p) + len(t), math.ceil(len(t) * weight)) for p, t in asked]
        return self._answer(ready, lengths, compute, refuse)

    def close(self) -> None:
        """Free the model's memory. The engine opens again by itself when asked."""
        self._loaded = None
        self._prefixes.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # -- the model -------------------------------------------------------------------------------------------------

    @property
    def _net(self) -> Any:  # transformers types its models by what they happen to do, not by what they promise
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Any:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        on_cpu = self._device.type == "cpu"
        try:
            with quiet_loading():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    self.model.path,
                    dtype=torch.float32 if on_cpu else torch.bfloat16,
                    attn_implementation="sdpa",
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a damaged file fails anywhere in the readers, with any error
            raise InputError(
                f"the model in {self.model.path} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
                "copy or fetch the folder again, or save it again with save_pretrained"
            ) from error
        net, info = loaded
        if info["missing_keys"]:
            names = ", ".join(sorted(info["missing_keys"])[:3])
            raise InputError(f"the weights in {self.model.path} lack {names}: they do not belong to its config.json")
        # `generate` fills in from here what it is not told, and published models ask for a repetition penalty or top_k
        ends = net.generation_config.eos_token_id
        published = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self._ends = frozenset({*published, self.tokenizer.eos_token_id, self.tokenizer.end_of_turn[-1]})
        net.generation_config = GenerationConfig.from_dict({})
        self._context = getattr(net.config.get_text_config(), "max_position_embeddings", None)
        # its name since transformers 5.24, which warns of the old one
        takes = inspect.signature(net.forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"
        # a sliding window forgets the start of a prefix, so its cache cannot be continued by another row
        self._can_share = all(type(layer) is DynamicLayer for layer in DynamicCache(config=net.config).layers)
        return net.eval().to(self._device)

    def _find_error(self, prompt: tuple[int, ...], *, room: int, answer: tuple[int, ...] = ()) -> str | None:
        vocabulary = self._net.get_input_embeddings().weight.shape[0]
        if not prompt:
            return "the prompt is empty"
        if self._context is not None and len(prompt) + room > self._context:
            return f"the prompt's {len(prompt)} tokens and {room} for the answer exceed the model's {self._context}"
        if (largest := max(*prompt, *answer, 0)) >= vocabulary:
            return f"token {largest} is outside the model's vocabulary of {vocabulary}"
        return None

    def _forward(
        self, rows: Sequence[Sequence[int]], *, keep: int, prefix: tuple[int, ...] = (), layers: Sequence[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run rows that all stand after `prefix`.

        Return the logits of the last `keep` positions [B, keep, V] and the last position's states after `layers` [B, L, W].
        """
        ids_B_T, mask_B_T = self._pad(rows)
        position_ids = (mask_B_T.cumsum(-1) - 1).clamp(min=0) + len(prefix)
        past = None
        if prefix:
            kept = [(k, v) for k, v, *_ in self._prefill(prefix)]
            spread = [(k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v in kept]
            past = DynamicCache(spread, config=self._net.config)
            mask_B_T = torch.cat([mask_B_T.new_ones(len(rows), len(prefix)), mask_B_T], dim=1)
        self.totals.tokens_in += sum(map(len, rows))
        output = self._net(
            input_ids=ids_B_T,
            attention_mask=mask_B_T,
            position_ids=position_ids,
            use_cache=past is not None,
            **{self._cache_name: past},
            logits_to_keep=keep,
            output_hidden_states=bool(layers),
        )
        logits: torch.Tensor = output.logits
        states = [output.hidden_states[layer][:, -1].float() for layer in layers]
        return logits, torch.stack(states, 1) if states else logits.new_zeros(len(rows), 0, 0)

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, rows))
        # what stands in the padding is never attended to, so any token will do
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self._device)
        return ids, mask

    # -- shared prefixes -------------------------------------------------------------------------------------------

    def _shared_prefix(self, rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the prefix whose keys and values all rows will use, () for none; a row keeps its last token."""
        if not rows or not self._can_share:
            return ()
        # calls of a single row share with the call before them
        group = rows if len(rows) > 1 or not self._previous else [*rows, self._previous]
        self._previous = rows[-1]
        low, high = min(group), max(group)  # the two that differ first
        limit = min(map(len, group)) - 1
        length = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), limit)
        common = low[: min(length, limit)]
        known = max((p for p in self._prefixes if common[: len(p)] == p), key=len, default=())
        # a new prefix costs a pass over it: what two corruptions of one answer share over the rubric does not pay
        pays = (len(common) - len(known)) * len(group) > len(common) >= MIN_PREFIX
        return common if pays and len(group) > 1 else known

    def _prefill(self, prefix: tuple[int, ...]) -> DynamicCache:
        cache = self._prefixes.pop(prefix, None)
        if cache is None:
            ids, mask = self._pad([prefix])
            cache = DynamicCache(config=self._net.config)
            kept = {self._cache_name: cache}
            self._net(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **kept)
            self.totals.tokens_in += len(prefix)
        self._prefixes[prefix] = cache  # at the end: the first one is the longest unused
        while len(self._prefixes) > MAX_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        return cache

    # -- batches ---------------------------------------------------------------------------------------------------

    def _answer(
        self,
        ready: Sequence[A | None],
        lengths: Sequence[int],
        compute: Callable[[list[int]], list[A]],
        refuse: Callable[[str], A],
    ) -> list[A]:
        """Compute what is not ready, batch by batch, and return all answers in the order asked."""
        started = time.perf_counter()
        answers = dict(enumerate(ready))
        open_rows = [i for i, answer in answers.items() if answer is None]
        plan = plan_batches([lengths[i] for i in open_rows], self._batch_tokens)
        waiting = deque([open_rows[i] for i in batch] for batch in plan)
        while waiting:
            rows = waiting.popleft()
            try:
                with torch.inference_mode():
                    answers.update(zip(rows, compute(rows), strict=True))
                continue
            except torch.OutOfMemoryError:
                pass  # cleaned up below: here the traceback still holds the tensors
            torch.cuda.empty_cache()
            if len(rows) == 1:
                answers[rows[0]] = refuse(NO_MEMORY)
                continue
            self._batch_tokens = max(self._batch_tokens // 2, 1)
            waiting = deque(half for batch in (rows, *waiting) for half in _halves(batch))
        self.totals.requests += len(ready)
        self.totals.seconds += time.perf_counter() - started
        return [answer for answer in answers.values() if answer is not None]

    def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        ids, mask = self._pad([p.token_ids for p in prompts])
        draw = Draw(prompts, sampling, self.tokenizer, self._ends, width=ids.shape[1])
        self._net.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=GenerationConfig.from_dict(
                {"max_new_tokens": sampling.max_tokens, "do_sample": False, "pad_token_id": 0}
            ),
            logits_processor=[draw.choose],
            stopping_criteria=[draw.ended],
        )
        self.totals.tokens_in += sum(len(p.token_ids) for p in prompts)
        self.totals.tokens_out += sum(map(len, draw.tokens))
        return [draw.completion(row) for row in range(len(prompts))]


def _sum_logprobs(logits_T_V: torch.Tensor, target: Sequence[int]) -> float:
    """Return the log-probability of a target that ends where the logits end.

    A few positions at a time: no second copy of the logits is made. (`logsumexp` is several times slower on a CPU.)
    """
    ids = torch.tensor(target, device=logits_T_V.device)
    parts = zip(*(torch.split(x, POSITIONS) for x in (logits_T_V[-len(target) :], ids)), strict=True)
    sums = [part.float().log_softmax(-1).gather(-1, wanted[:, None]).double().sum() for part, wanted in parts]
    return float(torch.stack(sums).sum())


def _halves(rows: list[int]) -> list[list[int]]:
    middle = (len(rows) + 1) // 2
    return [half for half in (rows[:middle], rows[middle:]) if half]
