"""Rows laid out as one sequence of tokens in which nothing stands twice. In: rows of token ids. Out: packs.

Rows that begin alike share those tokens: a pack is the tree of its rows, written out segment by segment. A segment attends to
the segments before it on its way from the root and to itself; its positions count from the start of its rows. So a document
with several instructions, one prompt with many continuations, and equal rows are all computed once, and nothing is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TypeAlias

__all__ = ["Block", "Pack", "Row", "Segment", "build_pack", "count_common", "plan_packs"]

Row: TypeAlias = tuple[int, ...]
MIN_SHARED = 16
"""Tokens that two rows must have in common before it pays to attend to them apart."""
BLOCK = 128
"""Short segments with the same way from the root attend in one call, up to so many tokens of them together."""
LONG = 2048
"""Most tokens that attend in one call where that takes a mask: one of 32,768 tokens on as many is a gigabyte."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive tokens of a row or of several."""

    start: int
    """Place of its first token in the pack."""
    length: int
    depth: int
    """Position of its first token in its rows."""
    way: tuple[int, ...]
    """The segments before it, from the root."""

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, kw_only=True)
class Block:
    """Neighbours in the pack that have the same way from the root, and attend in one call."""

    start: int
    lengths: tuple[int, ...]
    """Of its segments."""
    way: tuple[tuple[int, int], ...]
    """Start and end in the pack of each segment on the way."""

    @property
    def end(self) -> int:
        return self.start + sum(self.lengths)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """The tree of some rows. The first `skipped` tokens of every row are not in it: their keys and values are at hand."""

    token_ids: list[int]
    positions: list[int]
    segments: list[Segment]
    ways: list[tuple[int, ...]]
    """Per row, its segments from the root."""
    skipped: int

    def places(self, row: int, first: int, last: int) -> list[int]:
        """Return where the row's tokens at positions `first` to `last` (excluded) stand in the pack."""
        found: list[int] = []
        for segment in (self.segments[i] for i in self.ways[row]):
            low, high = max(first, segment.depth), min(last, segment.depth + segment.length)
            found.extend(range(segment.start + low - segment.depth, segment.start + high - segment.depth))
        return found

    def blocks(self) -> list[Block]:
        """Return the pack cut into calls of attention."""
        blocks: list[Block] = []
        for way, siblings in groupby(self.segments, key=lambda segment: segment.way):
            bounds = tuple((self.segments[i].start, self.segments[i].end) for i in way)
            for segment in siblings:
                last = blocks[-1] if blocks else None
                if last and last.way == bounds and last.end == segment.start and segment.end - last.start <= BLOCK:
                    blocks[-1] = Block(start=last.start, lengths=(*last.lengths, segment.length), way=bounds)
                else:
                    blocks.extend(self._pieces(segment, bounds))
        return blocks

    def _pieces(self, segment: Segment, way: tuple[tuple[int, int], ...]) -> list[Block]:
        """Return a segment as one block, or, where it is long and takes a mask, as several, each after those before it."""
        size = LONG if way or self.skipped else segment.length
        return [
            Block(
                start=start,
                lengths=(min(size, segment.end - start),),
                way=(*way, (segment.start, start)) if start > segment.start else way,
            )
            for start in range(segment.start, segment.end, size)
        ]


def count_common(one: Row, other: Row) -> int:
    """Return how many tokens two rows have in common at their start."""
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    low, high = (
        0,
        limit - 1,
    )  # they agree up to `low` and differ before `high` + 1; slices compare far faster than a loop
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def plan_packs(
    rows: Sequence[Row], *, token_budget: int, skipped: int = 0, heads: Sequence[int] = (), head_budget: int = 0
) -> list[list[int]]:
    """Group row indices into packs of at most `token_budget` tokens, rows that begin alike together.

    `heads` are the rows' positions that need logits, at most `head_budget` of them in a pack. A single row that exceeds a
    budget gets a pack of its own.
    """
    packs: list[list[int]] = []
    tokens = logits = 0
    previous: Row = ()
    for index in sorted(range(len(rows)), key=lambda i: rows[i]):
        row, head = rows[index], heads[index] if heads else 0
        added = len(row) - max(skipped, count_common(previous, row))
        if packs and tokens + added <= token_budget and (not heads or logits + head <= head_budget):
            packs[-1].append(index)
            tokens, logits = tokens + added, logits + head
        else:
            packs.append([index])
            tokens, logits = len(row) - skipped, head
        previous = row
    return packs


def build_pack(rows: Sequence[Row], *, skipped: int = 0) -> Pack:
    """Lay out rows, which all agree in their first `skipped` tokens, as the tree they make."""
    pack = Pack(token_ids=[], positions=[], segments=[], ways=[()] * len(rows), skipped=skipped)
    _grow(pack, rows, sorted(range(len(rows)), key=lambda i: rows[i]), skipped, ())
    return pack


def _grow(pack: Pack, rows: Sequence[Row], order: Sequence[int], depth: int, way: tuple[int, ...]) -> None:
    """Add what the rows in `order`, sorted and equal up to `depth`, have after it."""
    inner: list[tuple[list[int], int, int]] = []
    for group in _split(rows, order, depth + MIN_SHARED):
        common = count_common(rows[group[0]], rows[group[-1]])  # of sorted rows: of all of them
        number = len(pack.segments)
        ids = rows[group[0]][depth:common]
        pack.segments.append(Segment(start=len(pack.token_ids), length=len(ids), depth=depth, way=way))
        pack.token_ids.extend(ids)
        pack.positions.extend(range(depth, common))
        for row in group:
            pack.ways[row] = (*way, number)
        if longer := [row for row in group if len(rows[row]) > common]:
            inner.append((longer, common, number))
    for longer, common, number in inner:  # after all siblings, so that these are neighbours
        _grow(pack, rows, longer, common, (*way, number))


def _split(rows: Sequence[Row], order: Sequence[int], depth: int) -> list[list[int]]:
    """Group neighbours that agree up to `depth`, or are equal."""
    groups = [[order[0]]]
    for one, other in pairwise(order):
        if rows[one] == rows[other] or count_common(rows[one], rows[other]) >= depth:
            groups[-1].append(other)
        else:
            groups.append([other])
    return groups
