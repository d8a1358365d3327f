"""Progress of long work: a live bar in a terminal, plain log lines elsewhere. Rows, tokens per second, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Bar", "Console", "format_seconds"]

LOG_EVERY_S = 15.0


def format_seconds(seconds: float) -> str:
    """Return m:ss, or h:mm:ss from an hour on."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Bar:
    """Counts units (rows, answers, steps) and tokens of one stage."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.skipped = 0
        self.tokens = 0
        self.note = ""
        self._started = self._logged = time.monotonic()

    def advance(self, units: int, tokens: int = 0, note: str = "") -> None:
        """Add finished units and the tokens computed for them."""
        self.done += units
        self.tokens += tokens
        self.note = note or self.note
        self._show()

    def skip(self, units: int) -> None:
        """Add units that an earlier sitting or the cache had finished: they are no measure of speed."""
        self.done += units
        self.skipped += units
        self._show()

    def describe(self) -> str:
        """Return what is known now: rate and time left once something is done."""
        elapsed = max(time.monotonic() - self._started, 1e-6)
        parts = [f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done} {self.unit}"]
        fresh = self.done - self.skipped
        parts.append(f"{fresh / elapsed:.1f} {self.unit}/s")
        if self.tokens:
            parts.append(f"{self.tokens / elapsed:.0f} tokens/s")
        if self.total and fresh:
            parts.append(f"ETA {format_seconds(max(self.total - self.done, 0) * elapsed / fresh)}")
        if self.note:
            parts.append(self.note)
        return " · ".join(parts)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            print(f"{time.strftime('%H:%M:%S')} {self.label}: {self.describe()}", file=sys.stderr, flush=True)


class _LiveBar(Bar):
    def __init__(self, label: str, total: int | None, unit: str, live: RichProgress, task: TaskID) -> None:
        super().__init__(label, total, unit)
        self._live, self._task = live, task

    def _show(self) -> None:
        self._live.update(self._task, completed=self.done, description=f"{self.label}  {self.describe()}")


class Console:
    """Where a run reports to a person: standard error, so that standard output stays clean for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        """Print one line with the time of day."""
        if not self.quiet:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str = "rows") -> Iterator[Bar]:
        """Show a stage's progress while the block runs."""
        if self.quiet or not sys.stderr.isatty():
            bar = Bar(label, total, unit)
            if self.quiet:
                bar._show = lambda: None  # type: ignore[method-assign]
            yield bar
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as live:
            yield _LiveBar(label, total, unit, live, live.add_task(label, total=total))
