"""A record with named columns to a document: JSONL, CSV, Parquet and data sets mean the same by the recipe's names."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Literal

from humpback.corpus.faults import Fault
from humpback.corpus.outline import looks_like_markdown
from humpback.corpus.place import half_character, unix_lines
from humpback.recipe import CorpusInput
from humpback.records import Document, content_id

__all__ = ["NO_COLUMN", "column_names", "missing_column", "read_row"]

NO_COLUMN = "no_column"
"""Reason of rows and tables without the column of the text."""
_LIMITS = (1000, 2000, 4000, 300, 40, 60)
"""Characters kept of title, header path, address, licence, language and time: each is copied to every piece of the text."""
_MAX_NESTING = 20
"""Lists within lists that a header path or title may have; nobody writes more, and Python itself gives up at some point."""


def column_names(given: CorpusInput) -> list[str]:
    """Return the columns a document is made of, the text first."""
    return [
        given.text,
        given.title,
        given.header_path,
        given.source_uri,
        given.licence_column,
        given.language,
        given.time,
    ]


def read_row(row: Mapping[str, object], where: str, address: str, given: CorpusInput) -> Document | Fault:
    """Return the document of a row, or what is wrong with it; `where` is for people, `address` its location."""
    text = row.get(given.text)
    if not isinstance(text, str) or not text.strip():
        return _no_text(row, where, given.text)
    text = unix_lines(text)
    try:
        columns = zip(column_names(given)[1:], _LIMITS, strict=True)
        title, header_path, uri, licence, language, time = (_words(row.get(name))[:most] for name, most in columns)
    except RecursionError:
        return Fault("not_json", f"{where} nests lists more than {_MAX_NESTING} deep; write one flat object per line")
    uri, licence = uri or address, licence or given.licence
    half = half_character(text, title, header_path, uri, licence, language, time)
    if half:
        return Fault("not_utf8", f"{where} holds half a character ({half}), which UTF-8 cannot hold; write it whole")
    return Document(
        id=content_id(uri, text),
        text=text,
        source_uri=uri,
        location=address,
        format=_format_of(text) if given.format == "auto" else given.format,
        title=title,
        header_path=header_path,
        licence=licence,
        language=language,
        time=time,
    )


def _format_of(text: str) -> Literal["plain", "markdown"]:
    return "markdown" if looks_like_markdown(text) else "plain"


def missing_column(names: list[str], where: str, column: str) -> Fault:
    detail = (
        f"{where} has no column {column!r}; set corpus.inputs.text (--text-column) to one of: {', '.join(names[:20])}"
    )
    return Fault(NO_COLUMN, detail)


def _no_text(row: Mapping[str, object], where: str, column: str) -> Fault:
    if column not in row:
        return missing_column([str(name) for name in row], where, column)
    found = "is empty" if isinstance(row[column], str) else f"holds {type(row[column]).__name__}, not a string"
    return Fault("no_text", f"{where}: column {column!r} {found}; fill it or take the record out")


def _words(value: object, depth: int = 0) -> str:
    """Return a column as one line of text; a list of headers becomes a header path."""
    if isinstance(value, list):
        if depth >= _MAX_NESTING:
            raise RecursionError
        return " > ".join(filter(None, (_words(item, depth + 1) for item in value)))
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split())
