"""Text and tables in a terminal; plain text when standard output is none. What the terminal must not obey is taken out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from humpback.report import figures

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["draw_table", "open_console", "print_table", "say"]

PLAIN_WIDTH = 120
"""Columns when standard output is not a terminal: a pipe has no width of its own."""


def open_console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=False)


def _safe(console: Console, text: str) -> str:
    """Text from the web may hold what this terminal must not obey or cannot show."""
    return figures.clean(text).encode(console.encoding, "replace").decode(console.encoding)


def say(console: Console, text: str, *, whole: bool = False) -> None:
    """Print text, broken at the width unless it must stay whole, as a path must."""
    from rich.text import Text

    console.print(Text(_safe(console, text)), soft_wrap=whole)


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; a header that ends in `>` is of a right-aligned column."""
    draw_table(open_console(), title, headers, rows)


def draw_table(console: Console, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a header that ends in `>` is of a right-aligned column."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(_safe(console, title), style="bold")
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        right = header.endswith(">")
        table.add_column(header.rstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(Text(_safe(console, cell)) for cell in row))
    console.print(table)
