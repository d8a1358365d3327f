"""One reading of a set of pairs: what is counted over every row, and a sample of them. In: rows, once. Out: a `Tally`.

About 24 bytes are held per row (two lengths and a digest), beside the sample and the names of the sources. The sample is the
different rows of the smallest hashes of seed and text: it does not depend on their order, equal pairs are in it once, and its
beginning, of any length, is a sample too.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from humpback.corpus.dedup import normalise_bytes, text_digest
from humpback.corpus.overlap import Overlap
from humpback.records import content_id

__all__ = ["Described", "Reference", "Row", "Tally"]

HELD_CHARS = 3000
"""Of each text of a row that the sample holds."""
SOURCES = 100_000
"""Different sources that are counted apart; later ones count as `others`."""
EXAMPLES = 3


class Row(NamedTuple):
    """One pair, and where it is from."""

    instruction: str
    response: str
    source: str


class Reference(NamedTuple):
    """Instructions that a set should not repeat."""

    name: str
    overlap: Overlap
    texts: Sequence[str] = ()
    """To find the nearest among; empty where only equal texts and 13-grams are looked for."""


class Described(NamedTuple):
    """A set to describe."""

    name: str
    rows: Iterable[Row]
    own: str = ""
    """Name of the reference that this set is itself."""


class Tally:
    """What one reading of a set's rows keeps of them."""

    def __init__(self, given: Described, references: Sequence[Reference], *, size: int, seed: int) -> None:
        self.instructions, self.responses, self._digests = array("I"), array("I"), array("Q")
        self.sources: Counter[str] = Counter()
        self.shared: dict[str, list[str]] = {r.name: [] for r in references}
        self.shares: Counter[str] = Counter()
        self._size, self._salt = size, f"statistics {seed}"
        self._lowest: list[tuple[int, int, Row]] = []
        self._ranks: set[int] = set()
        others = [reference for reference in references if reference.name != given.own]
        for number, row in enumerate(given.rows):
            self._add(number, row, others)

    def _add(self, number: int, row: Row, references: Sequence[Reference]) -> None:
        self.instructions.append(len(row.instruction))
        self.responses.append(len(row.response))
        self._digests.append(int.from_bytes(text_digest(normalise_bytes(row.instruction))[:8], "little"))
        source = _source_of(row.source)
        self.sources[source if source in self.sources or len(self.sources) < SOURCES else "others"] += 1
        for reference in references:
            if found := reference.overlap.find_instruction(row.instruction):
                self.shares[reference.name] += 1
                if len(self.shared[reference.name]) < EXAMPLES:
                    self.shared[reference.name].append(f"its instruction {found}")
        rank = -int(content_id(self._salt, row.instruction, row.response), 16)
        if rank not in self._ranks and (len(self._lowest) < self._size or rank > self._lowest[0][0]):
            if len(self._lowest) == self._size:
                self._ranks.remove(heapq.heappop(self._lowest)[0])
            held = Row(row.instruction[:HELD_CHARS], row.response[:HELD_CHARS], "")
            heapq.heappush(self._lowest, (rank, -number, held))
            self._ranks.add(rank)

    @property
    def rows(self) -> int:
        return len(self.instructions)

    def sample(self) -> list[Row]:
        """Return the sample; its beginning, of any length, is a sample too."""
        return [row for _, _, row in sorted(self._lowest, reverse=True)]

    def repeated(self) -> int:
        """Return how many rows have an instruction that an earlier row has, apart from case and punctuation."""
        return self.rows - len(np.unique(np.frombuffer(self._digests, dtype=np.uint64))) if self.rows else 0


def _source_of(address: str) -> str:
    """Return the host of an address, or the file of a place in one: `a.jsonl.gz#L3` is of `a.jsonl.gz`."""
    if not address:
        return "unstated"
    try:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.netloc:
            return (parts.hostname or parts.netloc)[:100]
    except ValueError:  # an address that is none: [ in the host
        pass
    return address.split("#", 1)[0].split("!", 1)[0].split("@", 1)[0].rsplit("/", 1)[-1][:100] or "unstated"
