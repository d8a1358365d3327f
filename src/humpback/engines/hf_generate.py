"""Completions: prompts run as packs, then a token per pass for every growing row; a row that ends makes room for the next.

In: a network, prompts, and their draw. Out: nothing; the draw holds what was drawn. The draw of a row does not depend on which
rows it grew beside, so rows may come and go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig

from humpback.engines.attending import KeysValues, Slots
from humpback.engines.drawing import Draw
from humpback.engines.hf_model import Network, pad
from humpback.engines.packs import Row, build_pack, plan_packs

__all__ = ["Grower", "generate_padded"]


class Grower:
    """Grows rows in slots. Their keys and values are copied there once and never again."""

    def __init__(
        self,
        network: Network,
        prompts: Sequence[Row],
        draw: Draw,
        *,
        slots: int,
        batch_tokens: int,
        prefix: Row,
        before: KeysValues | None,
    ) -> None:
        """`before` are the keys and values of `prefix`, with which all prompts begin."""
        self.network = network
        self.prompts = prompts
        self.draw = draw
        self.batch_tokens = batch_tokens
        self.prefix, self.before = prefix, before
        self.tokens_in = 0
        """Prompt tokens computed."""
        self.slots = Slots(slots, max(map(len, prompts)) + draw.sampling.max_tokens)
        self.free = slots
        # on a GPU a pass of one prompt takes as long as a step of all slots, so prompts wait until a few can go together
        self.refill = 1 if network.device.type == "cpu" else max(slots // 8, 1)
        """Free slots for which rows are started."""
        self.growing: list[int] = []
        """Rows by slot: the first slots, without a gap."""
        self.next: list[int] = []
        """The token to run next, by slot."""
        self._on_end: Callable[[int], None] = lambda row: None

    def run(self, on_end: Callable[[int], None]) -> None:
        """Grow every row to its end; `on_end` hears of each that has ended."""
        self._on_end = on_end
        # the longest prompts first: what does not fit in memory shows at once; like lengths grow side by side
        waiting = deque(sorted(range(len(self.prompts)), key=lambda i: -len(self.prompts[i])))
        while waiting or self.growing:
            while waiting and self.free >= min(self.refill, len(waiting)):
                self._start([waiting.popleft() for _ in range(min(self.free, len(waiting)))])
            if self.growing:
                self._step()

    def _start(self, rows: list[int]) -> None:
        """Run these rows' prompts, draw their first tokens, and give a slot to those that go on."""
        asked = [self.prompts[row] for row in rows]
        skipped = len(self.prefix)
        for part in plan_packs(asked, token_budget=self.batch_tokens, skipped=skipped):
            members = [rows[i] for i in part]
            pack = build_pack([self.prompts[row] for row in members], skipped=skipped)
            ends = [pack.places(i, len(self.prompts[r]) - 1, len(self.prompts[r]))[0] for i, r in enumerate(members)]
            reading = self.network.read_pack(pack, ends, before=self.before, keep=True)
            self.tokens_in += len(pack.token_ids)
            drawn = self.draw.choose(members, reading.logits_N_V)
            places: list[list[int]] = []
            first = len(self.growing)
            for i, (row, token) in enumerate(zip(members, drawn, strict=True)):
                if self.draw.open[row]:
                    places.append(pack.places(i, skipped, len(self.prompts[row])))
                    self.growing.append(row)
                    self.next.append(token)
                    self.free -= 1
                else:
                    self._on_end(row)
            if places:
                self.slots.fill(first, (self.before or [], reading.kept), places, skipped, self.network.device)

    def _step(self) -> None:
        drawn = self.draw.choose(self.growing, self.network.step(self.next, self.slots))
        goes_on = [self.draw.open[row] for row in self.growing]
        for row, is_open in zip(self.growing, goes_on, strict=True):
            if not is_open:
                self._on_end(row)
        left = sum(goes_on)
        # the rows that stand last take the places of those that have ended
        empty = [slot for slot in range(left) if not goes_on[slot]]
        last = [slot for slot in range(left, len(goes_on)) if goes_on[slot]]
        if empty:
            self.slots.move(last, empty)
            for source, target in zip(last, empty, strict=True):
                self.growing[target], drawn[target] = self.growing[source], drawn[source]
        self.free += len(goes_on) - left
        del self.growing[left:], drawn[left:]
        self.next = drawn


def generate_padded(network: Network, prompts: Sequence[Row], draw: Draw) -> None:
    """Draw by transformers' own loop: for a model that cannot be run on packs."""
    ids, mask = pad(prompts, network.device)
    rows = range(len(prompts))

    def choose(input_ids: torch.Tensor, scores_B_V: torch.Tensor) -> torch.Tensor:
        """Logits processor: leave each row a single possible token."""
        chosen = torch.zeros(len(prompts), 1, dtype=torch.long, device=scores_B_V.device)
        if growing := [
            row for row in rows if draw.open[row]
        ]:  # on CUDA it may run one step past the end before it looks
            chosen[growing, 0] = torch.tensor(draw.choose(growing, scores_B_V[growing]), device=scores_B_V.device)
        return torch.full_like(scores_B_V, -torch.inf).scatter_(1, chosen, 0.0)

    def ended(input_ids: torch.Tensor, scores: object) -> torch.Tensor:
        return torch.tensor([not is_open for is_open in draw.open], device=input_ids.device)

    network.net.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig.from_dict(
            {"max_new_tokens": draw.sampling.max_tokens, "do_sample": False, "pad_token_id": 0}
        ),
        logits_processor=[choose],
        stopping_criteria=[ended],
    )
