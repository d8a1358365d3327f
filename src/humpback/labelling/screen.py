"""The terminal of `humpback label`: one pair at a time, one key an answer. Draws the page, reads the keys, asks the session.

The screen is drawn anew for every pair and after every change of its size; a text longer than the screen is shown in pages.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING

from humpback.labelling.session import Session
from humpback.report.figures import clean, score

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Screen", "has_terminal"]

KEYS = "1-5 label  g good  b bad  s skip  u undo  n note  q quit"
SHORT_KEYS = "1-5 g/b label  s skip  u undo  n note  q quit"
DONE_KEYS = "u undo  q quit"
PAGING = "SPACE more  p back"
FRAME_LINES = 4
"""Lines of head and foot."""
_MORE = (" ", "\r", "\n", "\x1b[B", "\x1b[6~", "\x1bOB")
_BACK = ("p", "\x1b[A", "\x1b[5~", "\x1bOA")
_END = ("q", "\x04", "")
_HEADER = re.compile(r"#{1,6} ")


def has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


class Screen:
    """Shows a session's pairs until it is done or the labeller leaves."""

    def __init__(self, session: Session, *, show_scores: bool) -> None:
        from rich.console import Console

        self.session, self.show_scores = session, show_scores
        self.console = Console(highlight=False)
        self.page, self.note, self.told = 0, "", ""
        self._drawing = self._stale = False
        self._input = sys.stdin.fileno()

    def run(self) -> None:
        """Label until the session is done or the labeller quits; everything said is kept at any end."""
        with self._terminal(), contextlib.suppress(KeyboardInterrupt):
            self._draw()
            while self._act(self._key()):
                self._draw()

    # -- keys ------------------------------------------------------------------------------------------------------

    def _act(self, key: str) -> bool:
        """Do what a key asks for; return False to leave."""
        self.told = ""
        session, page = self.session, self.page
        if key in _END:
            return False
        if key in "uU":
            self.told, self.note = "" if session.undo() else "There is nothing to undo.", ""
        elif session.current is None:
            self.told = "That key does nothing here."
        elif key in "12345":
            session.answer(label=int(key), note=self._take_note())
        elif key in "gG":
            session.answer(good=True, note=self._take_note())
        elif key in "bB":
            session.answer(good=False, note=self._take_note())
        elif key in "sS":
            session.skip(note=self._take_note())
        elif key in "nN":
            self._ask_note()
        elif key in _MORE or key in _BACK:
            page += 1 if key in _MORE else -1
        else:
            self.told = "That key does nothing here."
        # an answer shows another pair, from its beginning
        self.page = page % self._pages() if key in (*_MORE, *_BACK, *"nN") else 0
        return True

    def _take_note(self) -> str:
        note, self.note = self.note, ""
        return note

    def _ask_note(self) -> None:
        """Read a line, to go with the next answer. The terminal edits it as any line; Ctrl-C gives it up."""
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)
        try:
            print("note, kept with your answer on this pair: ", end="", flush=True)
            line = os.read(self._input, 4096).decode("utf-8", "replace")
            self.note = clean(line).strip()
        except KeyboardInterrupt:
            self.told = "No note."
        finally:
            tty.setcbreak(self._input)

    def _key(self) -> str:
        """Wait for one key; an arrow or a page key is one, however many bytes it sends."""
        key = os.read(self._input, 1)
        if key == b"\x1b":
            while len(key) < 8 and select.select([self._input], [], [], 0.05)[0]:
                key += os.read(self._input, 1)
                if (key[-1:].isalpha() and key[-1:] != b"O") or key.endswith(b"~"):
                    break
        return key.decode("ascii", "replace")

    # -- drawing ---------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        tty.setcbreak(self._input)
        self._redraw()

    def _redraw(self) -> None:
        """Draw for a screen of another size; a signal may come in the middle of drawing, which is then done once more."""
        if self._drawing:
            self._stale = True
        else:
            self._draw()

    def _draw(self) -> None:
        self._drawing = self._stale = True
        while self._stale:
            self._stale = False
            self._draw_once()
        self._drawing = False

    def _draw_once(self) -> None:
        from rich.rule import Rule
        from rich.text import Text

        lines, height = self._lines(), self._height()
        pages = self._pages()
        self.page = min(self.page, pages - 1)
        self.console.clear()
        self.console.print(Rule(Text(self._head(), style="bold"), align="left"))
        shown = lines[self.page * height : (self.page + 1) * height]
        for line in shown:
            self.console.print(line, no_wrap=True, overflow="crop")
        for _ in range(height - len(shown)):
            self.console.print()
        left = len(lines) - (self.page + 1) * height
        paging = f"page {self.page + 1} of {pages}" + (f", {left} more lines" if left > 0 else ", the end")
        foot = [paging, PAGING] if pages > 1 else []
        foot += [f"note: {self.note}"] if self.note else []
        self.console.print(Rule(Text("  ".join(foot)), align="right"))
        keys = Text(self.told or self._keys(), style="bold" if self.told else "")
        self.console.print(keys, no_wrap=True, overflow="ellipsis")

    def _keys(self) -> str:
        if self.session.current is None:
            return DONE_KEYS
        return KEYS if len(KEYS) <= self.console.width else SHORT_KEYS

    def _head(self) -> str:
        session = self.session
        parts = [f"{session.labelled} of {session.count} labelled by {clean(session.labeller)}"]
        parts += [f"{session.skipped} skipped"] if session.skipped else []
        parts += [f"last: {session.last}"] if session.last else []
        return " · ".join(parts)

    def _height(self) -> int:
        return max(self.console.height - FRAME_LINES, 3)

    def _pages(self) -> int:
        return max(1, -(-len(self._lines()) // self._height()))

    def _lines(self) -> list[Text]:
        """Return the pair as lines that fit the screen's width."""
        from rich.text import Text

        pair = self.session.current
        if pair is None:
            return _wrap(self.console, self._farewell())
        parts = [(Text("INSTRUCTION", style="bold cyan"), pair.instruction)]
        parts.append((Text("RESPONSE", style="bold cyan"), pair.response))
        if self.show_scores:
            scores = [f"{name} {score(value)}" for name, value in sorted(pair.scores.items())]
            told = [*scores, self.session.stratum(), pair.header_path, pair.source_uri]
            parts.append((Text("SCORES", style="bold cyan"), "\n".join(filter(None, told))))
        lines: list[Text] = []
        for heading, text in parts:
            lines += [heading, *_wrap(self.console, text), Text("")]
        return lines[:-1]

    def _farewell(self) -> str:
        session = self.session
        more = (
            f"--count {session.count + 50} goes on." if session.labelled >= session.count else "No candidate is left."
        )
        return f"Done: {session.labelled} labelled by {session.labeller}, kept in {session.path}. {more}"

    # -- the terminal ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """Take keys one by one and unseen; put everything back at the end, however it comes."""
        self._before = termios.tcgetattr(self._input)
        changed = signal.signal(signal.SIGWINCH, lambda *_: self._redraw())
        resumed = signal.signal(signal.SIGCONT, lambda *_: self._resume())  # after Ctrl-Z the shell set its own mode
        try:
            tty.setcbreak(self._input)
            yield
        finally:
            signal.signal(signal.SIGWINCH, changed)
            signal.signal(signal.SIGCONT, resumed)
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)
            self.console.print()


def _wrap(console: Console, text: str) -> list[Text]:
    from rich.text import Text

    shown = clean(text).encode(console.encoding, "replace").decode(console.encoding)
    lines: list[Text] = []
    for paragraph in shown.strip("\n").split("\n"):
        style = "bold" if _HEADER.match(paragraph) else ""
        wrapped = Text(paragraph.rstrip(), style=style).wrap(console, console.width, overflow="fold")
        lines += list(wrapped) or [Text("")]
    return lines
