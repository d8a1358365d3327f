"""Records for the stage tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from humpback.records import Pair, Scored, Segment, content_id

PAIR = Pair(id="", instruction="", response="", split="train", source_uri="u", licence="CC0")
SEGMENT = Segment(
    id="", text="", header_path="", source_uri="u", offset=0, title="", licence="CC0", language="", document_id="d"
)
SCORED = Scored(
    id="",
    instruction="",
    response="",
    segment_id="s",
    header_path="",
    source_uri="u",
    title="",
    licence="CC0",
    scores={},
    missing={},
    scored_by="m",
    iteration=1,
)


@pytest.fixture
def make_segment() -> Callable[..., Segment]:
    return lambda text, place="": dataclasses.replace(SEGMENT, id=content_id(text, place), text=text)


@pytest.fixture
def make_pair() -> Callable[..., Pair]:
    def make(instruction: str, response: str) -> Pair:
        return dataclasses.replace(
            PAIR, id=content_id(instruction, response), instruction=instruction, response=response
        )

    return make


@pytest.fixture
def make_scored() -> Callable[..., Scored]:
    def make(row_id: str, instruction: str = "", response: str = "So.", missing: str = "", **scores: float) -> Scored:
        return dataclasses.replace(
            SCORED,
            id=row_id,
            instruction=instruction or f"What is {row_id}?",
            response=response,
            scores=scores,
            missing={"rating": missing} if missing else {},
        )

    return make
