"""Duplicates of a whole corpus, exact and near, within bounded memory. In: texts, in any order. Out: for each row, who stands for it.

Three steps. `sign` turns texts into digests and signatures; it is pure, so that any process may do it. A `Ledger` appends
them to files, a column each, by row position (ids may repeat). `find_duplicates` reads one column at a time:

1. Rows of one digest are one text, and the best row stands for it. Best is the longest text; among equally long, the one with the
   smallest hash of the whole row. So it does not matter in which order rows came.
2. Rows left that share a band of their signatures are compared by the whole signature, best row first. Each pair that reaches the
   threshold is kept, the others are forgotten.
3. From the best row to the worst: a row is dropped when one of its pairs is with a better row that stays; otherwise it stays.
   So chains do no harm (of A like B like C, with A unlike C, both A and C stay), and each dropped row is like the one named for it.

Memory: 17 bytes a row in files mapped into memory, about 50 bytes a near pair in each band it shares, and a fixed part: columns are
sorted in slices of keys of about `SLICE_ROWS` rows, and a row is compared within a band with at most `MAX_LEADERS` rows that are
unlike each other, which also bounds the time when a million rows share one band. Disk: about 640 bytes a row, 610 MiB per million.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from humpback.corpus.dedup import normalise_bytes, text_digest
from humpback.corpus.minhash import BANDS, NGRAM, PERMUTATIONS, band_keys, equal_numbers, signature
from humpback.corpus.ngrams import UInts, find_words, hash_ngrams
from humpback.store.shards import storage_errors

__all__ = ["Fates", "Ledger", "Signed", "Standin", "find_duplicates", "rank", "sign"]

SLICE_ROWS = 4_000_000
READ_ROWS = 65_536
PAIRS = 8_192
"""Pairs compared at a time."""
MAX_LEADERS = 64
LENGTH_BITS = 24

Rows = NDArray[np.int64]


class Signed(NamedTuple):
    """What is remembered of n texts."""

    digests: UInts
    """uint64[n, 2]: equal where the normalised texts are."""
    signatures: NDArray[np.uint32]
    """uint32[n, 112], or uint32[n, 0] when only exact duplicates are asked for."""


class Standin(NamedTuple):
    """The row that stays for a dropped one."""

    name: bytes
    """As it was given to the ledger."""
    similarity: float | None
    """Estimated Jaccard similarity; None when the normalised texts are equal."""


def sign(texts: Sequence[str], *, near: bool) -> Signed:
    """Return the digests of the texts and, for near duplicates, their signatures."""
    digests = bytearray()
    signatures = np.empty((len(texts), PERMUTATIONS if near else 0), dtype=np.uint32)
    for row, text in enumerate(texts):
        plain = normalise_bytes(text)
        digests += text_digest(plain)
        if near:
            signatures[row] = signature(hash_ngrams(find_words(plain), NGRAM))
    return Signed(np.frombuffer(bytes(digests), dtype=np.uint64).reshape(-1, 2), signatures)


def rank(length: int, row_hash: int) -> int:
    """Return a row's place among its duplicates, the smallest stays: 24 bits of length, then 40 bits of a hash of the row."""
    most = (1 << LENGTH_BITS) - 1
    return ((most - min(length, most)) << (64 - LENGTH_BITS)) | (row_hash >> LENGTH_BITS)


