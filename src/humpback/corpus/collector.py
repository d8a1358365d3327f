"""Blocks out of running text: inline pieces go in, Markdown blocks come out.

In: pieces of text, and what begins and ends around them (the walk over the tree says so). Out: `Raw` blocks. A list's items, a data
table and code get their Markdown here; what is one thing for a reader becomes one block.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

from humpback.corpus.boilerplate import DROPPED_TAGS
from humpback.corpus.dropped import Dropped, ink
from humpback.corpus.maincontent import Box, Raw

__all__ = ["ANCHOR", "BREAK", "DEFINITION", "TERM", "TEXT", "Collector", "ListFrame", "TableFrame"]

TEXT, TERM, DEFINITION = range(3)
"""What a block is within a list: an item, or a term or a definition."""
BREAK = "\ue000"
_MAX_PSEUDO = 100
_MAX_CELL = 300
_DROPPED = ",".join(sorted(DROPPED_TAGS))
_TICKS = re.compile("```+")
_CAPTION = re.compile(
    r"(?:fig(?:ure|\.)?|tab(?:le|elle|\.)?|abb(?:ildung|\.)?|example|listing|photo|note|tip)\b[\s.:]*(?:\d|$)",
    re.IGNORECASE,
)
ANCHOR = re.compile(r"\s*(?:¶|#|🔗|§|\[(?:edit|bearbeiten|modifier|hide|show)\])+\s*$")


class Collector:
    """Collects inline text and ends it as blocks."""

    def __init__(self) -> None:
        self.blocks: list[Raw] = []
        self.boxes: list[Box] = [Box(parent=-1, tag="body")]
        self.dropped: list[Dropped] = []
        """What became no block."""
        self._box = 0
        self._buffer: list[str] = []
        self._link_chars = self._bold_chars = self._font_chars = 0
        self._links = self._bolds = self._quotes = 0
        self._fonts: list[int] = []
        self._font_level = 0
        self._lists: list[ListFrame] = []
        self._tables: list[TableFrame] = []
        self._groups = 0
        self._marker = ""
        self._marks = 0
        """Characters of the buffer that are Markdown's and not the page's."""
        self._kind = TEXT
        self.level = 0

    def _measure_inline(self, text: str) -> None:
        chars = len(text.strip())
        if self._links:
            self._link_chars += chars
        if self._bolds:
            self._bold_chars += chars
        if self._fonts and (level := self._fonts[-1]):
            self._font_chars += chars
            self._font_level = level

    def _flush(self) -> None:
        """End the block of text that is being collected, if there is any."""
        if not self._buffer:
            return
        text = _collapse(self._buffer)
        self._buffer.clear()
        if text[-1:] == "\u00b6":  # the link of a definition to itself
            text = text[:-1].rstrip()
            self._lose("mark of a link to itself", "\u00b6", 1)
        links, bold, fonts = self._link_chars, self._bold_chars, self._font_chars
        marks, self._marks = self._marks, 0
        self._link_chars = self._bold_chars = self._font_chars = 0
        if not text or text == "``":
            return
        ink = len(text) - text.count(" ") if bold or fonts else 0
        level = 0
        if ink and len(text) <= _MAX_PSEUDO and not self._lists and not self._tables and text[-1] not in ".!?,;":
            level = self._font_level if fonts >= 0.9 * ink else 6 if bold >= 0.9 * ink else 0
            if level and _CAPTION.match(text):
                level = 0
        raw = Raw(text=text, level=level, pseudo=level > 0, links=links, box=self._box, kind="text")
        raw.marks = marks
        if self._quotes:
            raw.prefix = "> "
        if self._lists:
            self._as_item(raw)
        self.blocks.append(raw)

    def _as_item(self, raw: Raw) -> None:
        raw.kind, raw.group = "item", self._groups
        indent = "  " * min(len(self._lists) - 1, 8)
        if self._kind == DEFINITION:
            raw.prefix = f"{indent}: "
        elif self._kind == TERM:
            raw.prefix = indent
        else:
            raw.prefix = f"{indent}{self._marker or '  '}"
            self._marker = ""

    def _begin_item(self) -> None:
        if not self._lists:
            self._marker = ""
            return
        current = self._lists[-1]
        current.items += 1
        self._marker = f"{current.items}. " if current.ordered else "- "

    def _end_header(self) -> None:
        text = _collapse(self._buffer)
        self._buffer.clear()
        if anchor := ANCHOR.search(text):
            text = text[: anchor.start()]
            self._lose("mark of a link to itself", anchor[0], ink(anchor[0]))
        if "`" in text:
            if own := text.count("`") - self._marks:
                self._lose("mark of code in a header", "`" * own, own)
            text = text.replace("`", "")
        text, self._marks = text.replace("\n", " "), 0
        links, self._link_chars, self._bold_chars, self._font_chars = self._link_chars, 0, 0, 0
        self._marker = ""
        if text:
            self.blocks.append(Raw(text=text, level=self.level, links=links, box=self._box, kind="header"))

    def _pre(self, node: LexborNode) -> None:
        self._flush()
        if node.css_first(_DROPPED):  # a button "Copy", for the most part
            before, words = ink(node.text()), [part.text(separator=" ") for part in node.css(_DROPPED)]
            node.strip_tags(list(DROPPED_TAGS), recursive=True)
            self._lose("control in code", " ".join(" ".join(words).split()), before - ink(node.text()))
        text = node.text().strip("\n").rstrip()
        if text:
            fence = "`" * max([3, *(len(run) + 1 for run in _TICKS.findall(text))])
            links = sum(len(link.text()) for link in node.css("a")) if "http" in text else 0
            block = Raw(text=f"{fence}\n{text}\n{fence}", level=0, links=links, box=self._box, kind="code")
            block.marks = 2 * len(fence)
            self.blocks.append(block)

    def _end_table(self, table: TableFrame) -> None:
        """Turn the blocks of a data table into one; a table that only lays out the page leaves them as they are."""
        rows = [row for row in table.rows if row]
        if len(rows) < 2 or max(map(len, rows)) < 2:
            return
        cells = [self.blocks[start:end] for row in rows for start, end in row]
        if any(len(cell) > 3 or sum(len(raw.text) for raw in cell) > _MAX_CELL for cell in cells):
            return
        if any(raw.level and not raw.pseudo for cell in cells for raw in cell):
            return
        if sum(map(bool, cells)) < 0.4 * len(cells):
            return
        inside = [raw for cell in cells for raw in cell]
        held = {id(raw) for raw in inside}
        loose = [raw for raw in self.blocks[table.first :] if id(raw) not in held]  # its caption
        lines = [_row([self.blocks[start:end] for start, end in row]) for row in rows]
        width = max(map(len, rows))
        lines.insert(1, f"|{' --- |' * width}")
        links = sum(raw.links for raw in inside)
        self.blocks[table.first :] = loose
        text = "\n".join(lines)
        block = Raw(text=text, level=0, links=links, box=self._box, kind="table")
        block.marks = ink(text) - sum(ink(raw.text) - raw.marks for raw in inside)
        self.blocks.append(block)

    def _lose(self, rule: str, text: str, chars: int) -> None:
        if chars > 0:
            self.dropped.append(Dropped(rule, "block", text, chars, is_prose=False))


class ListFrame:
    """A list that is open."""

    __slots__ = ("items", "ordered", "outer")

    def __init__(self, ordered: bool, outer: int) -> None:
        self.ordered = ordered
        self.outer = outer
        """The kind of what the list stands in."""
        self.items = 0


class TableFrame:
    """A table that is open: its rows, each cell as a range of blocks."""

    __slots__ = ("first", "rows", "start")

    def __init__(self, first: int) -> None:
        self.first = self.start = first
        self.rows: list[list[tuple[int, int]]] = []


def _row(cells: list[list[Raw]]) -> str:
    texts = (" ".join(raw.text for raw in cell).replace("\n", " ").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"


def _collapse(parts: list[str]) -> str:
    """Return inline text with white space as a browser shows it: one space, and the lines that `<br>` makes."""
    text = " ".join((parts[0] if len(parts) == 1 else "".join(parts)).split())
    if BREAK not in text:
        return text
    return "\n".join(line for part in text.split(BREAK) if (line := part.strip()))
