"""Files that are one document each (text, Markdown, HTML), and the topics of Python's own manual.

Text must be UTF-8, because people wrote it down for us; a web page is decoded as browsers do.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, cast

from humpback.corpus import place as limits
from humpback.corpus.charset import decode_html
from humpback.corpus.faults import Fault, rejected
from humpback.corpus.place import Place, decode_text, unix_lines
from humpback.corpus.streams import Stream
from humpback.errors import InputError
from humpback.recipe import CorpusInput
from humpback.records import Document, Rejected, content_id

__all__ = ["TOPICS", "read_page_file", "read_text", "read_topics", "topics_file"]

TOPICS = "pydoc:topics"
_TOPICS_MODULE = "pydoc_data.topics"
_LEADING_GRAMMAR = re.compile(r"(^([*=\-~^])\2{2,}\n\n)((?: {3}\w+ +::= .*\n)(?: {3}.*\n)*)\n*", re.MULTILINE)
_FOOTNOTES = re.compile(r"^-\[ Footnotes \]-$", re.MULTILINE)


def read_text(stream: Stream, place: Place, form: Literal["plain", "markdown"]) -> Document | Rejected:
    """Return a text file as one document."""
    where, limit = place.name, limits.MAX_FILE_BYTES
    data = stream.read(limit + 1)
    if stream.damage:
        return place.damaged(where, stream.damage, data)
    if len(data) > limit:
        detail = f"{where} is longer than {limit:,} bytes; split it, or write it as JSONL"
        return rejected(where, Fault("file_too_long", detail), data)
    text = decode_text(data, where, first=True)
    if isinstance(text, Fault):
        return rejected(where, text, data)
    if not text.strip():
        return rejected(where, _empty(where), data)
    return place.document(unix_lines(text), at=where, format=form)


def read_page_file(stream: Stream, place: Place) -> Document | Rejected:
    """Return a web page as one document."""
    where, limit = place.name, place.max_record_bytes
    data = stream.read(limit + 1)
    if stream.damage:
        return place.damaged(where, stream.damage, data)
    if len(data) > limit:
        return place.too_large(where, f"more than {limit:,}", data)
    text = decode_html(data)
    if not text.strip():
        return rejected(where, _empty(where), data)
    return place.document(text, at=where, format="html")


def topics_file(name: str) -> Path:
    """Return where Python keeps the topics of its manual."""
    if name != TOPICS:
        raise InputError(f"corpus input {name} is unknown; the one there is, is `{TOPICS}`")
    try:
        spec = importlib.util.find_spec(_TOPICS_MODULE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(
            f"corpus input {name}: this Python was built without {_TOPICS_MODULE}; give your own documents"
        )
    return Path(spec.origin)


def read_topics(given: CorpusInput) -> Iterator[Document | Rejected]:
    """Yield the topics of Python's manual."""
    topics_file(given.path)
    topics = cast(Mapping[str, str], importlib.import_module(_TOPICS_MODULE).topics)
    for key in sorted(topics):
        uri = f"{TOPICS}#{key}"
        # A section that opens with its formal grammar has its text below it; the footnotes belong to no one section.
        grammar = "\n".join(found.group(3) for found in _LEADING_GRAMMAR.finditer(topics[key]))
        text = _FOOTNOTES.sub("Footnotes\n=========", _LEADING_GRAMMAR.sub(r"\1", topics[key]))
        if grammar:
            fault = Fault("formal_grammar", f"{uri}: the grammar above the text of its sections is left out")
            yield rejected(uri, fault, grammar.encode())
        yield Document(
            id=content_id(uri, text),
            text=text,
            source_uri=uri,
            location=uri,
            title=key,
            licence=given.licence or "PSF-2.0",
            language="en",
        )


def _empty(where: str) -> Fault:
    return Fault("no_text", f"{where} is empty; fill it or take it out of the input")
