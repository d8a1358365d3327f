"""Bytes of a file, unpacked as they are read: gzip, zstd, lz4, bzip2 and xz, told by their first bytes.

In: an open file. Out: a `Stream` that is read forwards. Damage never raises: the bytes before it are delivered, then the
stream ends and `damage` says why, so each reader keeps what it has and the row says what is wrong.
Memory: one piece (64 kB in, 256 kB out; zstd up to 32 MB) however much a file expands. A bomb is stopped: once a file gave
`FREE_BYTES`, all that is packed in it together may not be more than `MAX_EXPANSION` times its size (deflate can reach 1,032; text
and markup stay below 50).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from humpback.corpus.faults import unreadable
from humpback.corpus.packings import DECODERS, Decoder, packed_wrong, packing
from humpback.errors import InputError

__all__ = ["FREE_BYTES", "MAX_EXPANSION", "Budget", "Chunk", "DamageError", "Stream", "open_stream", "raw_chunks"]

FREE_BYTES = 256_000_000
"""Unpacked bytes up to which a file may expand as much as it likes."""
MAX_EXPANSION = 200
"""Most unpacked bytes per packed byte, beyond `FREE_BYTES`."""
_IN = 1 << 16
_MEMBERS = 4096
"""Ends of packed members that are remembered for locations of records not yet reached."""
_MAX_DICTIONARY = 1 << 24
_SKIPPABLE = {bytes((0x50 + number, 0x2A, 0x4D, 0x18)) for number in range(16)}


class DamageError(Exception):
    """Raised by what gives a `Stream` its chunks, where they end early; the stream ends there and keeps the message."""


class Budget:
    """What one file may expand to, all that is packed inside it together: members of its members too."""

    def __init__(self) -> None:
        self.packed = 0
        """Bytes of the file itself."""
        self._given = 0

    def spend(self, size: int) -> None:
        """Note unpacked bytes; DamageError when they are too many for the file's own."""
        self._given += size
        if why := self.overdrawn:
            raise DamageError(why)

    @property
    def overdrawn(self) -> str:
        """Why no more is to be unpacked; empty while there is no reason."""
        if self._given <= FREE_BYTES or self._given <= MAX_EXPANSION * self.packed:
            return ""
        return f"it expands to more than {MAX_EXPANSION} times its size after {self._given:,} bytes, like a bomb"


class Chunk(NamedTuple):
    data: bytes
    member: int | None
    """Byte of the file at which the packed member begins that this is the first piece of."""


class Stream:
    """Forward reading with a little look-ahead."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self.damage = ""
        """Why the stream ended early; empty while nothing is known to be wrong."""
        self.position = 0
        """Unpacked bytes read so far."""
        self._chunks = chunks
        self.given_back = 0
        """Bytes that were read and put back, all together."""
        self._buffer = b""
        self._at = 0
        self._filled = 0
        self._members: deque[tuple[int, int]] = deque(maxlen=_MEMBERS)

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end, and leave them unread."""
        while len(self._buffer) - self._at < size and self._fill():
            pass
        return self._buffer[self._at : self._at + size]

    def read_some(self, size: int) -> bytes:
        """Return what is at hand, at most `size` bytes; nothing only at the end."""
        while self._at == len(self._buffer) and self._fill():
            pass
        return self._take(size)

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        pieces, found = [], 0
        while size < 0 or found < size:
            piece = self._take(size - found if size >= 0 else -1)
            if not piece and not self._fill():
                break
            pieces.append(piece)
            found += len(piece)
        return b"".join(pieces)

    def readline(self, limit: int) -> bytes:
        """Return the next line with its end, or its first `limit` bytes."""
        pieces, found = [], 0
        while found < limit:
            end = self._buffer.find(b"\n", self._at)
            piece = self._take(min(limit - found, (end + 1 if end >= 0 else len(self._buffer)) - self._at))
            pieces.append(piece)
            found += len(piece)
            if piece.endswith(b"\n") or (not piece and not self._fill()):
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, size: int) -> int:
        """Read over `size` bytes and return how many there were."""
        skipped = 0
        while skipped < size:
            piece = self._take(size - skipped)
            if not piece and not self._fill():
                break
            skipped += len(piece)
        return skipped

    def skip_blank_lines(self) -> int:
        """Read over lines of nothing but blanks, and return how many: one by one, millions of them take minutes."""
        lines = 0
        while self.peek(1).isspace():
            data = self.peek(_IN)
            blank = data[: len(data) - len(data.lstrip(b" \t\r\n"))]
            size = blank.rfind(b"\n") + 1
            if not size:
                break
            lines += blank.count(b"\n")
            self.skip(size)
        return lines

    def unread(self, data: bytes) -> None:
        """Put bytes just read back."""
        self.given_back += len(data)
        self._buffer = data + self._buffer[self._at :]
        self._at = 0
        self.position -= len(data)

    def place(self, position: int) -> str:
        """Return `BYTE` of the file at a position not before the last one asked for, or `MEMBER+BYTE` within a packed member."""
        while len(self._members) > 1 and self._members[1][0] <= position:
            self._members.popleft()
        if not self._members:
            return str(position)
        begins, offset = self._members[0]
        return f"{offset}+{position - begins}" if position > begins else str(offset)

    def _take(self, size: int) -> bytes:
        piece = self._buffer[self._at : self._at + size] if size >= 0 else self._buffer[self._at :]
        self._at += len(piece)
        self.position += len(piece)
        return piece

    def _fill(self) -> bool:
        if self.damage:
            return False
        try:
            chunk = next(self._chunks, None)
        except DamageError as error:
            self.damage = str(error)
            return False
        if chunk is None:
            return False
        if chunk.member is not None:
            self._members.append((self._filled, chunk.member))
        self._filled += len(chunk.data)
        self._buffer = self._buffer[self._at :] + chunk.data if self._at < len(self._buffer) else chunk.data
        self._at = 0
        return True


