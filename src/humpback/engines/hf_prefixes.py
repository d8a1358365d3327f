"""Beginnings that many rows share, computed once for all calls. In: the rows of a call. Out: their prefix, its keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from humpback.engines.attending import KeysValues
from humpback.engines.base import EngineTotals
from humpback.engines.hf_model import Network
from humpback.engines.packs import Row, build_pack, count_common

__all__ = ["Prefixes"]

MIN_PREFIX = 16
"""A shared prefix shorter than this is not worth a pass of its own, in tokens."""
MAX_PREFIXES = 4


class Prefixes:
    """The keys and values of the prefixes used last, for one engine."""

    def __init__(self) -> None:
        self._kept: dict[Row, KeysValues] = {}
        self._previous: Row = ()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._kept)

    def share(self, rows: Sequence[Row]) -> Row:
        """Return the prefix whose keys and values all rows will use, () for none; a row keeps its last token."""
        if not rows:
            return ()
        # calls of a single row share with the call before them
        group = rows if len(rows) > 1 or not self._previous else [*rows, self._previous]
        self._previous = rows[-1]
        low, high = min(group), max(group)  # the two that differ first
        common = low[: min(count_common(low, high), min(map(len, group)) - 1)]
        known = self._known(common)
        # what only some rows share is shared within their pack; what two corruptions of one answer share does not pay here
        pays = (len(common) - len(known)) * len(group) > len(common) >= MIN_PREFIX
        return common if pays and len(group) > 1 else known

    def read(self, network: Network, prefix: Row, totals: EngineTotals) -> KeysValues | None:
        """Return the keys and values of a prefix, None of an empty one; what it adds to a known prefix is computed."""
        if not prefix:
            return None
        kept = self._kept.pop(prefix, None)
        if kept is None:
            known = self._known(prefix)
            before = self._kept.get(known)
            pack = build_pack([prefix], skipped=len(known))
            kept = network.read_pack(pack, [], before=before, keep=True).kept
            if before:
                both = zip(before, kept, strict=True)
                kept = [(torch.cat([k, key], 2), torch.cat([v, value], 2)) for (k, v), (key, value) in both]
            totals.tokens_in += len(pack.token_ids)
        self._kept[prefix] = kept  # at the end: the first one is the longest unused
        while len(self._kept) > MAX_PREFIXES:
            del self._kept[next(iter(self._kept))]
        return kept

    def clear(self) -> None:
        self._kept.clear()

    def _known(self, row: Row) -> Row:
        return max((p for p in self._kept if row[: len(p)] == p), key=len, default=())
