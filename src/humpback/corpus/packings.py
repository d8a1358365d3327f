"""One packed member after the other, unpacked in limited pieces: gzip, zstd, lz4, bzip2, xz.

In: bytes as they come. Out: unpacked pieces, whatever they expand to never more than a piece at once. The packers' own
objects each work a little differently; here they are alike.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

__all__ = ["COMPRESSED", "DECODERS", "Decoder", "packed_wrong", "packing"]

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".lz4": "lz4", ".bz2": "bz2", ".xz": "xz"}
"""Endings of names that say how a file is packed."""

_OUT = 1 << 18
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x2a\x4d\x18": "zstd",  # the frame in which a .warc.zst keeps its dictionary
}


class Decoder(Protocol):
    """What one packed member is given to."""

    done: bool
    rest: bytes
    """Input behind the member's end."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...


def packing(head: bytes) -> str:
    """Return how bytes that begin like this are packed, or the empty string."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


class _Gzip:
    def __init__(self, dictionary: bytes) -> None:
        self._inner = zlib.decompressobj(31)
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self.done:
            before = self._inner.copy()
            try:
                piece = self._inner.decompress(data, _OUT)
            except zlib.error:
                # zlib keeps to itself what this call unpacked before the damage: once more, a byte at a time.
                for value in data:
                    yield before.decompress(bytes((value,)), _OUT)
                raise
            data = self._inner.unconsumed_tail
            if self._inner.eof:
                self.done, self.rest = True, self._inner.unused_data
            yield piece


class _Limited:
    """bz2, lzma and lz4 share one way of being given a limit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        piece = self._inner.decompress(data, _OUT)
        while True:
            yield piece
            if self._inner.eof:
                self.done, self.rest = True, self._inner.unused_data or b""
                return
            if self._inner.needs_input:
                return
            piece = self._inner.decompress(b"", _OUT)


class _Zstd:
    """zstandard knows no limit of output, so it is given little at a time: a piece makes 32 MB at the very most."""

    def __init__(self, dictionary: bytes) -> None:
        import zstandard

        known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self._inner = zstandard.ZstdDecompressor(dict_data=known).decompressobj()
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 1024):
            yield self._inner.decompress(data[start : start + 1024])
            if self._inner.eof:
                self.done, self.rest = True, self._inner.unused_data + data[start + 1024 :]
                return


def _lz4(dictionary: bytes) -> Decoder:
    import lz4.frame

    return _Limited(lz4.frame.LZ4FrameDecompressor())


def packed_wrong() -> tuple[type[Exception], ...]:
    """Return what the packers raise for damage; asked for only then, because one of them must be imported."""
    import zstandard

    # lz4 raises RuntimeError for damage, and nothing of its own.
    return (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError, zstandard.ZstdError)


DECODERS: dict[str, Callable[[bytes], Decoder]] = {
    "gzip": _Gzip,
    "zstd": _Zstd,
    "lz4": _lz4,
    "bz2": lambda _: _Limited(bz2.BZ2Decompressor()),
    "xz": lambda _: _Limited(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=1 << 28)),
}
