"""What a sitting makes of the runtime section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from humpback.engines.vllm import VLLMEngine
from humpback.executor import PoolExecutor, SerialExecutor
from humpback.progress import Console
from humpback.recipe import Recipe
from humpback.sitting import Sitting
from humpback.store.rundir import RunDir


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of random weights, of a few kB."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    folder, letters = tmp_path / "model", sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<end>", *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=257, **sizes)).save_pretrained(folder)
    return folder


def sit(model: Path, folder: Path, **runtime: Any) -> Sitting:
    recipe = {
        "model": {"base": str(model), "max_tokens": 512},
        "seed": {"inputs": [{"path": "package:seed"}]},
        "corpus": {"inputs": [{"path": "pydoc:topics"}]},
        "score": {"signals": ["rating", "backward_lift", "forward_lift"]},
        "runtime": runtime,
    }
    return Sitting(Recipe.model_validate(recipe), RunDir(folder), Console(quiet=True))


def test_vllm_gets_the_recipes_settings_and_answers_all_rows_from_one_process(model: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"  # it is only asked whether it has vllm; nothing is started before something is asked
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    settings = {"python": str(python), "gpu_memory_utilization": 0.2, "stall_timeout_s": 9}
    sitting = sit(model, tmp_path / "run", engine="vllm", workers=3, threads=2, vllm=settings)
    engine = sitting.engines.get(sitting.spec(sitting.base)).inner
    assert isinstance(engine, VLLMEngine)
    launch = engine._process.launch
    assert launch.command[0] == str(python)
    assert dict(launch.settings)["gpu_memory_utilization"] == 0.2
    assert dict(launch.settings)["max_model_len"] == 513
    assert dict(launch.environment)["OMP_NUM_THREADS"] == "2"
    assert launch.stall_timeout_s == 9
    assert isinstance(sitting.executor, PoolExecutor)  # documents are still read by three
    assert isinstance(sitting.answering, SerialExecutor)
    sitting.close()
