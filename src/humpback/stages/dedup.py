"""Dedup: of each text and what is nearly equal to it one stays, and a sample is drawn by content hash. Global over the corpus.

What stays does not depend on the order of the segments or of the work: `corpus/neardup.py` says which, and how memory is bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from humpback.corpus.neardup import Fates, Ledger, Signed, find_duplicates, rank, sign
from humpback.errors import StorageError
from humpback.records import Marked, MarkedSegment, Record, Rejected, Segment
from humpback.stages.rejecting import reject
from humpback.store.fingerprint import derive_seed
from humpback.store.shards import storage_errors

__all__ = ["dedup", "mark", "mark_segment"]

BATCH = 1024
Row = TypeVar("Row", bound=Record)


def dedup(
    segments: Callable[[], Iterable[Segment]],
    marked: Callable[[], Iterable[Marked | MarkedSegment]] | None = None,
    *,
    near: float | None,
    sample: int | None,
    random_seed: int,
    scratch: Path,
) -> Iterator[Segment | Rejected]:
    """Yield each segment, or why not; `segments` is called once, after `marked`, which gives the marks of the same segments.

    Without `marked` it is called twice, and gives the same each time.

    `near` is the least Jaccard similarity of near duplicates; None removes exact duplicates only. The folder `scratch` is the
    stage's own: what is in it is removed at the start, and the folder at the end.
    """
    with _emptied(scratch):
        draws = scratch / "draws"
        ledger = Ledger(scratch, near=near is not None)
        try:
            with contextlib.ExitStack() as opened:
                with storage_errors(draws):
                    draw_file = opened.enter_context(draws.open("wb"))
                for batch in _batches(marked() if marked else map(mark_segment, segments())):
                    signed, ranks = _unmark(batch, near=near is not None)
                    ledger.append(signed, ranks, [_name(row) for row in batch])
                    if sample is not None:
                        with storage_errors(draws):
                            draw_file.write(_draws(batch, random_seed).tobytes())
        finally:
            ledger.close()
        fates = find_duplicates(ledger, near)
        cutoff = None if sample is None else _cutoff(draws, ledger.rows, fates, sample)
        rows = 0
        for row, segment in enumerate(segments()):
            rows += 1
            if rows > ledger.rows:
                break
            yield _decide(segment, row, fates, sample, cutoff, random_seed)
        if rows != ledger.rows:
            raise StorageError(
                f"dedup read {ledger.rows} segments and then {'more' if rows > ledger.rows else rows}: "
                "its input changed meanwhile; run again with --rerun-from ingest"
            )


def _decide(
    segment: Segment, row: int, fates: Fates, sample: int | None, cutoff: int | None, random_seed: int
) -> Segment | Rejected:
    standin = fates.standin(row)
    if standin is not None:
        name = standin.name.decode("utf-8", "surrogatepass")
        if standin.similarity is None:
            return reject(segment, "duplicate", f"the same text as {name}, which stays")
        return reject(segment, "near_duplicate", f"like {name}, which stays: Jaccard about {standin.similarity:.2f}")
    if cutoff is not None and derive_seed(random_seed, "sample", segment.id) > cutoff:
        return reject(segment, "not_sampled", f"corpus.sample={sample}")
    return segment


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """Give an empty folder, and remove it with all that is in it at the end, also after an error."""
    with storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # it serves nothing any more, and an error on the way here tells more


def mark_segment(segment: Segment) -> MarkedSegment:
    """Return a segment with its marks; the work of them is most of what dedup costs."""
    return MarkedSegment(**vars(segment), marks=mark(segment))


def mark(segment: Segment) -> bytes:
    """Return a segment's digest (16 bytes), rank (8) and signature (448). They depend on the segment alone."""
    signed = sign([segment.text], near=True)
    return signed.digests.tobytes() + _rank(segment).to_bytes(8, sys.byteorder) + signed.signatures.tobytes()


def _unmark(
    rows: Sequence[Marked | MarkedSegment], *, near: bool
) -> tuple[Signed, np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    """Return what the ledger wants to know of the rows, and their ranks."""
    numbers = np.frombuffer(b"".join(row.marks for row in rows), dtype=np.uint64).reshape(len(rows), -1)
    signatures = np.ascontiguousarray(numbers[:, 3:]).view(np.uint32) if near else np.empty((len(rows), 0), np.uint32)
    return Signed(np.ascontiguousarray(numbers[:, :2]), signatures), numbers[:, 2]


def _batches(segments: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(segments)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


def _rank(segment: Segment) -> int:
    told = (
        str(value) for name, value in vars(segment).items() if name != "location"
    )  # where the input lies says nothing
    fields = "\x1f".join(told).encode("utf-8", "surrogatepass")
    return rank(len(segment.text), int.from_bytes(hashlib.blake2b(fields, digest_size=8).digest(), "little"))


def _name(segment: Marked | MarkedSegment) -> bytes:
    return f"segment {segment.id} of {segment.source_uri}".encode("utf-8", "surrogatepass")


def _draws(segments: Iterable[Record], random_seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([derive_seed(random_seed, "sample", segment.id) for segment in segments], dtype=np.int64)


def _cutoff(draws: Path, rows: int, fates: Fates, sample: int) -> int | None:
    """Return the largest draw among the `sample` smallest, over the rows that stay; None when all fit."""
    smallest = np.empty(0, dtype=np.int64)
    with draws.open("rb") as file:
        for start in range(0, rows, BATCH * 64):
            piece = np.fromfile(file, dtype=np.int64, count=min(BATCH * 64, rows - start))
            smallest = np.concatenate([smallest, piece[fates.stays(start, start + len(piece))]])
            if len(smallest) > sample:
                smallest = np.partition(smallest, sample - 1)[:sample]
    return int(smallest.max()) if len(smallest) == sample else None
