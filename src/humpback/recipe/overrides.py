"""Overrides: `section.key=value` of the command line, set in plain values before they are checked.

In: the values of a YAML file, and one override. Out: the same values, changed in place. Only a key that leads nowhere is refused here:
which keys there are, the sections know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from humpback.errors import RecipeError

__all__ = ["apply_override"]


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted key of plain values, in place."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"override {override!r} is not KEY=VALUE; for example --set curate.threshold=4")
    *parents, last = key.strip().split(".")
    node: Any = data
    for parent in parents:
        node = _descend(node, parent, key)
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        parsed = value
    if isinstance(node, list):
        node[_index(node, last, key)] = parsed
    else:
        node[last] = parsed


def _descend(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key)]
    child = node.setdefault(name, {})
    if child is None:
        child = node[name] = {}
    if not isinstance(child, dict | list):
        raise RecipeError(f"override {key}: {name} is a value, not a section")
    return child


def _index(node: Sequence[object], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise RecipeError(
            f"override {key}: {name!r} is not an index of a list of {len(node)}; use 0 to {len(node) - 1}"
        )
    return int(name)
