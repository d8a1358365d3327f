"""WARC and ARC archives of crawled pages, and the plain text of WET files, record by record.

In: the unpacked bytes. Out: a document per page, and a row for each page that is none (another status than 200, an image)
or is damaged. The archive's own records (warcinfo, request, metadata, revisit, WAT, DNS answers) are no documents and give no row.

Records are framed here and not by a library, because what matters most is damage: fastwarc reads no ARC, and ends without
a word where a file or a record is cut off. After damage reading goes on at the next record header, so that one wrong length costs
one record. A record's location is `file@BYTE`, the byte of the (packed) file at which it begins; in a file packed as a whole,
`file@MEMBER+BYTE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from humpback.corpus.charset import decode_html
from humpback.corpus.faults import SHOWN_BYTES, Fault, rejected
from humpback.corpus.http import Response, charset_of, is_head_only, is_whole, media_type, read_response, unpack_body
from humpback.corpus.place import Place, unix_lines
from humpback.corpus.sniff import sniff
from humpback.corpus.streams import Stream
from humpback.records import Document, Rejected

__all__ = ["read_arc", "read_warc"]

_HEAD = 1 << 12
_MAX_HEAD = 1 << 16
_HEAD_END = re.compile(rb"(?:^|\r?\n)[ \t]*\r?\n")
_VERSION = re.compile(rb"WARC/\d+\.\d+[ \t]*\r?\n")
_NEXT_WARC = re.compile(rb"(?:\r?\n)WARC/\d+\.\d+[ \t]*\r?\n")
# A URL may hold spaces; version 2 has five more fields before the length.
_ARC_LINE = re.compile(rb"([a-zA-Z][a-zA-Z0-9+.-]{0,30}:.*?) \S+ (\d{12,18}) (\S+) (?:\S+ )*(-?\d+)\r?\n")
_MAX_ARC_LINE = 4096
_MAX_URI = 4_000
"""Characters kept of an address, as of one in a column: it is copied to every piece of the page."""
_MAX_GIVEN_BACK = 1_000_000_000
"""Bytes of wrong lengths that are read twice; from there on a long record is only skipped, or the time would be quadratic."""
_NEXT_ARC = re.compile(rb"\n(?=[a-zA-Z][a-zA-Z0-9+.-]{0,30}:[^\n]{1,2000} \d{14} [^\n]{1,200}\r?\n)")
_MAX_TIME = 60
_PAGES = ("response", "resource", "conversion")
_NO_PAGES = ("filedesc:", "dns:", "metadata:")
"""Addresses of what the crawler wrote down for itself."""
_HTML = ("text/html", "application/xhtml+xml")
_TEXT = {"text/plain": "plain", "text/markdown": "markdown", "text/x-markdown": "markdown"}
_UNSTATED = ("", "application/octet-stream", "unknown", "no-type", "unk")


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What a record says of itself."""

    length: int
    uri: str
    time: str
    content_type: str
    """Of the record; an HTTP response inside has its own."""
    is_page: bool
    segmented: bool = False


class _Format(NamedTuple):
    read_head: Callable[[Stream, bytes], _Head | str]
    """Reads on behind the first line; a string says why no record begins here."""
    header: re.Pattern[bytes]
    """A line end and the beginning of a record header behind it."""


def read_warc(stream: Stream, place: Place) -> Iterator[Document | Rejected]:
    """Yield the pages of a WARC or WET file."""
    return _read(stream, place, _Format(_warc_head, _NEXT_WARC))


def read_arc(stream: Stream, place: Place) -> Iterator[Document | Rejected]:
    """Yield the pages of an ARC file, versions 1 and 2."""
    return _read(stream, place, _Format(_arc_head, _NEXT_ARC))


def _read(stream: Stream, place: Place, form: _Format) -> Iterator[Document | Rejected]:
    told = ""
    while _skip_blank(stream):
        at = f"{place.name}@{stream.place(stream.position)}"
        line = stream.readline(_MAX_HEAD)
        head = form.read_head(stream, line)
        if isinstance(head, str):
            passed = _seek(stream, form.header, line_end=line.endswith(b"\n"))
            told = stream.damage
            why = f" ({told})" if told else f"; {passed:,} bytes up to the next record are passed over"
            yield place.damaged(at, head + why, line)
            continue
        block, fault = _block(stream, head, place.max_record_bytes, form.header)
        if fault:
            told = stream.damage
            yield from _read_damaged(head, block, fault, at, place)
        elif head.is_page and head.length > place.max_record_bytes:
            yield place.too_large(at, f"{head.length:,}", block, source_uri=head.uri)
        elif head.is_page:
            yield from _read_page(head, block, at, place)
    if stream.damage and stream.damage != told:
        yield place.damaged(f"{place.name}@{stream.place(stream.position)}", stream.damage)


