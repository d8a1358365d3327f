"""Markdown of tables and texts. In: cells and texts, some of them from the web. Out: lines in which nothing of theirs is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from humpback.report import figures

__all__ = ["code", "escape", "fenced", "listed", "table_lines"]


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Yield a table's lines; a header that ends in `>` is of a right-aligned column."""
    yield "| " + " | ".join(header.rstrip(">") for header in headers) + " |"
    yield "|" + "|".join("---:" if header.endswith(">") else "---" for header in headers) + "|"
    for row in rows:
        yield "| " + " | ".join(escape(cell) for cell in row) + " |"


def listed(lines: Iterable[str]) -> list[str]:
    """Return a list's lines."""
    return [f"- {escape(line)}" for line in lines]


def escape(text: str) -> str:
    """Return one line in which nothing is markup: reasons and details may quote text from the web."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(figures.clean(text).split())) if text.strip() else text


def code(text: str) -> str:
    """Return one line between backticks, whatever it holds."""
    flat = " ".join(figures.clean(text).split()).replace("`", "'")
    return f"`{flat}`"


def fenced(text: str) -> list[str]:
    """Return lines in a fence longer than any in the text, so that the text cannot close it."""
    text = figures.clean(text)  # first: a dropped control character may join two runs of backticks
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *text.split("\n"), fence]
