"""The funnel of `humpback ingest`, in a terminal or as JSON. In: the output folder. Plain text that fits 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humpback.errors import StorageError
from humpback.report.figures import clean

__all__ = ["funnel_lines", "load_funnel", "print_funnel"]


def print_funnel(folder: Path, *, as_json: bool) -> None:
    """Print how many documents and rows there were, what each reason took, and what is kept."""
    funnel = load_funnel(folder)
    if as_json:
        print(json.dumps({"folder": str(folder), **funnel}, indent=2))  # ASCII only
        return
    for line in funnel_lines(funnel):
        print(clean(line))
    print(clean(f"\n{folder}/segments-*.parquet   what is kept\n{folder}/rejected-*.parquet   the rest, with reasons"))


def load_funnel(folder: Path) -> dict[str, Any]:
    path = folder / "funnel.json"
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} is damaged or gone ({error}); delete {folder} and run again") from error
    return data


def funnel_lines(funnel: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table's lines: per step what each reason took, the commonest first, with its share of all rows."""
    rows = funnel["rows"]
    unread = f"; {funnel['unread']:,} files or records gave none" if funnel["unread"] else ""
    yield f"{'documents':<28}{funnel['documents']:>12,}{unread}"
    yield f"{'rows':<28}{rows:>12,}   share   pieces of text, and what could not be read"
    for step in funnel["steps"]:
        taken = [(reason, number, "") for reason, number in step["rejected"].items()]
        taken += [(reason, number, "   failed: not judged") for reason, number in step["failed"].items()]
        if taken:
            yield f"{step['name']}"
        for reason, number, note in sorted(taken, key=lambda item: (-item[1], item[0])):
            yield f"  {reason:<26}{number:>12,}{_share(number, rows)}{note}"
    yield f"{'kept':<28}{funnel['kept']:>12,}{_share(funnel['kept'], rows)}"
    if funnel["masked"]:
        told = ", ".join(f"{kind} {number:,}" for kind, number in funnel["masked"].items())
        yield f"personal data masked in segments: {told}"


def _share(number: int, rows: int) -> str:
    return f"{number / rows:>8.1%}" if rows else ""
