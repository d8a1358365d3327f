"""The funnel of `humpback ingest`, in a terminal or as JSON. In: the output folder. Plain text that fits 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humpback.errors import StorageError
from humpback.report.figures import clean

__all__ = ["funnel_lines", "load_funnel", "print_funnel"]

_RULES = 8
"""Rules of boilerplate that the terminal names; all are in the JSON."""


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
    yield f"{'rows':<28}{rows:>12,}   share   pieces of text, dropped prose, what is unread"
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
    yield from _page_lines(funnel["pages"])


def _page_lines(pages: Mapping[str, Any]) -> Iterator[str]:
    """Yield what became of the characters of HTML pages, the rules that dropped most first."""
    total = pages["characters"]
    if not total:
        return
    yield f"{'characters of pages':<28}{total:>12,}   share   white space not counted"
    yield f"  {'main content':<26}{pages['main_content']:>12,}{_share(pages['main_content'], total)}"
    dropped = sorted(pages["dropped"].items(), key=lambda item: (-item[1]["characters"], item[0]))
    for rule, took in dropped[:_RULES]:
        chars = took["characters"]
        yield f"  {rule[:26]:<26}{chars:>12,}{_share(chars, total)}   in {took['parts']:,} parts"
    if len(dropped) > _RULES:
        chars = sum(took["characters"] for _, took in dropped[_RULES:])
        yield f"  {f'{len(dropped) - _RULES} other rules':<26}{chars:>12,}{_share(chars, total)}   all in funnel.json"


def _share(number: int, rows: int) -> str:
    return f"{number / rows:>8.1%}" if rows else ""
