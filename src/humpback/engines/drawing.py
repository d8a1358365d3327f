"""The draw of a completion, made here and not by transformers: it depends on the row's seed alone, never on its batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from humpback.engines.base import Completion, Sampling
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.prompts import Prompt

__all__ = ["NOT_FINITE", "Draw"]

NOT_FINITE = "the model's logits are not finite"
TOP_TOKENS = 1024
"""Sorted for every draw; the whole vocabulary only for a row whose nucleus is wider."""


class Draw:
    """The draws of one batch: chooses each row's next token and knows when the row has ended."""

    def __init__(
        self, prompts: Sequence[Prompt], sampling: Sampling, tokenizer: HFTokenizer, ends: frozenset[int], *, width: int
    ) -> None:
        self.sampling = sampling
        self.tokenizer = tokenizer
        self.ends = ends
        self.width = width
        draws = [np.random.Generator(np.random.Philox(key=p.seed)).random(sampling.max_tokens) for p in prompts]
        self.uniforms_B_T = torch.from_numpy(np.stack(draws))
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.open = [True] * len(prompts)
        self.broken = [False] * len(prompts)
        # no token is shorter than a byte, so a stop string that has just been completed is within this many
        self.tail = max((len(stop.encode()) for stop in sampling.stop), default=0) + 8

    def choose(self, input_ids: torch.Tensor, scores_B_V: torch.Tensor) -> torch.Tensor:
        """Logits processor: leave each row a single possible token."""
        finite = scores_B_V.amax(-1).isfinite()  # a NaN anywhere is the maximum; -inf forbids a token and is fine
        for row, fine in enumerate(finite.tolist()):
            self.broken[row] |= self.open[row] and not fine
        scores_B_V[~finite] = 0.0  # keeps the draw below defined
        if self.sampling.temperature == 0:
            chosen = scores_B_V.argmax(-1)
        else:
            # on CUDA transformers may run one step past the end before it looks
            step = min(input_ids.shape[1] - self.width, self.sampling.max_tokens - 1)
            uniforms = self.uniforms_B_T[:, step].to(scores_B_V.device)
            chosen = _draw_tokens(scores_B_V / self.sampling.temperature, self.sampling.top_p, uniforms)
        return torch.full_like(scores_B_V, -math.inf).scatter_(1, chosen[:, None], 0.0)

    def ended(self, input_ids: torch.Tensor, scores: object) -> torch.Tensor:
        """Stopping criterion: take note of the tokens just drawn, and say which rows need no more."""
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.open[row] and len(self.tokens[row]) < self.sampling.max_tokens:
                self.tokens[row].append(token)
                self.open[row] = not (self.broken[row] or token in self.ends or self._stops(row))
        return torch.tensor([not is_open for is_open in self.open], device=input_ids.device)

    def completion(self, row: int) -> Completion:
        """Return what was drawn, cut before the first stop string."""
        tokens = self.tokens[row]
        if self.broken[row]:
            return Completion(text="", tokens=0, finish="error", error=NOT_FINITE)
        text = self.tokenizer.decode_plain(tokens[:-1] if tokens[-1] in self.ends else tokens)
        cuts = [at for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
        return Completion(
            text=text[: min(cuts, default=None)],
            tokens=len(tokens),
            finish="length" if self.open[row] else "stop",
        )

    def _stops(self, row: int) -> bool:
        if not self.sampling.stop:
            return False
        text = self.tokenizer.decode_plain(self.tokens[row][-self.tail :])
        return any(stop in text for stop in self.sampling.stop)


def _draw_tokens(logits_B_V: torch.Tensor, top_p: float, uniforms_B: torch.Tensor) -> torch.Tensor:
    """Draw from the nucleus by inverse CDF, most probable token first: one uniform number decides one token."""

    def pick(sorted_probs: torch.Tensor, ids: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        cdf = sorted_probs.double().cumsum(-1)
        last = (cdf < top_p).sum(-1, keepdim=True).clamp(max=cdf.shape[-1] - 1)
        mass = cdf.gather(-1, last) if top_p < 1 else 1.0
        place = torch.minimum((cdf <= uniforms[:, None] * mass).sum(-1, keepdim=True), last)
        return ids.gather(-1, place).squeeze(-1)

    probs_B_V = logits_B_V.softmax(-1)
    top, ids = probs_B_V.topk(min(TOP_TOKENS, probs_B_V.shape[-1]))
    chosen = pick(top, ids, uniforms_B)
    # without a nucleus only a row whose draw falls beyond the top tokens needs the rest
    wide = top.double().sum(-1) <= (top_p if top_p < 1 else uniforms_B)
    if wide.any():
        chosen[wide] = pick(*probs_B_V[wide].sort(stable=True, dim=-1, descending=True), uniforms_B[wide])
    return chosen
