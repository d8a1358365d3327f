"""What every reader is told besides the bytes, and the few ways in which all of them make records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from humpback.corpus.faults import Fault, rejected
from humpback.corpus.streams import Budget
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected, content_id

__all__ = ["MAX_FILE_BYTES", "Place", "decode_text", "half_character", "unix_lines"]

_MAX_NAME = 2_000
MAX_FILE_BYTES = 32_000_000
"""Longest text or Markdown file, after decompression: it is one document and is held in memory."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a reader is."""

    name: str
    """The file as text, `file!member` inside an archive."""
    given: CorpusInput
    max_record_bytes: int
    """Longest record that is held, after decompression."""
    cut: bool = False
    """One of several ranges of a file: lines cannot be numbered, so bytes are."""
    archive: bool = False
    """Inside an archive."""
    budget: Budget = dataclasses.field(default_factory=Budget)
    """What the file may expand to, shared by all its members."""

    def inside(self, member: str) -> Place:
        """Return the place of a member; of a name of many thousand characters the beginning."""
        return dataclasses.replace(self, name=f"{self.name}!{member[:_MAX_NAME]}", archive=True)

    def damaged(self, at: str, why: str, data: bytes = b"", *, source_uri: str = "") -> Rejected:
        """Return the row of damage at `file@…`; what was read before it is kept."""
        detail = f"{at} is damaged: {why}; records before it are kept, fetch it again"
        return rejected(at, Fault("damaged_file", detail), data, source_uri=source_uri)

    def too_large(self, at: str, size: str, data: bytes, *, source_uri: str = "") -> Rejected:
        detail = (
            f"{at} is {size} bytes long, above corpus.max_line_bytes={self.max_record_bytes:,}; "
            "raise that, or leave it out"
        )
        return rejected(at, Fault("too_large", detail), data, source_uri=source_uri)

    def document(
        self,
        text: str,
        *,
        at: str,
        source_uri: str = "",
        format: Literal["plain", "markdown", "html"] = "plain",
        title: str = "",
        licence: str = "",
        language: str = "",
        time: str = "",
    ) -> Document:
        given = self.given.format
        return Document(
            id=content_id(source_uri or at, text),
            text=text,
            source_uri=source_uri or at,
            location=at,
            format=format if given == "auto" else given,
            title=title,
            licence=licence or self.given.licence,
            language=language,
            time=time,
        )


def decode_text(data: bytes, where: str, *, first: bool) -> str | Fault:
    """Return UTF-8 as text; of the first bytes of a file the byte order mark is dropped."""
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        detail = f"{where} is not UTF-8 at byte {error.start + 1}; convert it, for example with `iconv -t UTF-8`"
        return Fault("not_utf8", detail)


def unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def half_character(*values: str) -> str:
    """Return the half of a surrogate pair that one of the values holds: Parquet would refuse the whole shard later."""
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"\\u{ord(value[error.start]):04x}"
    return ""
