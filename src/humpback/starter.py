"""The starter recipe: a commented YAML file shipped with the package, for a new user to set three paths in."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from humpback.errors import InputError

__all__ = ["write_starter"]


def write_starter(path: Path, force: bool = False) -> None:
    """Write the starter recipe; raise InputError when the file is there already and `force` is not given."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write, such as {path / 'recipe.yaml'}")
    text = importlib.resources.files("humpback").joinpath("data", "starter.yaml").read_text(encoding="utf-8")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} exists; name another file, or overwrite it with --force") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name a file in a folder you can write") from None
