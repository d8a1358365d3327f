"""The recipe as a file: what YAML lets pass and a run must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from humpback.errors import RecipeError
from humpback.recipe import load_recipe

WHOLE = (
    "model: {base: fake}\nseed: {inputs: [{path: a.jsonl}]}\ncorpus: {inputs: [{path: b}]}\nruntime: {engine: fake}\n"
)


def test_a_key_that_stands_twice_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "curate:\n  signal: rating\n  top: 0.4\n  signal: auto\n")
    with pytest.raises(RecipeError, match=r"signal stands twice(.|\n)*line 8"):
        load_recipe(path)


def test_the_same_key_in_two_sections_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "augment: {top_p: 0.9, max_tokens: 64}\n")
    assert load_recipe(path).augment.max_tokens == 64
