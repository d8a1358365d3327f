"""What kind of file this is, by its first bytes and then by its name.

In: the first bytes, unpacked, and the name. Out: a kind, or None for what no reader is there for. Content decides where it
is beyond doubt (a WARC named `.bad`, a page saved without an ending); the name decides between kinds of text.
"""

from __future__ import annotations

import json
import os
import re
from typing import Literal

from humpback.corpus.packings import COMPRESSED

__all__ = ["HEAD_BYTES", "KNOWN", "Kind", "is_foreign", "kind_of_name", "sniff", "unpacked_name"]

Kind = Literal["plain", "markdown", "html", "jsonl", "csv", "parquet", "arrow", "warc", "arc", "epub", "zip", "tar"]

HEAD_BYTES = 4096
"""As much as `sniff` looks at."""
KNOWN = "text, Markdown, HTML, EPUB, JSONL, CSV, Parquet, Arrow, WARC or ARC (`.txt`, `.md`, `.html`, `.jsonl`, … , also `.gz`)"

_SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys((".txt", ".rst", ".text"), "plain"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xht", ".shtml"), "html"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".arrow": "arrow",
    **dict.fromkeys((".warc", ".wet", ".wat"), "warc"),
    ".arc": "arc",
    ".epub": "epub",
    ".zip": "zip",
    **dict.fromkeys((".tar", ".tgz", ".tbz2", ".txz"), "tar"),
}
_FOREIGN = frozenset(
    ".pdf .doc .docx .xls .xlsx .ppt .pptx .odt .ods .odp .rtf .mobi .djvu .ps "
    ".png .jpg .jpeg .gif .svg .ico .webp .bmp .tif .tiff .avif .mp3 .mp4 .ogg .oga .ogv .webm .wav .flac .avi .mov .mkv "
    ".woff .woff2 .ttf .otf .eot .css .scss .less .js .mjs .cjs .ts .map .wasm .py .pyc .c .h .cc .cpp .rs .go .java .class "
    ".jar .o .a .so .dll .exe .bin .iso .rar .7z .sqlite .db .pkl .pt .npy .npz .safetensors .gguf .lock .log".split()
)
_MAGIC: tuple[tuple[bytes, Kind], ...] = ((b"PAR1", "parquet"), (b"ARROW1\0\0", "arrow"), (b"filedesc://", "arc"))
_NO_TEXT = (b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"%PDF-", b"\x7fELF", b"RIFF", b"OggS", b"SQLite format 3\0")
_WARC = re.compile(rb"\s*WARC/\d+\.\d+[ \t]*\r?\n")
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)[\s>]", re.I)


def sniff(head: bytes, name: str) -> Kind | None:
    """Return the kind of a file that begins with `head`, unpacked, and has this name."""
    named = kind_of_name(name)
    return _by_magic(head, named) or _by_text(head, named, name)


def kind_of_name(name: str) -> Kind | None:
    """Return the kind a name stands for, whatever is in the file."""
    return _SUFFIXES.get(_suffix(unpacked_name(name)))


def is_foreign(name: str) -> bool:
    """Tell whether a name stands for something that is never read, so that the file need not be opened."""
    return _suffix(unpacked_name(name)) in _FOREIGN


def unpacked_name(name: str) -> str:
    """Return the name without the ending that says how the file is packed."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in COMPRESSED else name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _by_magic(head: bytes, named: Kind | None) -> Kind | None:
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head.startswith(b"PK\x03\x04"):
        return "epub" if named == "epub" or head[30:58] == b"mimetypeapplication/epub+zip" else "zip"
    if head[257:262] == b"ustar":
        return "tar"
    return "warc" if _WARC.match(head[:64]) else None


def _by_text(head: bytes, named: Kind | None, name: str) -> Kind | None:
    if head.startswith(_NO_TEXT) and named in (None, "plain", "markdown", "html", "jsonl", "csv"):
        return None
    if named in (None, "plain", "markdown") and not is_foreign(name) and _is_html(head[:HEAD_BYTES]):
        return "html"
    if named is None and not is_foreign(name) and _is_json_line(head[:HEAD_BYTES]):
        return "jsonl"
    return named


def _is_html(head: bytes) -> bool:
    """Tell whether a page begins here, behind white space, comments and the XML declaration."""
    rest = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    while rest.startswith((b"<!--", b"<?")):
        rest = rest.partition(b"-->" if rest.startswith(b"<!--") else b">")[2].lstrip()
    return _HTML.match(rest) is not None


def _is_json_line(head: bytes) -> bool:
    if not head.startswith((b'{"', b'\xef\xbb\xbf{"')):
        return False
    line, end, _ = head.partition(b"\n")
    if not end:
        return len(head) >= HEAD_BYTES  # a long record; a short file of one object is more likely settings
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