# -- frames --------------------------------------------------------------------------------------------------------


def _warc_head(stream: Stream, line: bytes) -> _Head | str:
    if not _VERSION.fullmatch(line):
        return "no record begins here"
    headers = _headers(stream)
    if headers is None:
        return "the file ends within a record header, or the header has no end"
    length = _length(headers.get("content-length", ""))
    if length is None:
        return f"Content-Length {headers.get('content-length', '')[:40]!r} of a record is no number"
    uri = _clean_uri(headers.get("warc-target-uri", ""))
    return _Head(
        length=length,
        uri=uri,
        time=headers.get("warc-date", "")[:_MAX_TIME],
        content_type=headers.get("content-type", ""),
        is_page=headers.get("warc-type", "").lower() in _PAGES and not uri.startswith(_NO_PAGES),
        segmented="warc-segment-number" in headers,
    )


def _arc_head(stream: Stream, line: bytes) -> _Head | str:
    fields = _ARC_LINE.fullmatch(line) if len(line) <= _MAX_ARC_LINE else None
    length = _length(fields[4].decode()) if fields else None
    if fields is None or length is None:
        return "no record begins here, or its header names no length"
    uri, content_type = _clean_uri(fields[1].decode("utf-8", "replace")), fields[3].decode("latin-1")
    return _Head(
        length=length,
        uri=uri,
        time=fields[2].decode(),
        content_type=content_type,
        is_page=not uri.startswith(_NO_PAGES) and content_type != "text/dns",
    )


def _skip_blank(stream: Stream) -> bool:
    """Read over white space between records; False at the end."""
    while data := stream.peek(4096 if stream.peek(5).isspace() else 64):
        rest = data.lstrip(b"\r\n \t\0")
        stream.skip(len(data) - len(rest))
        if rest:
            return True
    return False


def _headers(stream: Stream) -> dict[str, str] | None:
    """Return the fields of a record header, names in lower case; a line that goes on belongs to the one before.

    None when there is no empty line at its end.
    """
    for size in (_HEAD, _MAX_HEAD):  # most are short
        data = stream.peek(size)
        end = _HEAD_END.search(data)
        if end:
            break
    else:
        stream.skip(len(data))
        return None
    stream.skip(end.end())
    headers: dict[str, str] = {}
    name = ""
    for line in data[: end.start()].decode("utf-8", "replace").split("\n"):
        if line[:1] in (" ", "\t") and name:
            headers[name] += " " + line.strip()
            continue
        key, colon, value = line.partition(":")
        name = key.strip().lower() if colon else ""
        if name:
            headers[name] = value.strip()
    return headers


def _length(value: str) -> int | None:
    value = value.strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 15 else None


def _block(stream: Stream, head: _Head, limit: int, header: re.Pattern[bytes]) -> tuple[bytes, str]:
    """Return a record's block and what is wrong with it; the stream is left where the next record can be found.

    Of a block that is longer than the limit only the beginning is returned.
    """
    length = head.length
    if length > limit or (length > _MAX_HEAD and stream.given_back > _MAX_GIVEN_BACK):
        return _long_block(stream, length, header)
    block = stream.read(length)
    if len(block) == length and _is_end(stream, block, header):
        return block, ""
    inside = header.search(block)
    if inside:  # the length covers the beginning of the next record, or all of it
        stream.unread(block[inside.start() :])
        return block[
            : inside.start()
        ], f"its length {length:,} is wrong: a record begins after {inside.start():,} bytes"
    if len(block) < length:
        return block, _too_short(stream, length, len(block))
    begins, more = stream.position, header.search(stream.peek(_MAX_HEAD))
    if more:  # what lies between belongs to this record
        block += stream.peek(more.start()).rstrip(b"\r\n")
    _seek(stream, header)
    return block, f"its length {length:,} is wrong: {stream.position - begins:,} bytes lie behind it"


def _long_block(stream: Stream, length: int, header: re.Pattern[bytes]) -> tuple[bytes, str]:
    # It cannot be put back, so what is skipped is looked through: a wrong length must not cost the records it covers.
    block = stream.read(SHOWN_BYTES)
    stream.unread(block)
    skipped = _seek(stream, header, limit=length)
    if skipped == length:
        return block, ""
    if stream.peek(1):
        return block, f"its length {length:,} is wrong: a record begins after {skipped:,} bytes"
    return block, _too_short(stream, length, skipped)


