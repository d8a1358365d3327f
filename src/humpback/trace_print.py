"""A row's trace for a person, or as JSON. In: what `trace.py` found. Out: lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humpback.trace import escape, trace

__all__ = ["list_lines", "print_trace"]

_SHOWN_CHARS = 300
Row = dict[str, Any]


def print_trace(run: Path, row_id: str, *, as_json: bool) -> None:
    """Print the trace of a row for a person, or as JSON (ASCII only: hostile text cannot steer a terminal)."""
    found = trace(run, row_id)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    encoding = sys.stdout.encoding or "utf-8"
    for label, text in list_lines(found):
        line = f"{label:<14}{escape(text)}".rstrip()
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def list_lines(found: Row) -> Iterator[tuple[str, str]]:
    """Yield label and text of every line that a person reads."""
    yield "row", f"{found['id']}  {_tell_places(found['found_in'])}"
    yield from _source_lines(found)
    if candidate := found["candidate"]:
        yield "instruction", f"candidate {candidate['id']} by {_model(found['written_by'])}"
        yield "", _excerpt(candidate["instruction"])
    for rejection in found["rejections"]:
        if not rejection["stage"].endswith(("/score", "/curate")):
            word = "failed" if rejection["failed"] else "rejected"
            yield word, f"by {rejection['stage']}: {_tell_reason(rejection)}"
    for entry in found["iterations"]:
        yield from _iteration_lines(entry)
    for mix, model in zip(found["mixes"], found["models"], strict=True):
        yield "entered", f"{mix['stage']} as example {mix['id']} ({mix['origin']}) -> {_model(model)}"
    yield from _model_lines(found)
    if not found["mixes"]:
        yield "entered", "no mix: no model of this run is trained on it"
    row = found["dataset"]
    yield "dataset", f"row {row['id']} in {row['file']}" if row else "not in the dataset"
    if not found["run_complete"]:
        yield "note", "the run is not complete: this is what it holds so far"


def _tell_places(places: list[Row]) -> str:
    """Return the stages that hold the row: their names say what it is there."""
    held = [place["stage"] for place in places if place["prefix"] != "rejected"]
    rejected = [place["stage"] for place in places if place["prefix"] == "rejected"]
    told = [f"in {', '.join(held)}"] if held else []
    return "; ".join([*told, *([f"rejected in {', '.join(rejected)}"] if rejected else [])])


def _source_lines(found: Row) -> Iterator[tuple[str, str]]:
    source = found["source"]
    offset = "" if source["offset"] is None else f", from character {source['offset']:,}"
    yield "source", f"{source['source_uri'] or 'not recorded'}{offset}"
    if source["location"] and source["location"] != source["source_uri"]:
        yield "", f"read from: {source['location']}"
    if source["time"]:
        yield "", f"time: {source['time']}"
    if source["header_path"]:
        yield "", f"headers: {source['header_path']}"
    yield "", f"licence: {source['licence'] or 'not stated'}"
    if pair := found["seed_pair"]:
        held = "held out: never trained on, serves the audits and the evaluation"
        yield "seed pair", f"{pair['id']}  {held if pair['split'] == 'holdout' else 'to train on'}"
        yield "", _excerpt(pair["instruction"])
    if segment := found["segment"]:
        yield "segment", f"{segment['id']}  {len(segment['text']):,} characters"
        yield "", _excerpt(segment["text"])


def _iteration_lines(entry: Row) -> Iterator[tuple[str, str]]:
    label = f"iteration {entry['iteration']}"
    if entry["scored_by"] is None:
        yield label, "not scored" if entry["reason"] else "not scored yet"
    else:
        scores = [f"{name} {value:.3f}" for name, value in entry["scores"].items()]
        scores += [f"no {name} ({reason})" for name, reason in entry["missing"].items()]
        yield label, f"scored by {_model(entry['scored_by'])}: {', '.join(scores)}"
    decision = entry["decision"]
    by = f" by {decision['signal']} ({decision['policy']} {decision['value']:g})" if decision else ""
    yield "", f"{entry['verdict']}{by}" + (f": {_tell_reason(entry)}" if entry["reason"] else "")
    if row := entry["rewritten"]:
        if row["fallback"]:
            yield "", f"not rewritten, it keeps its document: {row['fallback']}: {row['detail']}"
        else:
            yield "", f"rewritten by {row['rewritten_by']}: {_excerpt(row['response'])}"


def _tell_reason(row: Row) -> str:
    """Return reason and detail; the detail without the word that the reason ends in (no_rating_too_long: too_long: ...)."""
    word, colon, rest = row["detail"].partition(": ")
    doubled = colon and (row["reason"] == word or row["reason"].endswith(f"_{word}"))
    return f"{row['reason']}: {rest if doubled else row['detail']}"


def _model(model: Row) -> str:
    return f"{model['name']} (not trained yet)" if model["content_hash"] is None else model["name"]


def _model_lines(found: Row) -> Iterator[tuple[str, str]]:
    """Tell each model that was named, once."""
    named = [found["written_by"], *(entry["scored_by"] for entry in found["iterations"]), *found["models"]]
    trained = {model["name"]: model for model in named if model and model["content_hash"]}
    for name, model in trained.items():
        yield "model", f"{name}  {model['content_hash']}  {model['folder'] or 'its folder is gone'}"


def _excerpt(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} ..."
