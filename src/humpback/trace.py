"""A row's way from its source to the dataset and the models it entered. In: a run folder and any row's id. Out: a dict.

Links are followed both ways: example -> parent_id -> candidate -> segment_id -> source, and back down from the segment.
Whole columns are read of ids only, text from the files that hold a match. An unfinished run is traced as far as it got.
"""

from __future__ import annotations

import json
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

__all__ = ["MIN_PREFIX", "escape", "trace"]

MIN_PREFIX = 6
"""Shortest beginning of an id that is looked up."""

_LISTED = 10
Row = dict[str, Any]


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
    shown = escape(row_id[:80])
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


def escape(text: str) -> str:
    """Return the text on one line, without anything that could steer a terminal or turn the reading direction."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else character
        for character in text
    )