def _too_short(stream: Stream, length: int, found: int) -> str:
    why = f"its length is {length:,} and the file ends after {found:,} bytes"
    return f"{why} ({stream.damage})" if stream.damage else why


def _is_end(stream: Stream, block: bytes, header: re.Pattern[bytes]) -> bool:
    """Tell whether a record ends here: the next one or the end of the file follows, or at least a line end."""
    data = stream.peek(1024)
    if not data.strip(b"\r\n \t\0") or header.match(b"\n" + data.lstrip(b"\r\n")):
        return True
    # An HTTP header is followed by empty lines too.
    return data.startswith((b"\n", b"\r\n")) and not (block.startswith(b"HTTP/") and is_head_only(block))


def _seek(stream: Stream, header: re.Pattern[bytes], *, line_end: bool = False, limit: int = 1 << 62) -> int:
    """Read on to the line end before the next record header, or to the limit or end, and return how far that was."""
    begins = stream.position
    if line_end:  # the line that was read may be followed by a header at once
        stream.unread(b"\n")
    while (left := limit - (stream.position - begins)) > 0 and (data := stream.peek(_MAX_HEAD)):
        found = header.search(data)
        if found and found.start() < left:
            stream.skip(found.start())
            break
        # A header may begin at the end of what is seen.
        stream.skip(min(left, len(data) - 4096 if len(data) == _MAX_HEAD else len(data)))
    return stream.position - begins


def _clean_uri(uri: str) -> str:
    return uri.strip().removeprefix("<").removesuffix(">").strip()[:_MAX_URI]


# -- pages ---------------------------------------------------------------------------------------------------------


def _read_damaged(head: _Head, block: bytes, fault: str, at: str, place: Place) -> Iterator[Document | Rejected]:
    """Yield the row of a record whose length is wrong, and its page when that is whole by its own word."""
    response = read_response(block)
    if (
        head.is_page
        and response
        and response.status == 200
        and is_whole(response)
        and len(block) <= place.max_record_bytes
    ):
        yield from _read_page(head, block, at, place)
        fault += "; the page in it is whole and read"
    yield place.damaged(at, fault, block, source_uri=head.uri)


def _read_page(head: _Head, block: bytes, at: str, place: Place) -> Iterator[Document | Rejected]:
    """Yield the document of a page, and a row for what is wrong with it; a page that breaks off is read as far as it goes."""

    def drop(reason: str, why: str, data: bytes = b"") -> Rejected:
        return rejected(at, Fault(reason, f"{at} ({head.uri}) {why}"), data, source_uri=head.uri)

    if head.segmented:
        yield drop("segmented", "is cut into several records, which are not put together", block)
        return
    response = read_response(block)
    if response is None:
        # HTTP/0.9 sends nothing but the page; a resource record is the page.
        kind = "" if media_type(head.content_type) == "application/http" else head.content_type
        response = Response(status=200, headers={"content-type": kind}, body=block)
    if response.status != 200:
        yield drop("http_status", f"has HTTP status {response.status}; only 200 is a page", response.body)
        return
    stated = response.headers.get("content-type", "")
    type_ = media_type(stated)
    if type_ not in (*_HTML, *_TEXT, *_UNSTATED):
        yield drop("content_type", f"is {type_}, not a page of text", b"")
        return
    body = unpack_body(response, place.max_record_bytes)
    if body.too_large:
        yield place.too_large(at, f"unpacked more than {place.max_record_bytes:,}", body.data, source_uri=head.uri)
        return
    is_page = type_ in _HTML or sniff(body.data[:4096], "") == "html"
    if not is_page and type_ not in _TEXT:
        yield drop("content_type", "states no kind of content and is no web page", body.data)
        return
    text = decode_html(body.data, charset_of(stated))
    if not text.strip():
        yield drop("no_text", f"is empty{': ' + body.fault if body.fault else ''}")
        return
    if body.fault:
        yield drop("cut_page", f"is damaged: {body.fault}; what is there is read", body.data[-SHOWN_BYTES:])
    yield place.document(
        text if is_page else unix_lines(text),
        at=at,
        source_uri=head.uri,
        format="html" if is_page else "markdown" if _TEXT[type_] == "markdown" else "plain",
        time=head.time,
    )
