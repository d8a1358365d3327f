"""The tree of a document's headers, and which of its subtrees are segments: the same for Markdown, plain text, HTML and EPUB.

In: headers, each with its level and its place among the document's units (lines, or blocks of a page). Out: `Piece`s in order,
never two that overlap. Of nested candidates the largest that fits wins: a header's whole subtree, else the text right below it
and then each lower header's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

__all__ = ["NO_HEADER", "Header", "Joined", "Piece", "Section", "Units", "choose", "find_sections", "path_of"]

NO_HEADER = "—"
"""How a header without words is written in a header path."""


class Header(NamedTuple):
    """A header and where it stands."""

    level: int
    title: str
    first: int
    """First unit of the header itself."""
    body: int
    """First unit after the header."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A header, or the document itself, with the extent of its subtree."""

    title: str
    parent: int
    body: int
    own_end: int
    """Unit where the first lower header, or the end, begins."""
    end: int
    """Unit after the last lower header's text."""
    following: int
    """Index of the next section outside this one."""
    rooted: bool
    """Whether the whole of it, lower headers included, may be one segment."""


class Joined(NamedTuple):
    """A range of units as text."""

    text: str
    offset: int


class Units(Protocol):
    """What a document is made of: its lines, or the blocks of a page."""

    def at_least(self, first: int, last: int) -> int:
        """Return a lower bound of the length of `join`."""
        ...

    def join(self, first: int, last: int) -> Joined:
        """Return the range as text, and its offset."""
        ...


class Piece(NamedTuple):
    """A part of the document that is to be a segment, if it is long enough and not too long."""

    section: int
    """Index of its section."""
    whole: bool
    """Whether it is the section's whole subtree, or the text above its first lower header."""
    text: str
    offset: int


def choose(units: Units, sections: Sequence[Section], *, max_chars: int) -> Iterator[Piece]:
    """Yield the largest subtrees of at most `max_chars`, and the text right below the headers above them."""
    index = 0
    while index < len(sections):
        section = sections[index]
        if section.rooted and units.at_least(section.body, section.end) <= max_chars:
            body = units.join(section.body, section.end)
            if len(body.text) <= max_chars:
                yield Piece(index, True, *body)
                index = section.following
                continue
        yield Piece(index, False, *units.join(section.body, section.own_end))
        index += 1


def find_sections(headers: Sequence[Header], title: str, start: int, count: int) -> list[Section]:
    """Return the document itself and its headers in order, each knowing its parent and where its subtree ends."""
    nodes = [Header(0, title, start, start), *headers]
    parents = [-1] * len(nodes)
    following = [len(nodes)] * len(nodes)
    open_nodes: list[int] = []
    for index, node in enumerate(nodes):
        while open_nodes and nodes[open_nodes[-1]].level >= node.level:
            following[open_nodes.pop()] = index
        parents[index] = open_nodes[-1] if open_nodes else -1
        open_nodes.append(index)

    def unit_of(index: int) -> int:
        return nodes[index].first if index < len(nodes) else count

    # The title is the header of a document with several top headers; above a single one it is only its other name.
    tops = parents.count(0)
    return [
        Section(
            title=node.title,
            parent=parents[index],
            body=node.body,
            own_end=unit_of(index + 1),
            end=unit_of(following[index]),
            following=following[index],
            rooted=index > 0 or tops == 0 or (tops > 1 and bool(title)),
        )
        for index, node in enumerate(nodes)
    ]


def path_of(sections: Sequence[Section], index: int) -> str:
    """Return the headers above and of a section, outermost first, joined by ` > `."""
    titles = []
    while index > 0:
        titles.append(sections[index].title)
        index = sections[index].parent
    title = sections[0].title
    if title and (not titles or titles[-1].casefold() != title.casefold()):
        titles.append(title)
    return " > ".join(reversed(titles))