class Ledger:
    """The columns of all rows, appended to files of a folder that is there and empty."""

    def __init__(self, folder: Path, *, near: bool) -> None:
        self.folder, self.near, self.rows = folder, near, 0
        self._names_end = 0
        names = ["digests", "ranks", "names", "name_ends"]
        names += ["signatures", *(f"band-{band:02d}" for band in range(BANDS))] if near else []
        with storage_errors(folder):
            self._files: dict[str, BinaryIO] = {name: (folder / name).open("wb") for name in names}

    def append(self, signed: Signed, ranks: Sequence[int] | UInts, names: Sequence[bytes]) -> None:
        """Add rows; a name is whatever tells a user which row it is."""
        ends = np.cumsum([len(name) for name in names], dtype=np.int64) + self._names_end
        columns: dict[str, NDArray[np.generic]] = {
            "digests": signed.digests,
            "ranks": np.array(ranks, dtype=np.uint64),
            "name_ends": ends,
        }
        if self.near:
            keys = band_keys(signed.signatures)
            columns |= {f"band-{band:02d}": keys[:, band] for band in range(BANDS)}
            columns["signatures"] = signed.signatures
        with storage_errors(self.folder):
            for column, values in columns.items():
                self._files[column].write(values.tobytes())
            self._files["names"].write(b"".join(names))
        self.rows += len(names)
        self._names_end = int(ends[-1])

    def close(self) -> None:
        """Write out what is still in memory; no row can be added any more."""
        with storage_errors(self.folder):
            for file in self._files.values():
                file.close()

    def column(self, name: str, width: int = 1) -> Iterator[tuple[int, UInts]]:
        """Yield pieces of a column of uint64[rows, width], each with the position of its first row."""
        with (self.folder / name).open("rb") as file:
            for start in range(0, self.rows, READ_ROWS):
                count = min(READ_ROWS, self.rows - start)
                yield start, np.fromfile(file, dtype=np.uint64, count=count * width).reshape(count, width)

    def signatures(self, rows: Rows) -> NDArray[np.uint32]:
        """Return the signatures of some rows. Read, not mapped: pages of a map would count as the process's memory."""
        size = PERMUTATIONS * 4
        with (self.folder / "signatures").open("rb") as file:
            found = b"".join(os.pread(file.fileno(), size, row * size) for row in rows.tolist())
        return np.frombuffer(found, dtype=np.uint32).reshape(-1, PERMUTATIONS)

    def name(self, row: int) -> bytes:
        with (self.folder / "name_ends").open("rb") as ends, (self.folder / "names").open("rb") as names:
            start = int.from_bytes(os.pread(ends.fileno(), 8, 8 * (row - 1)), sys.byteorder) if row else 0
            end = int.from_bytes(os.pread(ends.fileno(), 8, 8 * row), sys.byteorder)
            return os.pread(names.fileno(), end - start, start)


