"""The records that flow between stages, and their Arrow schemas.

Records are frozen and keyword-only. Ids are content hashes (`content_id`), so the same text has the same id in every run.
A stage yields its own record for what it keeps and `Rejected` for everything else: nothing leaves a stage without a reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Candidate",
    "Document",
    "Example",
    "Marked",
    "MarkedSegment",
    "Pair",
    "Record",
    "Rejected",
    "Rewritten",
    "Scored",
    "Segment",
    "content_id",
    "from_row",
    "schema_of",
    "to_row",
]


def content_id(*parts: str) -> str:
    """Return 16 hex digits of the SHA-256 of the parts; a length prefix keeps ("ab", "c") apart from ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


R = TypeVar("R", bound="Record")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records."""

    id: str
    """Content hash, unique within a stage's output."""


@dataclass(frozen=True, kw_only=True)
class Document(Record):
    """One input document as a reader found it."""

    text: str
    source_uri: str
    """Its own address: a URL or name; its location when it states none."""
    location: str = ""
    """Where in the input it was read: the file, then `@BYTE` (WARC), `#LN` (line), `#rN` (row) or `!member` (archive)."""
    format: Literal["plain", "markdown", "html"] = "plain"
    """How its headers are marked: `markdown` (ATX, setext), `plain` (underlined lines) or `html`."""
    title: str = ""
    header_path: str = ""
    """Header path when the input is already cut into segments, headers joined by ` > `."""
    licence: str = ""
    language: str = ""
    time: str = ""
    """The time it states for itself (WARC-Date, a `time` column), as it stands there."""


@dataclass(frozen=True, kw_only=True)
class Segment(Record):
    """A self-contained, header-rooted piece of a document: y_i of the paper."""

    text: str
    header_path: str
    """The headers above and of this segment, outermost first, joined by ` > `."""
    source_uri: str
    offset: int
    """Character offset of the segment in the document's text; of an HTML page, in its main content as Markdown."""
    title: str
    licence: str
    language: str
    document_id: str
    location: str = ""
    """As the document's."""
    time: str = ""
    """As the document's."""


@dataclass(frozen=True, kw_only=True)
class Marked(Record):
    """What finding duplicates asks of a segment."""

    source_uri: str
    marks: bytes
    """Digest, rank and signature (`stages/dedup.py: mark`)."""


@dataclass(frozen=True, kw_only=True)
class MarkedSegment(Segment):
    """A segment with its marks, worked out where it was cut: by as many workers as there are."""

    marks: bytes


@dataclass(frozen=True, kw_only=True)
class Pair(Record):
    """A human-written seed pair (x, y)."""

    instruction: str
    response: str
    split: Literal["train", "holdout"]
    """`holdout` pairs are never trained on: they serve the audit and the evaluation."""
    source_uri: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Candidate(Record):
    """A segment with the instruction the backward model wrote for it: (x̂_i, y_i)."""

    instruction: str
    response: str
    """The segment's text, unchanged."""
    segment_id: str
    header_path: str
    source_uri: str
    title: str
    licence: str
    backward_model: str
    """Content hash of the backward model."""


@dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """A candidate with the scores one model gave it. Its id is the candidate's."""

    instruction: str
    response: str
    segment_id: str
    header_path: str
    source_uri: str
    title: str
    licence: str
    scores: Mapping[str, float]
    """Signal name to value; a signal without a value for this row is absent and named in `missing`."""
    missing: Mapping[str, str]
    """Signal name to the reason why it has no value: an unparsed rating is not a low rating."""
    scored_by: str
    """Content hash of the model that scored."""
    iteration: int


@dataclass(frozen=True, kw_only=True)
class Rewritten(Scored):
    """A curated pair whose response a model was asked to write anew; `response` is what is trained on."""

    document: str
    """The segment's text, unchanged."""
    draft: str
    """What the model wrote, taken or not."""
    fallback: str
    """Why the response is the document after all, in a word; empty for a rewritten one."""
    detail: str
    measures: Mapping[str, float]
    """Of a draft: `length` (against the document), `copied`, `shared`, `lift`, `document_lift`; empty where none was measured."""
    rewritten_by: str
    """Content hash of the model that was asked."""


@dataclass(frozen=True, kw_only=True)
class Example(Record):
    """One rendered training row: what the trainer sees, and where it came from."""

    origin: Literal["seed", "web"]
    tag: str
    """Tag sentence appended to the instruction; empty for the backward model."""
    instruction: str
    response: str
    parent_id: str
    """Id of the seed pair or candidate."""
    segment_id: str
    """Id of the segment whose text is the response; empty for a seed pair."""
    source_uri: str
    licence: str
    sampling: float
    """Draws per epoch, on average: how often the row is trained on."""
    weight: float
    """Of the row's loss; 1 counts each of its label tokens once."""
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    """-100 where no loss is taken; same length as `input_ids`."""


@dataclass(frozen=True, kw_only=True)
class Rejected(Record):
    """A row that a stage did not keep, and why. Its id is the row's."""

    reason: str
    """A stable word, counted in the manifest."""
    detail: str
    """What exactly: values, limits, file and line."""
    failed: bool = False
    """True when the stage could not judge the row (an engine error), False when it judged it unfit."""
    row: str = "{}"
    """The row as JSON, with its scores when it has any."""


def schema_of(kind: type[Record]) -> pa.Schema:
    """Return the Arrow schema of a record type, columns in field order."""
    import pyarrow as pa

    hints = typing.get_type_hints(kind)
    return pa.schema([pa.field(f.name, _arrow_type(hints[f.name]), nullable=False) for f in dataclasses.fields(kind)])


def _arrow_type(hint: object) -> pa.DataType:
    import pyarrow as pa

    plain: dict[object, pa.DataType] = {
        str: pa.string(),
        bytes: pa.binary(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
    }
    if hint in plain:
        return plain[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return pa.string()
    if origin is tuple:
        return pa.list_(plain[args[0]])
    if origin in (Mapping, dict, types.MappingProxyType):
        return pa.map_(plain[args[0]], plain[args[1]])
    raise TypeError(f"a record field of type {hint!r} has no Arrow type; add it to records._arrow_type")


def to_row(record: Record) -> dict[str, Any]:
    """Return a record as a plain dict that Arrow and JSON can write; mappings become sorted dicts."""
    row: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Mapping):
            value = dict(sorted(value.items()))
        elif isinstance(value, tuple):
            value = list(value)
        row[field.name] = value
    return row


def from_row(kind: type[R], row: Mapping[str, Any]) -> R:
    """Build a record from a row as Arrow gives it, maps as dicts."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = row[field.name]
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
