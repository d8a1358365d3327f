"""A row's way from its source to the dataset and the models it entered. In: a run folder and any row's id. Out: a dict.

Links are followed both ways: example -> parent_id -> candidate -> segment_id -> source, and back down from the segment.
Whole columns are read of ids only, text from the files that hold a match. An unfinished run is traced as far as it got.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from humpback.errors import InputError, StorageError
from humpback.store.rundir import RunDir, check_run
from humpback.store.shards import shard_files

__all__ = ["MIN_PREFIX", "print_trace", "trace"]

MIN_PREFIX = 6
"""Shortest beginning of an id that is looked up."""

_LISTED = 10
_SHOWN_CHARS = 300
Row = dict[str, Any]


def print_trace(run: Path, row_id: str, *, as_json: bool) -> None:
    """Print the trace of a row for a person, or as JSON (ASCII only: hostile text cannot steer a terminal)."""
    found = trace(run, row_id)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    encoding = sys.stdout.encoding or "utf-8"
    for label, text in _lines(found):
        line = f"{label:<14}{_escape(text)}".rstrip()
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def trace(run: Path, row_id: str) -> Row:
    """Return where a row comes from, how it was judged and what it entered; raise InputError when there is none."""
    tables = _Tables(run)
    full_id, places = _locate(tables, row_id)
    ids = {full_id, *(row["parent_id"] for room in tables.rooms for row in tables.examples(room, "id", {full_id}))}
    pair = tables.first("seed", "pairs", "id", ids)
    candidate = tables.first("augment", "candidates", "id", ids)
    segment_ids = {candidate["segment_id"]} if candidate else ids
    segment = tables.first("ingest", "segments", "id", segment_ids)
    candidate = candidate or tables.first("augment", "candidates", "segment_id", segment_ids)
    parents = {row["id"] for row in (pair, candidate) if row}
    rejections = list(tables.rejections(ids | segment_ids | parents))
    mixes = [mix for room in tables.rooms for mix in tables.mixes(room, parents)]
    return {
        "run": str(run),
        "id": full_id,
        "found_in": [place._asdict() for place in places],
        "source": _source([pair, segment, candidate, *(rejection["row"] for rejection in rejections)]),
        "seed_pair": pair,
        "segment": segment,
        "candidate": candidate,
        "written_by": tables.model("backward", candidate["backward_model"]) if candidate else None,
        "rejections": rejections,
        "iterations": [tables.iteration(room, parents, rejections) for room in tables.iterations] if candidate else [],
        "mixes": mixes,
        "models": [tables.model(mix["room"], tables.trained(mix["room"])) for mix in mixes],
        "dataset": tables.first("dataset/data", "train", "id", parents),
        "run_complete": tables.run_dir.state("report") == "done",
    }


# -- lookup ------------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    stage: str
    kind: str
    prefix: str


class _Tables:
    """The Parquet tables of one run folder, looked up by column."""

    def __init__(self, run: Path) -> None:
        check_run(run)
        self.run, self.run_dir = run, RunDir(run)
        numbers = sorted(int(path.name[10:]) for path in run.glob("iteration-*") if path.name[10:].isdecimal())
        self.iterations = [f"iteration-{number}" for number in numbers if number]
        self.rooms = ["backward", *(f"iteration-{number}" for number in numbers), "control"]

    def places(self) -> Iterator[_Place]:
        yield _Place("seed", "seed pair", "pairs")
        yield _Place("ingest", "segment", "segments")
        yield _Place("dedup", "segment", "segments")
        yield _Place("augment", "candidate", "candidates")
        for room in self.iterations:
            yield _Place(f"{room}/score", "scored candidate", "scored")
            yield _Place(f"{room}/curate", "curated pair", "curated")
            yield _Place(f"{room}/rewrite", "rewritten pair", "rewritten")
        yield _Place("control/draw", "drawn candidate", "drawn")
        for room in self.rooms:
            yield _Place(f"{room}/mix", "example", "mix")
        yield _Place("dataset/data", "dataset row", "train")

    def find(self, stage: str, prefix: str, where: pc.Expression, *columns: str) -> list[Row]:
        """Return the matching rows, of the named columns or of all but the tokens, each with its `file`."""
        files = [str(path) for path in shard_files(self.run / stage, prefix)]
        if not files:
            return []
        try:
            hits = ds.dataset(files, format="parquet").to_table(columns=["__filename"], filter=where)
            held = sorted(set(hits.column(0).to_pylist()))
            if not held:
                return []
            table = ds.dataset(held, format="parquet")
            names = columns or [name for name in table.schema.names if name not in ("input_ids", "labels", "marks")]
            rows: list[Row] = table.to_table(columns=[*names, "__filename"], filter=where).to_pylist()
        except PermissionError as error:
            raise StorageError(f"{self.run / stage} cannot be read ({error}); check its permissions") from error
        except (pa.ArrowInvalid, OSError) as error:
            fix = f"run again with --rerun-from {stage.removesuffix('/data')}"
            raise StorageError(f"{self.run / stage} is damaged ({error}); {fix}") from error
        maps = [name for name in names if pa.types.is_map(table.schema.field(name).type)]
        for row in rows:
            row.update({name: dict(row[name] or ()) for name in maps})
            row["file"] = Path(row.pop("__filename")).relative_to(self.run).as_posix()
        return rows

    def first(self, stage: str, prefix: str, column: str, values: Collection[str]) -> Row | None:
        rows = self.find(stage, prefix, pc.field(column).isin(sorted(values))) if values else []
        return rows[0] if rows else None

    def examples(self, room: str, column: str, values: Collection[str]) -> list[Row]:
        where = pc.field(column).isin(sorted(values))
        return self.find(f"{room}/mix", "mix", where, "id", "parent_id", "origin", "tag")

    def rejections(self, ids: Collection[str]) -> Iterator[Row]:
        for stage in dict.fromkeys(place.stage for place in self.places()):
            for row in self.find(stage, "rejected", pc.field("id").isin(sorted(ids))):
                yield {"stage": stage, **row, "row": json.loads(row["row"])}

    def mixes(self, room: str, parents: Collection[str]) -> Iterator[Row]:
        for row in self.examples(room, "parent_id", parents) if parents else []:
            yield {"room": room, "stage": f"{room}/mix", **row}

    def model(self, room: str, content_hash: str | None) -> Row:
        """Return a room's model; `content_hash` is None while it is not trained."""
        names = {"backward": "M_yx", "control": "control"}
        name = names.get(room) or f"M_{room.removeprefix('iteration-')}"
        folder = self.run / room / "finetune" / "model"
        return {"name": name, "content_hash": content_hash, "folder": str(folder) if folder.is_dir() else None}

    def trained(self, room: str) -> str | None:
        manifest = self.run_dir.manifest(f"{room}/finetune")
        return manifest.result["content_hash"] if manifest else None

    def iteration(self, room: str, ids: Collection[str], rejections: list[Row]) -> Row:
        """Return what one iteration made of a candidate."""
        number = int(room.removeprefix("iteration-"))
        scored = self.first(f"{room}/score", "scored", "id", ids)
        curated = self.first(f"{room}/curate", "curated", "id", ids)
        against = next((row for row in rejections if row["stage"] in (f"{room}/score", f"{room}/curate")), None)
        rewritten = self.first(f"{room}/rewrite", "rewritten", "id", ids)
        manifest = self.run_dir.manifest(f"{room}/curate")
        verdict = "curated" if curated else "not judged yet"
        if against:
            verdict = "failed" if against["failed"] else "rejected"
        return {
            "iteration": number,
            "scored_by": self.model(f"iteration-{number - 1}", scored["scored_by"]) if scored else None,
            "scores": scored["scores"] if scored else {},
            "missing": scored["missing"] if scored else {},
            "verdict": verdict,
            "reason": against["reason"] if against else None,
            "detail": against["detail"] if against else None,
            "decision": dict(manifest.result) if manifest else None,
            "rewritten": rewritten,
        }


