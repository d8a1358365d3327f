"""The weights that engines of one process share. In: a folder, a device, a number format. Out: a base, its adapters switched on it.

A base lives as long as an engine holds it; LoRA adapters are held beside its weights and one at a time answers.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from humpback.engines.attending import ATTENTION
from humpback.engines.attending_flash import Kernel, find_kernel, is_sound, see_pack
from humpback.engines.base import ModelRef
from humpback.engines.hf_tokenizer import first_line
from humpback.engines.models import hash_model, quiet_loading
from humpback.engines.packs import Row, build_pack
from humpback.errors import InputError, MissingDependencyError
from humpback.memory import lacks_memory

__all__ = ["Base", "Net", "open_base"]

Net: TypeAlias = Any
"""transformers types its models by what they happen to do, not by what they promise."""


class Base:
    """The weights of a folder on a device, and the adapters held beside them."""

    def __init__(self, path: str, device: torch.device, dtype: torch.dtype) -> None:
        self.net = _load(path, dtype).to(device)
        _widen_head(self.net)
        # `generate` fills in from here what it is not told, and published models ask for a repetition penalty or top_k
        ends = self.net.generation_config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.net.generation_config = GenerationConfig.from_dict({})
        self.kernel = _choose_kernel(self.net, device, dtype)
        """Attends to whole packs; None: block by block."""
        self.packs = _can_pack(self.net, self.kernel)
        if device.type == "cuda" and not (self.packs and self.kernel):
            told = f"the flash kernel does not take {path}: it runs on {self.attention}, slowly"
            warnings.warn(told, RuntimeWarning, stacklevel=2)  # an H200 was a hundred times slower for it
        self._adapted: Any = None
        self._active: str | None = None
        self._held: set[str] = set()
        """Names of adapters, which come from their content: a folder may hold another one by now."""

    @property
    def attention(self) -> str:
        """How rows are attended to, in words."""
        if not self.packs:
            return "padded rows"
        return "packs, by a flash kernel" if self.kernel else "packs, block by block"

    def activate(self, model: ModelRef) -> None:
        """Answer with a model's adapter, or, where it has none, as the weights are."""
        self._switch(None if model.adapter is None else self._hold(model.adapter, _adapter_name(model)))

    def drop(self, model: ModelRef) -> None:
        """Free the memory of a model's adapter."""
        name = _adapter_name(model)
        if model.adapter is not None and name in self._held:
            self._switch(None)
            with warnings.catch_warnings():
                # another one becomes the adapter that is switched on next, which `_switch` decides anyway
                warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
                self._adapted.delete_adapter(name)
            self._held.remove(name)

    def _switch(self, name: str | None) -> None:
        if name == self._active:
            return
        if name is None:
            self._adapted.base_model.disable_adapter_layers()
        else:
            self._adapted.base_model.enable_adapter_layers()
            self._adapted.set_adapter(name)
        self._active = name

    def _hold(self, adapter: str, name: str) -> str:
        if name in self._held:
            return name
        try:
            from peft import PeftModel
        except ImportError as error:
            raise MissingDependencyError(
                f"the adapter in {adapter} needs peft; install it with: pip install 'humpback-lm[train]'"
            ) from error
        try:
            with warnings.catch_warnings():
                # transformers' models have the attribute before any adapter
                warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
                # peft 0.21 asks by a name that transformers 5.24 calls old
                warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
                if self._adapted is None:
                    # puts its layers into the net itself, which is asked as before; the wrapper only switches them
                    self._adapted = PeftModel.from_pretrained(self.net, adapter, adapter_name=name)
                else:
                    self._adapted.load_adapter(adapter, adapter_name=name)
        except Exception as error:  # a damaged file fails anywhere in the readers, with any error
            if lacks_memory(error):
                raise
            raise InputError(
                f"the adapter in {adapter} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
                "copy or fetch the folder again, or name the base model that it was trained on"
            ) from error
        self._held.add(name)
        self.net.eval()
        for module in self.net.modules():
            if isinstance(module, WideHead):
                module.wide = None  # an adapter with a head of its own began as a copy of ours, and of this
        return name


