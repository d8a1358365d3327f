"""What a run reads: the sections `seed` and `corpus`, and which of it is fit.

In: plain values of the recipe. Out: settings that `seeds/`, `corpus/`, `stages/ingest.py` and `ingesting.py` follow. `humpback ingest`
needs these alone.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from humpback.recipe.section import Section

__all__ = ["CorpusInput", "CorpusSettings", "EvaluationSet", "Filter", "SeedInput", "SeedSettings"]

Filter = Literal[
    "header_empty",
    "header_upper",
    "header_navigation",
    "mostly_not_text",
    "repeated_sentences",
    "stop_words",
    "word_lengths",
    "symbols",
    "line_ends",
    "repeated_lines",
    "boilerplate",
]
"""The rules of `corpus/quality.py` and `corpus/webrules.py`, cheapest first."""


class SeedInput(Section):
    """One JSONL file (.jsonl, .jsonl.gz) of human-written pairs."""

    path: str
    """A file, or `package:seed` for the pairs shipped with humpback."""
    instruction: str = "instruction"
    """Column of the instruction."""
    response: str = "response"
    """Column of the response."""
    skip_if: str | None = None
    """Rows where this column is not empty are left out (Dolly's `context`, Alpaca's `input`)."""
    licence: str = ""
    """Licence of the pairs, carried into the dataset."""


class SeedSettings(Section):
    """The seed D and the part of it that is held out."""

    inputs: list[SeedInput] = Field(min_length=1)
    sample: int | None = Field(None, ge=1)
    """Take this many pairs, chosen by content hash; null takes all."""
    holdout: int = Field(100, ge=8)
    """Pairs never trained on: they serve the audit and the evaluation."""
    max_response_chars: int = Field(6000, ge=1)
    """Longer responses are rejected with a reason."""


class CorpusInput(Section):
    """Documents: a file, a folder, an archive, `hub:OWNER/NAME` (a Hugging Face data set) or `pydoc:topics`.

    The kind of a file is told by its content first, then by its name: WARC, ARC, WET, HTML, Markdown, plain text, EPUB,
    JSONL, CSV, Parquet, Arrow; each also compressed (gzip, zstd, lz4), tar and zip archives of them.
    """

    path: str
    text: str = "text"
    """Column of the text (JSONL, CSV, Parquet, data sets)."""
    title: str = "title"
    """Column of the title; a missing column is an empty title."""
    header_path: str = "header_path"
    """Column of the header path (string or list) when records are ready segments."""
    source_uri: str = "source_uri"
    """Column of the record's own address; without it the record's location is its address."""
    licence_column: str = "licence"
    """Column of the record's own licence."""
    language: str = "language"
    """Column of the language, as an ISO 639-1 code."""
    time: str = "time"
    """Column of the time the record states for itself."""
    licence: str = ""
    """Licence of the documents, where the records do not state their own."""
    format: Literal["auto", "plain", "markdown", "html"] = "auto"
    """How headers are marked in the text; auto goes by content and name, in columns by each text's headers (`# Title`)."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    config: str | None = None
    """Configuration of a Hugging Face data set that has several."""


class EvaluationSet(Section):
    """Texts that must not be trained on: a JSONL file (.jsonl, .jsonl.gz) or a JSON list, one object per record."""

    path: str
    columns: list[str] = Field([])
    """Columns to protect; empty protects every string of a record, nested ones too."""


class CorpusSettings(Section):
    """What is cut into segments, and which segments are fit."""

    inputs: list[CorpusInput] = Field(min_length=1)
    sample: int | None = Field(None, ge=1)
    """Keep this many segments, chosen by content hash; null keeps all."""
    min_chars: int = Field(600, ge=1)
    """Shortest segment (paper: 600)."""
    max_chars: int = Field(3000, ge=1)
    """Longest segment (paper: 3,000)."""
    filters: list[Filter] = Field(list(get_args(Filter)))
    """Rules a segment must pass; the empty list passes all."""
    max_repetition: float = Field(0.5, gt=0, le=1)
    """Segments in which two sentences share more than this Jaccard similarity of word 3-grams are dropped."""
    languages: list[str] = Field([])
    """ISO 639-1 codes of the languages kept, for example [en]; empty keeps all."""
    min_language_score: float = Field(0.65, ge=0, le=1)
    """Surest language must be at least this probable (FineWeb: 0.65); only with `languages`."""
    pii: Literal["mask", "reject", "keep"] = "mask"
    """E-mail and IP addresses, numbers of phones, cards and social security, keys: masked, a reason to reject, or left."""
    licences: list[str] = Field([])
    """Licences kept, for example [CC0-1.0, CC-BY-4.0]; others and unstated ones are rejected. Empty keeps all."""
    near_duplicates: float | None = Field(0.75, gt=0, le=1)
    """Texts whose word 5-grams have at least this Jaccard similarity (by MinHash) are one; null removes exact duplicates only."""
    decontaminate: list[EvaluationSet] = Field([])
    """Evaluation sets: what shares a word 13-gram with one, or is one of its texts, is rejected."""
    max_rejected_chars: int = Field(100_000, ge=1)
    """Characters of its text that a rejected row keeps; `chars` in the row says how many there were."""
    max_line_bytes: int = Field(16_000_000, ge=1024)
    """Longest JSONL line, table cell or WARC record that is read, after decompression."""

    @field_validator("licences", "languages")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        if any(not item.strip() for item in value):
            raise ValueError(f"{value} names nothing in one place; take the empty name out")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> CorpusSettings:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars={self.min_chars} is above max_chars={self.max_chars}; no segment could pass")
        return self