def _locate(tables: _Tables, row_id: str) -> tuple[str, list[_Place]]:
    """Return the full id and the tables that hold it."""
    shown = _escape(row_id[:80])
    row_id = row_id.strip().lower()
    if len(row_id) < MIN_PREFIX:
        raise InputError(f"row id {shown!r} is too short; give the id, or at least its first {MIN_PREFIX} characters")
    places = [*tables.places()]
    places += [_Place(stage, "rejected row", "rejected") for stage in dict.fromkeys(place.stage for place in places)]
    held: dict[str, list[_Place]] = {}
    for place in places if row_id.isascii() else []:
        for row in tables.find(place.stage, place.prefix, pc.starts_with(pc.field("id"), row_id), "id"):
            held.setdefault(row["id"], []).append(place)
    found = row_id if row_id in held else next(iter(held), None)
    if found is None:
        raise InputError(
            f"no row of {tables.run} has the id {shown!r}; ids are in the `id` columns of its Parquet files, such as "
            f"{tables.run}/augment/candidates-*.parquet, */rejected-*.parquet or dataset/data/train-*.parquet"
        )
    if row_id not in held and len(held) > 1:
        first = {name: held[name][0] for name in sorted(held)[:_LISTED]}
        listed = "\n".join(f"  {name}  {place.kind} in {place.stage}" for name, place in first.items())
        more = f"\n  and {len(held) - _LISTED} more" if len(held) > _LISTED else ""
        raise InputError(f"row id {shown!r} begins {len(held)} ids; give more of it:\n{listed}{more}")
    return found, list(dict.fromkeys(held[found]))


def _source(rows: list[Row | None]) -> Row:
    """Return the address of the row in the user's own files, from the first record that knows it."""
    known = next((row for row in rows if row and "source_uri" in row), {})
    names = ("source_uri", "location", "offset", "header_path", "title", "licence", "time", "document_id")
    return {name: known.get(name) for name in names}


# -- printing ----------------------------------------------------------------------------------------------------------


def _lines(found: Row) -> Iterator[tuple[str, str]]:
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


def _escape(text: str) -> str:
    """Return the text on one line, without anything that could steer a terminal or turn the reading direction."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else character
        for character in text
    )