class WideHead(torch.nn.Linear):
    """The last layer of a model in half precision, whose products are summed in float32 and stay so.

    Rounded to bfloat16, a logit of 20 is a multiple of 0.125. Of SmolLM2-135M's ratings on a CPU this was three quarters of what
    bfloat16 changed: 0.044 in the mean with, 0.013 without it (`docs/log.md`).
    """

    wide: torch.Tensor | None = None
    """The weights in float32, where the device cannot do this by itself."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):  # since torch 2.8
            flat = states.reshape(-1, states.shape[-1])
            logits: torch.Tensor = torch.mm(flat, self.weight.t(), out_dtype=torch.float32)
            logits = logits.reshape(*states.shape[:-1], -1)
            return logits if self.bias is None else logits + self.bias
        if self.wide is None:
            self.wide = self.weight.detach().float()
        bias = None if self.bias is None else self.bias.float()
        found: torch.Tensor = torch.nn.functional.linear(states.float(), self.wide, bias)
        return found


def _widen_head(net: Net) -> None:
    head = net.get_output_embeddings()
    # quantised and other heads stay as they are; an adapter on it still finds a Linear
    if type(head) is not torch.nn.Linear or head.weight.dtype not in (torch.bfloat16, torch.float16):
        return
    head.__class__ = WideHead
    if head.weight.is_cuda:
        try:
            with torch.inference_mode():
                head(head.weight.new_zeros(1, head.in_features))
        except (RuntimeError, TypeError):  # a build of torch that lacks this product
            head.__class__ = torch.nn.Linear


def _adapter_name(model: ModelRef) -> str:
    # a dot would name a submodule
    return "adapter_" + "".join(letter if letter.isalnum() else "_" for letter in model.content_hash)


_bases: WeakValueDictionary[tuple[str, str, str, str], Base] = WeakValueDictionary()
"""What is loaded in this process, by folder, content, device and number format; held by the engines that use it, not here."""


def open_base(model: ModelRef, device: torch.device, dtype: torch.dtype) -> Base:
    """Load a model's base, or take it from an engine that has loaded it."""
    content = hash_model(Path(model.path)) if model.adapter else model.content_hash
    key = (model.path, content, str(device), str(dtype))
    base = _bases.get(key)
    if base is None:
        base = _bases[key] = Base(model.path, device, dtype)
    return base


def _load(path: str, dtype: torch.dtype) -> Net:
    try:
        with quiet_loading():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                attn_implementation=None,  # torch's own kernels, or `eager` where an architecture refuses them
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # a damaged file fails anywhere in the readers, with any error
        if lacks_memory(error):
            raise
        raise InputError(
            f"the model in {path} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "copy or fetch the folder again, or save it again with save_pretrained"
        ) from error
    net, info = loaded
    if info["missing_keys"]:
        names = ", ".join(sorted(info["missing_keys"])[:3])
        raise InputError(f"the weights in {path} lack {names}: they do not belong to its config.json")
    return net.eval()


PROBE = (tuple(range(3, 40)), tuple(range(3, 30)))
"""Two rows that begin alike."""
EXACT = 1e-3
"""Largest difference of a logit, in spreads of the logits, that float32 rounding explains."""
ROUNDED = 0.25
"""Largest root mean square difference of the logits, in their spread, that half precision explains. SmolLM2-135M in bfloat16: packed
against alone 0.03 (one logit of 98,304: 0.13), alone against float32 0.06, wrong positions or an unseen prefix above 3."""


def _choose_kernel(net: Net, device: torch.device, dtype: torch.dtype) -> Kernel | None:
    kernel = find_kernel(device, dtype)
    config = net.config.get_text_config()
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    if kernel and is_sound(kernel, heads=heads, key_heads=key_heads, width=width, device=device, dtype=dtype):
        return kernel
    return None


def _can_pack(net: Net, kernel: Kernel | None) -> bool:
    """Tell whether this model can be run on packs, and switch it to our attention if it can.

    Its architecture must keep plain keys and values (a sliding window or a recurrent state forgets), hand its attention to a
    function, and pass on what that needs; then two rows through a pack must give what they give alone.
    """
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=net.config).layers)
    passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(net.forward).parameters.values())
    size = net.get_input_embeddings().weight.shape[0]
    if not (plain and passes_on and getattr(net, "_supports_attention_backend", False)):
        return False
    rows = [tuple(token % size for token in row) for row in PROBE]
    before = net.config._attn_implementation
    with torch.inference_mode():
        alone = torch.stack([_ask_alone(net, row) for row in rows])
        net.set_attn_implementation(ATTENTION)
        try:
            packed = _ask_packed(net, rows, kernel)
        except (NotImplementedError, TypeError):  # attention of another kind, or one that is not told what it sees
            packed = torch.full_like(alone, torch.nan)
    difference = packed - alone
    if net.dtype == torch.float32:
        agrees = (difference.abs() <= alone.std() * EXACT).all()
    else:
        agrees = difference.square().mean().sqrt() <= alone.std() * ROUNDED
    if bool(agrees):
        return True
    net.set_attn_implementation(before)
    return False


def _ask_alone(net: Net, row: Row) -> torch.Tensor:
    logits: torch.Tensor = net(input_ids=torch.tensor([row], device=net.device), use_cache=False).logits
    return logits[0, -1].float()


def _ask_packed(net: Net, rows: Sequence[Row], kernel: Kernel | None) -> torch.Tensor:
    pack = build_pack(rows)
    ends = [pack.places(i, len(row) - 1, len(row))[0] for i, row in enumerate(rows)]
    logits: torch.Tensor = net(
        input_ids=torch.tensor([pack.token_ids], device=net.device),
        position_ids=torch.tensor([pack.positions], device=net.device),
        use_cache=False,
        logits_to_keep=torch.tensor(ends, device=net.device),
        seen=see_pack(pack, None, keep=False, device=net.device, kernel=kernel),
    ).logits
    return logits[0].float()
