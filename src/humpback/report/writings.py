"""What the run's models wrote, to be read and not chosen: instructions of the backward model, answers of the kept model.

In: a run's stages `augment` and `answers`. Out: rows for the report's JSON, and their Markdown. The first by id are no selection: ids
are hashes. Instructions that were not kept are among them, with the reason.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from humpback.errors import StorageError
from humpback.records import Candidate, Rejected
from humpback.report import figures
from humpback.report.markdown import code, escape, fenced
from humpback.store.rundir import Manifest, RunDir
from humpback.store.shards import read_records, shard_files

__all__ = ["first_instructions", "read_answers", "tell_answers", "tell_instructions"]

SHOWN_INSTRUCTIONS = 20
SEGMENT_CHARS, INSTRUCTION_CHARS, ANSWER_CHARS = 400, 500, 1000
Row = Mapping[str, Any]


def first_instructions(run_dir: RunDir, count: int = SHOWN_INSTRUCTIONS) -> list[dict[str, Any]]:
    """Return what the backward model wrote for the first segments by id, kept or not."""
    folder = run_dir.folder("augment")
    kept = (_of_candidate(row) for row in read_records(shard_files(folder, "candidates"), Candidate))
    rejected = (_of_rejected(row) for row in read_records(shard_files(folder, "rejected"), Rejected))
    return heapq.nsmallest(count, itertools.chain(kept, rejected), key=lambda row: row["segment_id"])


def read_answers(run_dir: RunDir, by_name: Mapping[str, Manifest]) -> dict[str, Any] | None:
    """Return the answers to held-out instructions; None where the recipe asks for none, whatever it asked for before."""
    path = run_dir.folder("answers") / "answers.json"
    if "answers" not in by_name:
        return None
    try:
        answers: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}); run again with --rerun-from answers") from error
    return answers


def _of_candidate(row: Candidate) -> dict[str, Any]:
    return {
        "segment_id": row.segment_id,
        "instruction": row.instruction,
        "reason": None,
        "source_uri": row.source_uri,
        "text": figures.shorten(row.response, SEGMENT_CHARS),
    }


def _of_rejected(rejected: Rejected) -> dict[str, Any]:
    row = json.loads(rejected.row)
    return {
        "segment_id": rejected.id,
        "instruction": row.get("instruction", ""),  # an engine that failed wrote none
        "reason": rejected.reason,
        "source_uri": row["source_uri"],
        "text": figures.shorten(row["text"], SEGMENT_CHARS),
    }


def tell_instructions(rows: Sequence[Row]) -> Iterator[str]:
    """Yield Markdown: each instruction, and the beginning of the segment it was written for."""
    yield (
        "Written by M_yx for segments it was not trained on, the first by the segment's id and not chosen; those that were not kept "
        "are among them. Below each the beginning of its segment."
    )
    yield ""
    for number, row in enumerate(rows, start=1):
        fate = f" Not kept: {escape(row['reason'])}." if row["reason"] else ""
        yield f"{number}. `{row['segment_id']}` from {code(row['source_uri'])}.{fate}"
        yield ""
        yield from _indented(f"{figures.shorten(row['instruction'], INSTRUCTION_CHARS)}\n---\n{row['text']}")
        yield ""


def tell_answers(answers: Row) -> Iterator[str]:
    """Yield Markdown: each held-out instruction, the answers with its tags, and how long they are together."""
    drawn = sum(answer["tokens"] for row in answers["rows"] for answer in row["answers"].values())
    yield (
        f"{answers['model']} on the first held-out instructions by id, not chosen, greedily, at most {answers['max_tokens']} tokens "
        f"each, {figures.count(drawn)} in all."
    )
    yield ""
    for number, row in enumerate(answers["rows"], start=1):
        yield f"{number}. `{row['pair_id']}`"
        yield ""
        yield from _indented(figures.shorten(row["instruction"], INSTRUCTION_CHARS))
        yield ""
        people = {"text": row["response"], "finish": "stop", "error": None}
        for name, answer in {**row["answers"], "the human answer": people}.items():
            yield f"   {name}{tell_end(answer)}:"
            yield ""
            yield from _indented(answer["error"] or figures.shorten(answer["text"], ANSWER_CHARS))
            yield ""


def tell_end(answer: Row) -> str:
    """Return what is wrong with an answer's end, in words; empty where it ended by itself."""
    if answer["error"]:
        return " (the engine failed)"
    return " (did not end by itself)" if answer["finish"] == "length" else ""


def _indented(text: str) -> Iterable[str]:
    return (f"   {line}".rstrip() for line in fenced(text))
