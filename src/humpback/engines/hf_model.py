"""Forward passes over a causal language model. In: packs, or padded rows. Out: logits, hidden states, keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from humpback.engines.attending import KeysValues, Slots
from humpback.engines.attending_flash import see_pack
from humpback.engines.base import ModelRef
from humpback.engines.hf_base import Net, open_base
from humpback.engines.packs import Pack, Row
from humpback.errors import InputError

__all__ = ["Network", "Reading", "pad"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one forward pass told."""

    logits_N_V: torch.Tensor
    """At the places asked for."""
    states_B_L_W: torch.Tensor
    """At each row's last token, after the layers asked for."""
    kept: KeysValues
    """Of the whole pack; empty unless asked for."""


class Network:
    """One model: a base, with its adapter switched on for every pass."""

    def __init__(self, model: ModelRef, device: torch.device, dtype: torch.dtype) -> None:
        base = self.base = open_base(model, device, dtype)
        self.device = device
        self.packs = base.packs
        """Whether packs give the model's own answers; otherwise rows are padded, and nothing is shared."""
        self._model = model
        base.activate(model)
        config = base.net.config.get_text_config()
        self.layers = int(config.num_hidden_layers)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary = int(base.net.get_input_embeddings().weight.shape[0])
        self.head_width = int(base.net.get_output_embeddings().weight.shape[0])
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.token_bytes = int(2 * self.layers * heads * width * base.net.dtype.itemsize)
        """Of the keys and values of one token."""

    @property
    def net(self) -> Net:
        """The model with this network's adapter switched on."""
        self.base.activate(self._model)
        return self.base.net

    def close(self) -> None:
        """Free the adapter; the base is freed when nobody holds it."""
        self.base.drop(self._model)

    def read_pack(
        self,
        pack: Pack,
        places: Sequence[int],
        *,
        before: KeysValues | None = None,
        layers: Sequence[int] = (),
        ends: Sequence[int] = (),
        keep: bool = False,
    ) -> Reading:
        """Run a pack after the keys and values `before`; `places` get logits, `ends` are where hidden states are read."""
        seen = see_pack(pack, before, keep=keep, device=self.device, kernel=self.base.kernel)
        at = torch.tensor(ends, dtype=torch.long, device=self.device)
        with _reading(self.net, self.layers, layers, lambda states: states[0, at]) as states:
            output = self._run(
                input_ids=torch.tensor([pack.token_ids], device=self.device),
                position_ids=torch.tensor([pack.positions], device=self.device),
                logits_to_keep=torch.tensor(places, dtype=torch.long, device=self.device),
                seen=seen,
            )
        return Reading(logits_N_V=output.logits[0], states_B_L_W=_stack(states, output.logits), kept=seen.kept)

    def read_padded(self, rows: Sequence[Row], *, keep: int, layers: Sequence[int] = ()) -> Reading:
        """Run rows left padded, which aligns their ends; the last `keep` positions of each get logits, row after row."""
        ids, mask = pad(rows, self.device)
        with _reading(self.net, self.layers, layers, lambda states: states[:, -1]) as states:
            output = self.net(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
                # an index of nothing, for 0 would mean all
                logits_to_keep=keep or torch.tensor([], dtype=torch.long, device=self.device),
            )
        logits = output.logits
        return Reading(logits_N_V=logits.flatten(0, 1), states_B_L_W=_stack(states, logits, len(rows)), kept=[])

    def step(self, tokens: Sequence[int], slots: Slots) -> torch.Tensor:
        """Run one more token of each growing row; return the logits after it [rows, V]."""
        positions = slots.grow(len(tokens))
        ids = torch.tensor(tokens, device=self.device)[:, None]
        logits: torch.Tensor = self._run(input_ids=ids, position_ids=positions, logits_to_keep=1, seen=slots).logits
        return logits[:, -1]

    def _run(self, **inputs: object) -> Any:
        return self.net(use_cache=False, **inputs)


def pad(rows: Sequence[Row], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return left-padded token ids and their mask."""
    width = max(map(len, rows))
    # what stands in the padding is never attended to, so any token will do
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _stack(states: dict[int, torch.Tensor], like: torch.Tensor, rows: int = 0) -> torch.Tensor:
    found = [states[layer].float() for layer in sorted(states)]
    return torch.stack(found, 1) if found else like.new_zeros(rows, 0, 0)


@contextmanager
def _reading(
    net: Net, depth: int, layers: Sequence[int], select: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[dict[int, torch.Tensor]]:
    """Gather what `select` takes of the states after each layer, keyed by the layer's place in `layers`.

    Counted as transformers counts hidden states: 0 is the embeddings, `depth` is after the final norm.
    """
    found: dict[int, torch.Tensor] = {}
    decoder = net.get_decoder()

    def take_input(place: int) -> Callable[..., None]:
        def hook(_: object, given: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
            found[place] = select(given[0] if given else named["hidden_states"])

        return hook

    def take_output(place: int) -> Callable[..., None]:
        def hook(_: object, given: object, output: Any) -> None:
            found[place] = select(output[0])

        return hook

    with ExitStack() as hooks:
        for place, layer in enumerate(layers):
            if layer == depth:
                handle = decoder.register_forward_hook(take_output(place))
            else:
                handle = _blocks(decoder, depth)[layer].register_forward_pre_hook(take_input(place), with_kwargs=True)
            hooks.callback(handle.remove)
        yield found


def _blocks(decoder: Net, depth: int) -> Any:
    """Return the list of the model's layers, whatever its architecture calls it."""
    for module in decoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise InputError(
        f"no list of {depth} layers in {type(decoder).__name__}: its hidden states cannot be read; leave out the probe signal"
    )
