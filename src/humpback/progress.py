"""Progress of long work: a live bar in a terminal, plain log lines elsewhere. Rows, tokens, answers from the cache, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from humpback.store.rundir import Counts

__all__ = ["Bar", "Console", "format_seconds", "tell_counts", "tell_reasons", "tell_totals"]

LOG_EVERY_S = 15.0


def format_seconds(seconds: float) -> str:
    """Return m:ss, or h:mm:ss from an hour on."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def tell_counts(counts: Counts) -> str:
    """Return in a line what became of a stage's rows."""
    parts = [f"{counts.read} read", f"{counts.kept} kept"]
    for label, reasons in (("rejected", counts.rejected), ("failed", counts.failed)):
        if reasons:
            told = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
            parts.append(f"{sum(reasons.values())} {label} ({told})")
    return ", ".join(parts)


def tell_reasons(counts: Counts) -> str:
    """Return the rejected and failed reasons with their counts, in words."""
    return (
        ", ".join(f"{reason} {number}" for reason, number in {**counts.rejected, **counts.failed}.items()) or "no rows"
    )


class Totals(Protocol):
    """What engines have done (`engines/base.py: EngineTotals`)."""

    requests: int
    cache_hits: int
    tokens_in: int
    tokens_out: int
    errors: int
    retries: int


def _short(number: int) -> str:
    """Return 999, 12k or 3.4M: a bar has little room."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            value = number / size
            return f"{value:.1f}{letter}" if value < 10 else f"{value:.0f}{letter}"
    return str(number)


def tell_totals(totals: Totals, seconds: float) -> str:
    """Return in a line what engines have done in the seconds given."""
    parts = [f"{totals.requests:,} answers"]
    if totals.cache_hits:
        parts.append(f"{totals.cache_hits:,} from cache")
    if totals.tokens_in + totals.tokens_out:
        parts.append(f"tokens {totals.tokens_in:,} in, {totals.tokens_out:,} out")
        parts.append(f"{(totals.tokens_in + totals.tokens_out) / max(seconds, 1e-6):,.0f} tokens/s")
    if totals.errors:
        parts.append(_plural(totals.errors, "error", "errors"))
    if totals.retries:
        parts.append(_plural(totals.retries, "retry", "retries"))
    return ", ".join(parts)


def _plural(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


class Bar:
    """Counts units (rows, answers, steps) and tokens of one stage."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.skipped = 0
        self.worked = 0.0
        """What the time so far went into, in units of mean length: long rows come first and count for more."""
        self.tokens = self.tokens_in = self.tokens_out = 0
        self.cached = self.errors = 0
        self.rows_done = 0
        self.rows_total: int | None = None
        """Rows of a stage whose units are answers."""
        self.note = ""
        self._started = self._logged = time.monotonic()

    def advance(self, units: int, tokens: int = 0, note: str = "") -> None:
        """Add finished units and the tokens computed for them."""
        self.done += units
        self.worked += units
        self.tokens += tokens
        self.note = note or self.note
        self._show()

    def skip(self, units: int) -> None:
        """Add units that an earlier sitting or the cache had finished: they are no measure of speed."""
        self.done += units
        self.skipped += units
        self._show()

    def start_clock(self, *, ago: float) -> None:
        """Take the work to have begun so many seconds ago: what came before (a model was loaded) is no measure of speed."""
        self._started = time.monotonic() - ago

    def hear(self, totals: Totals, *, work: float) -> None:
        """Add a batch of answers; those from the cache are no measure of speed."""
        self.done += totals.requests
        self.cached += totals.cache_hits
        self.errors += totals.errors
        self.tokens_in += totals.tokens_in
        self.tokens_out += totals.tokens_out
        self.skipped += totals.cache_hits
        self.worked += work if totals.requests > totals.cache_hits else 0
        self.tokens += totals.tokens_in + totals.tokens_out
        self._show()

    def finish_rows(self, rows: int, units: int) -> None:
        """Add finished rows. Each is `units / rows` units, asked or not: a pair that is too long is not rated."""
        before = self.rows_done
        self.rows_done += rows
        if rows:
            self.done = max(self.done, (before + rows) * units // rows)
        self._show()

    def describe(self) -> str:
        """Return what is known now: counts, rate and time left once something is done."""
        elapsed = max(time.monotonic() - self._started, 1e-6)
        parts = [f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done} {self.unit}"]
        if self.rows_total:
            parts.append(f"{self.rows_done}/{self.rows_total} rows")
        parts.append(f"{(self.done - self.skipped) / elapsed:.1f} {self.unit}/s")
        if self.tokens:
            parts.append(f"{self.tokens / elapsed:.0f} tokens/s")
        if self.tokens_in + self.tokens_out:
            parts.append(f"tokens {_short(self.tokens_in)} in, {_short(self.tokens_out)} out")
        if self.cached:
            parts.append(f"{self.cached} from cache")
        if self.errors:
            parts.append(_plural(self.errors, "error", "errors"))
        if self.total and self.worked:
            left = max(self.total - self.skipped - self.worked, 0)
            parts.append(f"ETA {format_seconds(left * elapsed / self.worked)}")
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
