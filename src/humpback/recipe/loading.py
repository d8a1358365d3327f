"""A recipe's way from its file and back: YAML to sections, sections to YAML and to a stage's identity.

In: a file and `section.key=value` overrides. Out: a valid `Recipe`, or one RecipeError with every fault. `dump_recipe` writes every
default, so that what is in the run folder reads the same when defaults have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from humpback.errors import RecipeError
from humpback.recipe.faults import check_section
from humpback.recipe.overrides import apply_override
from humpback.recipe.whole import CorpusRecipe, Recipe

__all__ = ["dump_recipe", "identity_of", "load_corpus", "load_recipe", "read_yaml"]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `section.key=value` overrides; raise RecipeError with every fault and its fix."""
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    return check_section(Recipe, data, f"recipe {path}")


def load_corpus(path: Path | None, given: Mapping[str, Any], overrides: Sequence[str] = ()) -> CorpusRecipe:
    """Return the corpus section of a recipe, or none's, with the keys given instead of its own, and overrides."""
    data = {key: value for key, value in read_yaml(path).items() if key in CorpusRecipe.model_fields} if path else {}
    corpus = data.get("corpus") or {}
    if not isinstance(corpus, dict):
        raise RecipeError(f"recipe {path}: corpus is a value, not a section; see `humpback init`")
    data["corpus"] = {**corpus, **given}
    for override in overrides:
        apply_override(data, override)
    return check_section(CorpusRecipe, data, f"recipe {path}" if path else "what is asked for")


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def identity_of(section: BaseModel) -> Mapping[str, Any]:
    """Return a section as plain values for a stage's identity."""
    return section.model_dump(mode="json")


def read_yaml(path: Path, what: str = "recipe", fix: str = "`humpback init {path}` writes a starter") -> dict[str, Any]:
    """Return the sections of a YAML file as plain values; `what` it is and the `fix` where it is missing are for messages."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{what} {path} does not exist; {fix.format(path=path)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{what} {path} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{what} {path} cannot be read: {error.strerror}; give a YAML file") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that there is not
        raise RecipeError(f"{what} {path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        held = "nothing" if data is None else type(data).__name__
        raise RecipeError(f"{what} {path} holds {held}, not sections; see `humpback init`")
    return data


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: of two values for one key, YAML takes the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands twice in one section; keep one of them", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
