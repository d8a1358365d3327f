"""The files that a study's judge needs. In: paths as the study names them. Out: where they are, and which has changed since.

A path is looked for beside the study file first, so that a study runs the same from any folder, then in the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from humpback.errors import DriftError

__all__ = ["FILES", "place_file", "refuse_changed"]

FILES = ("prompts", "baseline")
"""Keys of a judge that name files."""


def place_file(named: str, folder: Path) -> str:
    """Return the path of a file that lies in the study's folder; what is not there stays as it is named: a set, or another path."""
    beside = folder / named
    return str(beside) if beside.is_file() else named


def refuse_changed(before: Mapping[str, object], now: Mapping[str, object], named: Mapping[str, str | None]) -> None:
    """Raise DriftError for a file whose contents are others, under the same name, than those that were judged by."""
    for key in FILES:
        if named[key] is not None and before.get(key) != now.get(key):
            raise DriftError(
                f"judge.{key}={named[key]} has other contents than when this cell was judged. Bring the old ones back, or give the "
                f"new file a name of its own and name it under judge.{key}: then models are judged anew and none is trained"
            )
