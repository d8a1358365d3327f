"""The draw of a completion, made here and not by transformers: it depends on the row's seed alone, never on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from humpback.engines.base import Completion, Sampling
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.prompts import Prompt

__all__ = ["NOT_FINITE", "Draw"]

NOT_FINITE = "the model's logits are not finite"
TOP_TOKENS = (64, 1024)
"""Sorted for every draw; the next more, and in the end the whole vocabulary, only for rows whose nucleus is wider."""


class Draw:
    """The draws of some rows: chooses each row's next token and knows when the row has ended."""

    def __init__(
        self, prompts: Sequence[Prompt], sampling: Sampling, tokenizer: HFTokenizer, ends: frozenset[int]
    ) -> None:
        self.sampling = sampling
        self.tokenizer = tokenizer
        self.ends = ends
        draws = [np.random.Generator(np.random.Philox(key=p.seed)).random(sampling.max_tokens) for p in prompts]
        self.uniforms_B_T = np.stack(draws)
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.logprobs = [0.0] * len(prompts)
        self.open = [sampling.max_tokens > 0] * len(prompts)
        """Whether the row wants another token."""
        self._ended = [False] * len(prompts)
        self._broken = [False] * len(prompts)
        # no token is shorter than a byte, so a stop string that has just been completed is within this many
        self.tail = max((len(stop.encode()) for stop in sampling.stop), default=0) + 8

    def choose(self, rows: Sequence[int], logits_B_V: torch.Tensor) -> list[int]:
        """Draw the next token of each of these open rows, take note of it, and return them."""
        finite = logits_B_V.amax(-1).isfinite()  # a NaN anywhere is the maximum; -inf forbids a token and is fine
        logits = logits_B_V.float()
        logprobs_B_V = logits.log_softmax(-1)
        if self.sampling.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            uniforms = torch.from_numpy(self.uniforms_B_T[list(rows), [len(self.tokens[row]) for row in rows]])
            probs_B_V = logprobs_B_V.exp() if self.sampling.temperature == 1 else self._cool(logits)
            # a row that is not finite gets any token: it has ended
            chosen = _draw_tokens(probs_B_V, self.sampling.top_p, uniforms.to(logits.device))
        of_drawn = logprobs_B_V.gather(-1, chosen[:, None])[:, 0]
        # in one piece: a GPU stops for each that is asked of it, and doubles hold all of these exactly
        told = torch.stack([chosen.double(), of_drawn.double(), finite.double()], 1).tolist()
        drawn = [int(token) for token, _, _ in told]
        for row, token, (_, logprob, fine) in zip(rows, drawn, told, strict=True):
            self.tokens[row].append(token)
            self.logprobs[row] += logprob
            self._broken[row] = not fine
            self._ended[row] = token in self.ends or self._stops(row)
            self.open[row] = bool(fine) and not self._ended[row] and len(self.tokens[row]) < self.sampling.max_tokens
        return drawn

    def completion(self, row: int) -> Completion:
        """Return what was drawn, cut before the first stop string."""
        tokens = self.tokens[row]
        if self._broken[row]:
            return Completion(text="", tokens=0, finish="error", error=NOT_FINITE)
        text = self.tokenizer.decode_plain(tokens[:-1] if tokens and tokens[-1] in self.ends else tokens)
        cuts = [at for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
        return Completion(
            text=text[: min(cuts, default=None)],
            tokens=len(tokens),
            finish="stop" if self._ended[row] else "length",
            token_ids=tuple(tokens),
            logprob=self.logprobs[row],
        )

    def _cool(self, logits_B_V: torch.Tensor) -> torch.Tensor:
        return (logits_B_V / self.sampling.temperature).softmax(-1)

    def _stops(self, row: int) -> bool:
        if not self.sampling.stop:
            return False
        text = self.tokenizer.decode_plain(self.tokens[row][-self.tail :])
        return any(stop in text for stop in self.sampling.stop)


def _draw_tokens(probs_B_V: torch.Tensor, top_p: float, uniforms_B: torch.Tensor) -> torch.Tensor:
    """Draw from the nucleus by inverse CDF, most probable token first: one uniform number decides one token."""

    def pick(sorted_probs: torch.Tensor, ids: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        cdf = sorted_probs.double().cumsum(-1)
        last = (cdf < top_p).sum(-1, keepdim=True).clamp(max=cdf.shape[-1] - 1)
        mass = cdf.gather(-1, last) if top_p < 1 else 1.0
        place = torch.minimum((cdf <= uniforms[:, None] * mass).sum(-1, keepdim=True), last)
        return ids.gather(-1, place).squeeze(-1)

    chosen = torch.empty(len(probs_B_V), dtype=torch.long, device=probs_B_V.device)
    rows = torch.arange(len(probs_B_V), device=probs_B_V.device)
    # with a nucleus the row alone decides how many are sorted; without, its draw does, and equal probabilities, which each
    # `topk` may order in its own way, would make a few tokens likelier
    for count in TOP_TOKENS if top_p < 1 else TOP_TOKENS[-1:]:
        open_B_V = probs_B_V if len(rows) == len(probs_B_V) else probs_B_V[rows]
        top, ids = open_B_V.topk(min(count, probs_B_V.shape[-1]))
        chosen[rows] = pick(top, ids, uniforms_B[rows])
        # without a nucleus only a row whose draw falls beyond the top tokens needs the rest
        rows = rows[top.double().sum(-1) <= (top_p if top_p < 1 else uniforms_B[rows])]
        if not len(rows):
            return chosen
    chosen[rows] = pick(*probs_B_V[rows].sort(stable=True, dim=-1, descending=True), uniforms_B[rows])
    return chosen
