"""A complete run with the scripted engine, made once, and the recipe it was made from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from humpback.pipeline import run
from humpback.progress import Console
from humpback.recipe import Recipe

WORDS = ("bread", "bridge", "cloud", "copper", "engine", "garden", "harvest", "lantern", "market", "music", "needle")
HOSTILE = (
    '</style></pre><script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)> & \x1b[31mred\u202e'
)


def _document(number: int) -> dict[str, str]:
    draw = random.Random(number)
    lines = [" ".join(draw.choice(WORDS) for _ in range(9)).capitalize() + f" on day {number}-{i}." for i in range(14)]
    if number % 2:
        lines.append(HOSTILE)
    return {"text": " ".join([*lines, "That is all."]), "title": f"Document {number}"}


def _pair(number: int) -> dict[str, str]:
    first, second = random.Random(1000 + number).sample(WORDS, 2)
    answer = " ".join(f"The {first} meets the {second} near the {word} on day {number}." for word in WORDS[:3])
    return {"instruction": f"Tell me about {first} and {second} number {number}.", "response": answer}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("inputs")
    for name, rows in (("docs", [_document(i) for i in range(30)]), ("seed", [_pair(i) for i in range(56)])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Recipe.model_validate(
        {
            "model": {"base": "fake", "max_tokens": 8192},
            "seed": {"inputs": [{"path": str(folder / "seed.jsonl")}], "holdout": 26},
            "corpus": {"inputs": [{"path": str(folder / "docs.jsonl")}], "filters": []},  # made-up sentences
            "gate": {"min_lift_auc": 0.5},  # which share eleven words
            "evaluate": {"resamples": 200},
            "runtime": {"engine": "fake", "shard_rows": 8},
        }
    )


@pytest.fixture(scope="session")
def complete(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a complete run; tests read it and must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(recipe, folder, console=Console(quiet=True))
    return folder


@pytest.fixture
def data(complete: Path) -> dict[str, Any]:
    """Return the run's report.json, fresh for every test."""
    report: dict[str, Any] = json.loads((complete / "report" / "report.json").read_bytes())
    return report