class Fates:
    """For each row, the row that stays for it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.keeper: Rows = _mapped(ledger.folder / "keeper", np.dtype(np.int64), ledger.rows, fill=b"\xff")
        """-1 for a row that stays."""
        self.equal: NDArray[np.uint8] = _mapped(ledger.folder / "equal", np.dtype(np.uint8), ledger.rows, fill=b"\0")
        """In how many numbers a near duplicate's signature equals its keeper's; 0 for other rows."""

    def stays(self, start: int, end: int) -> NDArray[np.bool_]:
        """Return which rows of a range stay."""
        stays: NDArray[np.bool_] = self.keeper[start:end] < 0
        return stays

    def standin(self, row: int) -> Standin | None:
        """Return the row that stays for this one, or None when it stays itself."""
        keeper, equal = int(self.keeper[row]), int(self.equal[row])
        if keeper < 0:
            return None
        if self.keeper[keeper] >= 0:  # the best row of its text was itself dropped, for a text that is near to both
            keeper, equal = int(self.keeper[keeper]), int(self.equal[keeper])
        return Standin(self._ledger.name(keeper), equal / PERMUTATIONS if equal else None)


def _mapped(path: Path, kind: np.dtype[Any], rows: int, *, fill: bytes) -> NDArray[Any]:
    """Return a new file as an array. It is written first: a map of a file with holes ends the process when the disk is full."""
    with storage_errors(path), path.open("wb") as file:
        for start in range(0, rows, READ_ROWS):
            file.write(fill * (kind.itemsize * min(READ_ROWS, rows - start)))
    return np.memmap(path, dtype=kind, mode="r+", shape=rows) if rows else np.empty(0, dtype=kind)


def find_duplicates(ledger: Ledger, near: float | None) -> Fates:
    """Return what becomes of each row of a closed ledger; near is the least similarity of near duplicates."""
    fates = Fates(ledger)
    if not ledger.rows:
        return fates
    ranks: UInts = np.memmap(ledger.folder / "ranks", dtype=np.uint64, mode="r", shape=ledger.rows)
    for group in _groups(ledger, "digests", 2, ranks, fates):
        others = ~group.first
        fates.keeper[group.rows[others]] = group.rows[group.start][others]
    if near is not None:
        pairs = [
            pair
            for band in range(BANDS)
            for group in _groups(ledger, f"band-{band:02d}", 1, ranks, fates)
            for pair in _near_pairs(group, ledger.signatures, near)
        ]
        _drop_near(pairs, ranks, fates)
    return fates


class _Groups(NamedTuple):
    """Rows that share a key with others: group after group, the best row of each group first."""

    rows: Rows
    start: NDArray[np.intp]
    """For each row, where in `rows` its group begins."""

    @property
    def first(self) -> NDArray[np.bool_]:
        first: NDArray[np.bool_] = self.start == np.arange(len(self.start))
        return first


def _groups(ledger: Ledger, name: str, width: int, ranks: UInts, fates: Fates) -> Iterator[_Groups]:
    """Yield the groups of equal keys in a column among the rows that stay; keys in slices, so that memory is bounded."""
    slices = -(-ledger.rows // SLICE_ROWS)
    step = -(-(1 << 64) // slices)
    for number in range(slices):
        low, high = number * step, min((number + 1) * step, 1 << 64) - 1
        keys, rows = [], []
        for start, piece in ledger.column(name, width):
            chosen = fates.stays(start, start + len(piece)) & (piece[:, 0] >= low) & (piece[:, 0] <= high)
            keys.append(piece[chosen])
            rows.append(np.flatnonzero(chosen) + start)
        yield _grouped(np.concatenate(keys), np.concatenate(rows), ranks)


def _grouped(keys: UInts, rows: Rows, ranks: UInts) -> _Groups:
    by_key = np.lexsort(keys.T[::-1])
    same = np.all(keys[by_key[1:]] == keys[by_key[:-1]], axis=1)
    shared = np.zeros(len(keys) + 1, dtype=bool)
    shared[1:-1] = same
    number = np.cumsum(~shared[:-1])
    chosen = shared[:-1] | shared[1:]
    rows, number = rows[by_key[chosen]], number[chosen]
    order = np.lexsort((rows, ranks[rows], number))
    rows, number = rows[order], number[order]
    return _Groups(rows, np.searchsorted(number, number))


class _Pairs(NamedTuple):
    """Pairs of near duplicates."""

    better: Rows
    worse: Rows
    equal: NDArray[np.uint8]


def _near_pairs(group: _Groups, signatures: Callable[[Rows], NDArray[np.uint32]], near: float) -> Iterator[_Pairs]:
    """Yield the pairs of a leader and a row like it: the best row of each group, then the best of those unlike it, and so on."""
    rows, start = group
    for _ in range(MAX_LEADERS):
        members = np.flatnonzero(start != np.arange(len(start)))
        if not len(members):
            return
        like = np.zeros(len(rows), dtype=bool)
        for first in range(0, len(members), PAIRS):
            part = members[first : first + PAIRS]
            better, worse = rows[start[part]], rows[part]
            unique, place = np.unique(better, return_inverse=True)
            equal = equal_numbers(signatures(unique)[place], signatures(worse))
            found = equal >= near * PERMUTATIONS
            like[part[found]] = True
            yield _Pairs(better[found], worse[found], equal[found].astype(np.uint8))
        left = ~like
        left[start] = False  # the leaders have been compared with all
        number, rows = start[left], rows[left]
        start = np.searchsorted(number, number)


def _drop_near(pairs: Sequence[_Pairs], ranks: UInts, fates: Fates) -> None:
    """Drop, from the best row to the worst, each row that is like a better one that stays."""
    if not pairs:
        return
    better, worse, equal = (np.concatenate(column) for column in zip(*pairs, strict=True))
    order = np.lexsort((better, ranks[better], worse, ranks[worse]))
    keeper = fates.keeper
    for first in range(0, len(order), READ_ROWS):
        part = order[first : first + READ_ROWS]
        for one, other, count in zip(better[part].tolist(), worse[part].tolist(), equal[part].tolist(), strict=True):
            if keeper[other] < 0 and keeper[one] < 0:
                keeper[other], fates.equal[other] = one, count