def raw_chunks(file: BinaryIO, path: str, budget: Budget | None = None) -> Iterator[Chunk]:
    """Yield the bytes of a file as they are; what it may expand to grows with them."""
    while data := _read(file, path):
        if budget is not None:
            budget.packed += len(data)
        yield Chunk(data, None)


def open_stream(chunks: Iterator[Chunk], budget: Budget | None = None) -> tuple[Stream, bool]:
    """Return the chunks of a file or member unpacked, and whether they were packed. Without a budget, none is looked at.

    A name that ends in `.gz` or the like does not make a file packed, its first bytes do.
    """
    plain = Stream(chunks)
    kind = packing(plain.peek(6))
    return (Stream(_unpack(plain, kind, budget)), True) if kind else (plain, False)


def _read(file: BinaryIO, path: str) -> bytes:
    try:
        return file.read(_IN)
    except OSError as error:
        raise unreadable(path, error) from error


def _unpack(source: Stream, kind: str, budget: Budget | None) -> Iterator[Chunk]:
    dictionary = b""
    while True:
        head = source.peek(18)
        if not head:
            break
        begins = source.position
        if head[:4] in _SKIPPABLE and kind in ("zstd", "lz4"):
            size = int.from_bytes(head[4:8], "little")
            if head[:4] == b"\x5d\x2a\x4d\x18" and begins == 0 and size <= _MAX_DICTIONARY:
                source.skip(8)
                dictionary = _plain_dictionary(source.read(size))
            elif source.skip(8 + size) < 8 + size:
                raise DamageError(f"the {kind} frame at byte {begins} ends early")
            continue
        if packing(head) != kind:
            if begins and _only_padding(source):
                break
            raise DamageError(f"what follows at byte {begins} is no {kind}")
        first: int | None = begins
        for piece in _member(source, DECODERS[kind](dictionary), kind, begins):
            if budget is not None:
                budget.spend(len(piece))
            yield Chunk(piece, first)
            first = None
    if source.damage:
        raise DamageError(source.damage)


def _member(source: Stream, decoder: Decoder, kind: str, begins: int) -> Iterator[bytes]:
    """Yield the unpacked pieces of one member; its end in the source is where reading goes on."""
    try:
        while not decoder.done:
            data = source.read_some(_IN)
            if not data:
                raise DamageError(f"the {kind} member that begins at byte {begins} is cut off: the file ends early")
            yield from filter(None, decoder.feed(data))
            if decoder.done and decoder.rest:
                source.unread(decoder.rest)
    except InputError:  # the disk's refusal, which is no damage
        raise
    except packed_wrong() as error:
        raise DamageError(f"the {kind} member that begins at byte {begins} is damaged: {error}") from None


def _only_padding(source: Stream) -> bool:
    """Tell whether nothing but zeros follow, as tapes and some downloads leave behind."""
    while data := source.peek(_IN):
        if data.strip(b"\0"):
            return False
        source.skip(len(data))
    return not source.damage


def _plain_dictionary(data: bytes) -> bytes:
    if packing(data) != "zstd":
        return data
    found = bytearray()
    for piece in _member(Stream(iter([Chunk(data, None)])), DECODERS["zstd"](b""), "zstd", 0):
        found += piece
        if len(found) > _MAX_DICTIONARY:
            raise DamageError(f"its zstd dictionary is longer than {_MAX_DICTIONARY:,} bytes")
    return bytes(found)
