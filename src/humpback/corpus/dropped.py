"""What of a page is not its main content: each part with the rule that dropped it, so that no text goes without an account.

In: the elements and blocks that the rules drop. Out: `Dropped`. Characters are counted without white space, because a page's own
white space says nothing: those of the parts dropped and those of the main content add up to the page's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from humpback.corpus.maincontent import Raw, Refused

__all__ = [
    "MIN_PROSE",
    "PAGE_CHARS",
    "PARTS",
    "PART_CHARS",
    "Dropped",
    "block_chars",
    "count_dropped",
    "drop_blocks",
    "dropped_part",
    "ink",
]

MIN_PROSE = 200
"""Characters from which a dropped part may be prose: it then has a row of its own."""
_MAX_LINKS = 0.5
_SENTENCE_ENDS = (". ", ".\n", "! ", "? ", "\u2026 ", '." ', ".\u201d ", "\u3002", "\uff01", "\uff1f")

PAGE_CHARS = "page characters"
"""Tally of the characters of pages: main content and boilerplate."""
PARTS = "dropped parts "
"""Beginning of the tallies of parts dropped, by rule."""
PART_CHARS = "dropped characters "
"""Beginning of the tallies of their characters, by rule."""


class Dropped(NamedTuple):
    """A part of the page that is not its main content."""

    rule: str
    where: str
    """The element, as `tag#id.class`; `block` for one or several blocks of text in a row."""
    text: str
    chars: int
    """Its characters that are no white space."""
    is_prose: bool
    """Whether it is long, mostly no links, and holds two sentences or more: somebody may miss it."""


def ink(text: str) -> int:
    """Return how many characters of a text are no white space."""
    return len("".join(text.split()))


def dropped_part(rule: str, where: str, text: str, chars: int, links: Callable[[], int]) -> Dropped:
    """Return a part; its links are counted only where it would be prose but for them."""
    prose = chars >= MIN_PROSE and sum(map(text.count, _SENTENCE_ENDS)) > 1 and links() <= _MAX_LINKS * chars
    return Dropped(rule, where, text, chars, prose)


def drop_blocks(refused: Iterable[Refused]) -> list[Dropped]:
    """Return refused blocks as parts: those that follow one another by one rule are one part."""
    parts: list[list[Refused]] = []
    for one in sorted(refused, key=lambda one: one.place):
        last = parts[-1][-1] if parts else None
        if last and (last.rule, last.place + 1) == (one.rule, one.place):
            parts[-1].append(one)
        else:
            parts.append([one])
    return [_joined([one.raw for one in part], part[0].rule) for part in parts]


def _joined(raws: list[Raw], rule: str) -> Dropped:
    text, chars = "\n\n".join(raw.text for raw in raws), sum(map(block_chars, raws))
    return dropped_part(rule, "block", text, chars, lambda: sum(raw.links for raw in raws))


def block_chars(raw: Raw) -> int:
    """Return how many of a block's characters are the page's own and no white space."""
    text = raw.text
    # But for code, which a table may hold, white space has been collapsed: to count it is a third of the work.
    spaces = len(text) - ink(text) if raw.kind in ("code", "table") else text.count(" ") + text.count("\n")
    return len(text) - spaces - raw.marks


def count_dropped(tally: Counter[str], main_chars: int, parts: Iterable[Dropped]) -> None:
    """Add a page's characters to the tally: all, and by rule those of the parts dropped."""
    tally[PAGE_CHARS] += main_chars
    for part in parts:
        tally[PARTS + part.rule] += 1
        tally[PART_CHARS + part.rule] += part.chars
        tally[PAGE_CHARS] += part.chars
