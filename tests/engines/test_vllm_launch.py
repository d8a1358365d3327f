"""How vLLM is started: what is missing is said with the way to get it, and the recipe's settings arrive."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import AdapterFolders

from humpback.engines import EngineSpec, open_engine
from humpback.engines.base import ModelRef
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.engines.vllm_launch import find_python, plan_launch, read_adapter, read_context, read_ends
from humpback.engines.vllm_process import Launch
from humpback.errors import InputError, MissingDependencyError
from humpback.recipe import NumberFormat, VLLMSettings

MODEL = ModelRef(path="/models/m", content_hash="m")
LORA = {"peft_type": "LORA", "r": 8, "bias": "none"}


@pytest.fixture(autouse=True)
def forget_interpreters() -> None:
    find_python.cache_clear()


def plan(device: str = "auto", threads: int | None = None, dtype: NumberFormat = "auto", **settings: Any) -> Launch:
    return plan_launch(
        MODEL, VLLMSettings(**settings), room=512, device=device, dtype=dtype, threads=threads, command=("child",)
    )


def environment(launch: Launch) -> dict[str, str]:
    return dict(launch.environment)


# -- the interpreter ---------------------------------------------------------------------------------------------------


def test_without_vllm_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"humpback-lm\[vllm\]'.*runtime\.vllm\.python"):
        find_python(None)


def test_an_engine_without_vllm_is_refused_when_it_is_opened_not_when_it_is_asked(
    byte_model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    spec = EngineSpec(
        model=byte_model, engine="vllm", device="auto", batch_tokens=64, threads=None, cache=tmp_path / "answers.sqlite"
    )
    with pytest.raises(MissingDependencyError, match=r"humpback-lm\[vllm\]"):
        open_engine(spec)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/no/such/python", "is no program"),
        ("false", "has no vllm package; install it there: false -m pip install vllm"),
    ],
)
def test_an_interpreter_that_will_not_do_is_refused_by_name(python: str, message: str) -> None:
    with pytest.raises((InputError, MissingDependencyError), match=message):
        find_python(python)


def test_an_interpreter_that_has_vllm_is_taken_as_it_is_given(tmp_path: Path) -> None:
    python = tmp_path / "python"  # a virtual environment is known by the path it is called by
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    assert find_python(str(python)) == str(python)


# -- the launch --------------------------------------------------------------------------------------------------------


def test_the_settings_of_the_recipe_arrive() -> None:
    launch = plan(dtype="float16", gpu_memory_utilization=0.3, tensor_parallel_size=2, max_loras=4, stall_timeout_s=7)
    told = dict(launch.settings)
    assert (told["dtype"], told["gpu_memory_utilization"], told["tensor_parallel_size"]) == ("float16", 0.3, 2)
    assert (told["max_loras"], told["model"], told["load_format"]) == (4, "/models/m", "safetensors")
    assert told["enable_prefix_caching"] is True
    assert launch.stall_timeout_s == 7


def test_equal_settings_make_equal_launches_that_can_be_a_key() -> None:
    assert plan() == plan()
    assert hash(plan()) == hash(plan())
    assert plan() != plan(dtype="float16")


def test_the_engine_is_the_process_itself_and_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    told = environment(plan())
    assert told["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert told["VLLM_NO_USAGE_STATS"] == "1"
    assert told["HF_HUB_OFFLINE"] == "1"
    assert told["VLLM_CPU_KVCACHE_SPACE"] == "2"


def test_what_the_user_has_set_for_vllm_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    told = environment(plan())
    assert (told["VLLM_CPU_KVCACHE_SPACE"], told["VLLM_LOGGING_LEVEL"]) == ("9", "DEBUG")


def test_another_environment_does_not_get_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    assert "PYTHONPATH" not in environment(plan(python=sys.executable))
    assert environment(plan())["PYTHONPATH"] == "/ours"


def test_a_launch_that_is_shown_shows_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    assert environment(plan())["SOME_API_KEY"] == "sk-secret"
    assert "sk-secret" not in repr(plan())


def test_threads_are_set_for_the_child_only_when_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in environment(plan())
    assert environment(plan(threads=3))["OMP_NUM_THREADS"] == "3"


def test_a_device_is_one_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment(plan(device="cuda:1"))["CUDA_VISIBLE_DEVICES"] == "1"
    assert dict(plan(device="cuda:1").settings)["device"] == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert environment(plan(device="cuda:1"))["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    assert environment(plan(device="cuda"))["CUDA_VISIBLE_DEVICES"] == "4,GPU-abc"
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=4,GPU-abc has no such device"):
        plan(device="cuda:2")


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"text_config": {"max_position_embeddings": 64}, "max_position_embeddings": 512}, 64),
        ({}, None),
        (None, None),
    ],
)
def test_the_context_is_the_configs(tmp_path: Path, config: dict[str, Any] | None, context: int | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_context(tmp_path) == context


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        read_context(tmp_path)


@pytest.mark.parametrize("published", [[7, 9], 7, None])
def test_what_ends_a_completion_is_published_or_ends_a_turn(
    byte_model: ModelRef, tmp_path: Path, published: list[int] | int | None
) -> None:
    tokenizer = HFTokenizer(Path(byte_model.path))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": published}))
    told = set() if published is None else {7} if published == 7 else {7, 9}
    assert read_ends(tmp_path, tokenizer) == {*told, tokenizer.eos_token_id, tokenizer.end_of_turn[-1]}


@pytest.mark.parametrize(
    ("config", "rank"),
    [(LORA, 8), ({**LORA, "rank_pattern": {"q_proj": 32}}, 32), ({**LORA, "modules_to_save": None}, 8)],
)
def test_the_rank_of_an_adapter_is_its_largest(tmp_path: Path, config: dict[str, Any], rank: int) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    write_weights(tmp_path, "q_proj")
    assert read_adapter(tmp_path, "a").rank == rank


def test_the_modules_of_an_adapter_are_those_of_its_weights(contract_adapters: Sequence[AdapterFolders]) -> None:
    adapter = read_adapter(contract_adapters[0].adapter, "hash")
    assert (adapter.name, adapter.folder) == ("hash", str(contract_adapters[0].adapter))
    assert adapter.modules == {"q_proj", "v_proj", "down_proj"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"has no adapter_config\.json"),
        ({"peft_type": "IA3"}, "is not of a LoRA adapter"),
        ({**LORA, "modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({**LORA, "use_dora": True}, "use_dora=True"),
        ({**LORA, "bias": "all"}, "bias=all"),
    ],
)
def test_an_adapter_that_vllm_cannot_load_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any] | None, message: str
) -> None:
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    write_weights(tmp_path, "q_proj")
    with pytest.raises(InputError, match=message):
        read_adapter(tmp_path, "a")


@pytest.mark.parametrize("weights", [None, b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"a":{}}'])
def test_weights_that_are_none_are_refused_by_name(tmp_path: Path, weights: bytes | None) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    if weights is not None:
        (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        read_adapter(tmp_path, "a")


def test_an_adapter_of_the_output_layer_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    write_weights(tmp_path, "q_proj", "lm_head")
    with pytest.raises(InputError, match="changes lm_head"):
        read_adapter(tmp_path, "a")


def write_weights(folder: Path, *modules: str) -> None:
    header = json.dumps({"__metadata__": {}} | {f"base_model.model.x.{m}.lora_A.weight": {} for m in modules}).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
