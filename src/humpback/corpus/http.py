"""The HTTP response inside a WARC or ARC record: its status, its headers, and its body with the encodings undone.

In: the bytes of the record. Out: a `Response`. Servers and crawlers get much of this wrong, so a body that is not encoded as
its header says is taken as it is; one that begins as promised and then breaks off is decoded as far as it goes, and `fault`
says so. No body is unpacked beyond the limit: a bomb costs one row.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Body", "Response", "charset_of", "is_head_only", "is_whole", "media_type", "read_response", "unpack_body"]

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})")
_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\n]{0,1000})?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s;\"',]{1,40})", re.I)


@dataclass(frozen=True, kw_only=True)
class Response:
    """An HTTP response as it was recorded."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of a repeated header the last one."""
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Body:
    """A body without its encodings."""

    data: bytes
    fault: str = ""
    """Why it ends early."""
    too_large: bool = False


def read_response(block: bytes) -> Response | None:
    """Return the response a record's block holds; None when it does not begin with a status line."""
    status = _STATUS.match(block)
    if not status:
        return None
    end = _END.search(block)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    headers: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and not line.startswith((b" ", b"\t")):
            headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
    return Response(status=int(status[1]), headers=headers, body=body)


def unpack_body(response: Response, limit: int) -> Body:
    """Return the body with chunks joined and its content unpacked, at most `limit` bytes of it."""
    data, fault = response.body, _too_short(response)
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        data, broken = _join_chunks(data)
        fault = broken or fault
    for name in reversed(response.headers.get("content-encoding", "").lower().split(",")):
        decode = _DECODERS.get(name.strip())
        if decode is None:
            continue
        done = decode(data, limit)
        if done is None:  # a crawler that unpacks the body often leaves the header
            continue
        if done.too_large:
            return done
        data, fault = done.data, done.fault or fault
    return Body(data=data, fault=fault, too_large=len(data) > limit)


def is_head_only(block: bytes) -> bool:
    """Tell whether a response ends within its header."""
    return _END.search(block) is None


def is_whole(response: Response) -> bool:
    """Tell whether the body is at least as long as its header promises, or ends with the last chunk."""
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        return not _join_chunks(response.body)[1]
    return response.headers.get("content-length", "").isdigit() and not _too_short(response)


def media_type(content_type: str) -> str:
    """Return `text/html` of `text/html; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def charset_of(content_type: str) -> str | None:
    found = _CHARSET.search(content_type)
    return found[1] if found else None


def _too_short(response: Response) -> str:
    stated = response.headers.get("content-length", "")
    if not stated.isascii() or not stated.isdigit() or len(stated) > 15 or int(stated) <= len(response.body):
        return ""
    missing = int(stated) - len(response.body)
    return f"its header promises {int(stated):,} bytes and the last {missing:,} are missing"


def _join_chunks(data: bytes) -> tuple[bytes, str]:
    if not _CHUNK.match(data):
        return data, ""  # joined by the crawler already, or never cut
    pieces: list[bytes] = []
    at = 0
    while found := _CHUNK.match(data, at):
        size, begins = int(found[1], 16), found.end()
        if not size:
            return b"".join(pieces), ""
        pieces.append(data[begins : begins + size])
        if begins + size > len(data):
            return b"".join(pieces), f"a chunk promises {size:,} bytes and {len(data) - begins:,} are left"
        at = begins + size
        at += 2 if data.startswith(b"\r\n", at) else data.startswith(b"\n", at)
    if at < len(data):
        return b"".join(pieces), f"no chunk begins at byte {at:,} of the body"
    return b"".join(pieces), "the last chunk is missing"


def _gunzip(data: bytes, limit: int) -> Body | None:
    if not data.startswith(b"\x1f\x8b"):
        return None
    return _inflate(data, limit, 31)


def _deflate(data: bytes, limit: int) -> Body | None:
    # The standard says zlib, many servers send it bare.
    for window in (15, -15):
        found = _inflate(data, limit, window)
        if found and (found.data or not found.fault):
            return found
    return None


def _inflate(data: bytes, limit: int, window: int) -> Body | None:
    inner = zlib.decompressobj(window)
    try:
        found = inner.decompress(data, limit + 1)
    except zlib.error as error:
        # What comes before the damage is kept: once more, in small steps.
        return Body(data=_in_steps(data, limit, window), fault=f"its packed body is damaged: {error}")
    if len(found) > limit:
        return Body(data=found[:limit], too_large=True)
    return Body(data=found, fault="" if inner.eof else "its packed body is cut off")


def _in_steps(data: bytes, limit: int, window: int) -> bytes:
    inner, found = zlib.decompressobj(window), bytearray()
    try:
        for start in range(0, len(data), 64):
            found += inner.decompress(data[start : start + 64])
            if len(found) > limit:
                break
    except zlib.error:
        pass
    return bytes(found[:limit])


def _unbrotli(data: bytes, limit: int) -> Body | None:
    import brotli

    inner, found = brotli.Decompressor(), bytearray()
    try:
        piece = inner.process(data, output_buffer_limit=1 << 20)
        while piece or not inner.is_finished():
            found += piece
            if len(found) > limit:
                return Body(data=bytes(found[:limit]), too_large=True)
            if inner.is_finished() or (not piece and inner.can_accept_more_data()):
                break
            piece = inner.process(b"", output_buffer_limit=1 << 20)
    except brotli.error as error:
        return Body(data=bytes(found), fault=f"its packed body is damaged: {error}") if found else None
    return Body(data=bytes(found), fault="" if inner.is_finished() else "its packed body is cut off")


def _unzstd(data: bytes, limit: int) -> Body | None:
    import zstandard

    if not data.startswith(b"\x28\xb5\x2f\xfd"):
        return None
    inner, found = zstandard.ZstdDecompressor().decompressobj(), bytearray()
    try:
        for start in range(0, len(data), 1024):
            found += inner.decompress(data[start : start + 1024])
            if len(found) > limit:
                return Body(data=bytes(found[:limit]), too_large=True)
            if inner.eof:
                return Body(data=bytes(found))
    except zstandard.ZstdError as error:
        return Body(data=bytes(found), fault=f"its packed body is damaged: {error}")
    return Body(data=bytes(found), fault="its packed body is cut off")


_DECODERS: dict[str, Callable[[bytes, int], Body | None]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
