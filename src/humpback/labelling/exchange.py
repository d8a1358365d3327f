"""Labels out to a sheet and back in: CSV for a spreadsheet, JSONL for programs; the file's suffix says which.

Out: the pairs with the labels there are. In: lines with `id` and `label` (1 to 5) or `good`; `labeller` and `note` may be there,
other columns are not read. A line that cannot be taken is named with its reason and counted; the others are taken together or,
when the disk refuses, not at all.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from humpback.errors import InputError
from humpback.evaluation.labellog import (
    FILE_NAME,
    Event,
    append_events,
    is_good,
    make_event,
    pair_digest,
    read_events,
    standing_events,
)
from humpback.labelling.sample import Population, Shown, draw
from humpback.report.figures import clean
from humpback.store.shards import atomic_write

__all__ = ["COLUMNS", "Imported", "export_labels", "import_labels"]

COLUMNS = ("id", "instruction", "response", "label", "good", "labeller", "note", "time", "stratum", "stratum_rows")
SUFFIXES = (".csv", ".jsonl")
_TRUE, _FALSE = ("true", "1", "yes", "good", "g"), ("false", "0", "no", "bad", "b")
_FORMULA = ("=", "+", "-", "@")
Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of the lines of a file: read = taken + unchanged + empty + repeated + rejected."""

    read: int
    taken: int
    unchanged: int
    """Lines that say what is known already."""
    empty: int
    """Lines without a label."""
    repeated: int
    """Lines that a later one on the same pair by the same labeller replaces."""
    rejected: Sequence[str]
    """Line and reason of each line that is not taken."""


def export_labels(
    population: Population, path: Path, *, labeller: str | None, count: int, show_scores: bool
) -> tuple[int, int]:
    """Write labels and return how many rows, and how many of them have a label.

    With a labeller: that person's sheet, `count` pairs of the sample, filled as far as labelled. Without: every label there is.
    A file that holds labels which the run does not know is not written over.
    """
    _check_suffix(path)
    standing = [e for e in standing_events(read_events(population.run / FILE_NAME)) if e.event == "label"]
    _check_unread(path, standing, labeller)
    standing = [event for event in standing if labeller in (None, event.labeller)]
    done = {event.pair_id for event in standing}
    open_ids: list[str] = []
    if labeller is not None:
        coming = (place.pair_id for place in draw(population) if place.pair_id not in done)
        open_ids = list(islice(coming, max(count - len(standing), 0)))
    texts, strata = population.read(done | set(open_ids)), population.stratum_of()
    rows = [_row(texts.get(event.pair_id), event.pair_id, event, show_scores=show_scores) for event in standing]
    for pair_id in open_ids:
        row = _row(texts[pair_id], pair_id, None, show_scores=show_scores)
        rows.append({**row, "labeller": labeller or "", "stratum": strata[pair_id] if show_scores else ""})
    _write(path, rows)
    return len(rows), len(standing)


def _check_unread(path: Path, known: Sequence[Event], labeller: str | None) -> None:
    """Refuse to write over a sheet that was filled in and not imported: it may be an hour of somebody's work."""
    if not path.exists():
        return
    said = {(event.labeller, event.pair_id): (event.label, event.good) for event in known}
    unread = 0
    try:
        for _, row in _read(path):
            pair_id, whose = (str(row.get(name) or "").strip() for name in ("id", "labeller"))
            told = _parse(row, pair_id, known=True)
            unread += told is not None and told != said.get((whose or labeller or "", pair_id))
    except InputError as error:
        raise InputError(f"{path} exists and is no sheet of labels; name another file ({error})") from None
    if unread:
        raise InputError(
            f"{path} exists and holds {unread} labels that the run does not know; take them with --import {path} first, "
            "or name another file"
        )


def _row(pair: Shown | None, pair_id: str, event: Event | None, *, show_scores: bool) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row["id"] = pair_id
    if pair:
        row |= {"instruction": pair.instruction, "response": pair.response}
    if event:
        row |= {"label": event.label or "", "good": bool(event.good), "labeller": event.labeller, "note": event.note}
        row |= {"time": event.time, "stratum": event.stratum, "stratum_rows": event.stratum_rows}
    if show_scores and pair:
        row |= dict(sorted(pair.scores.items()))
    return row


def _write(path: Path, rows: Sequence[Row]) -> None:
    if path.suffix == ".jsonl":
        lines = [json.dumps({k: None if v == "" else v for k, v in row.items()}) + "\n" for row in rows]
        atomic_write(path, "".join(lines).encode())
        return
    names = list(dict.fromkeys(name for row in [dict.fromkeys(COLUMNS), *rows] for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    atomic_write(path, text.getvalue().encode("utf-8", "replace"))


def _cell(value: object) -> object:
    """Return a cell that a spreadsheet takes as text: a page from the web may begin with a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + clean(value) if value.startswith(_FORMULA) else clean(value)
    return value


def import_labels(population: Population, path: Path, *, labeller: str) -> Imported:
    """Take the labels of a file; `labeller` is whose they are where the file does not say."""
    lines = list(_read(path))
    strata, texts = population.stratum_of(), population.read({str(row.get("id") or "").strip() for _, row in lines})
    log = population.run / FILE_NAME
    known = {(e.labeller, e.pair_id): e for e in standing_events(read_events(log)) if e.event == "label"}
    rejected: list[str] = []
    found: dict[tuple[str, str], Event] = {}
    counts: Counter[str] = Counter()
    for number, row in lines:
        pair_id = str(row.get("id") or "").strip()
        said = _parse(row, pair_id, known=pair_id in texts)
        if isinstance(said, str):
            rejected.append(f"line {number}: {said}")
        elif said is None:
            counts["empty"] += 1
        else:
            pair, stratum = texts[pair_id], strata[pair_id]
            event = make_event(
                "label",
                pair_id=pair_id,
                digest=pair_digest(pair.instruction, pair.response),
                labeller=str(row.get("labeller") or "").strip() or labeller,
                label=said[0],
                good=said[1],
                note=str(row.get("note") or "").strip(),
                design=population.design,
                stratum=stratum,
                stratum_rows=len(population.strata[stratum]),
            )
            counts["repeated"] += (event.labeller, pair_id) in found
            found[event.labeller, pair_id] = event
    fresh = [event for key, event in found.items() if _says(event) != _says(known.get(key))]
    append_events(log, fresh)
    return Imported(
        read=len(lines),
        taken=len(fresh),
        unchanged=len(found) - len(fresh),
        empty=counts["empty"],
        repeated=counts["repeated"],
        rejected=rejected,
    )


def _says(event: Event | None) -> tuple[object, ...] | None:
    return (event.label, event.good, event.note, event.digest) if event else None


def _parse(row: Row, pair_id: str, *, known: bool) -> tuple[int | None, bool] | str | None:
    """Return what a line says, why it cannot be taken, or None when it says nothing."""
    label_text, good_text = (_text(row.get(name)) for name in ("label", "good"))
    if not pair_id:
        return "it has no id"
    if not known:
        return f"no candidate of this run has the id {clean(pair_id[:40])!r}"
    if not label_text and not good_text:
        return None
    label = None
    if label_text:
        try:
            number = float(label_text)
        except ValueError:
            number = 0.0
        if number not in (1, 2, 3, 4, 5):
            return f"label {clean(label_text[:40])!r} is no whole number from 1 to 5"
        label = int(number)
    if not good_text:
        assert label is not None
        return label, is_good(label)
    if good_text not in (*_TRUE, *_FALSE):
        return f"good {clean(good_text[:40])!r} is neither true nor false"
    return label, good_text in _TRUE


def _text(value: object) -> str:
    return "" if value is None else str(value).strip().lower()


def _read(path: Path) -> Iterator[tuple[int, Row]]:
    _check_suffix(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a .csv or .jsonl file of labels") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    return _read_jsonl(path, text) if path.suffix == ".jsonl" else _read_csv(path, text)


def _read_jsonl(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is not JSON ({error}); nothing is imported") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} holds {type(row).__name__}, not an object; nothing is imported")
        _check_columns(path, row, f"line {number}")
        yield number, row


def _read_csv(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)  # a spreadsheet writes what its country does
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        _check_columns(path, reader.fieldnames or (), "its first line")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV ({error}); nothing is imported") from None


def _check_columns(path: Path, names: Iterable[str], where: str) -> None:
    there = list(names)
    if "id" not in there or not {"label", "good"} & set(there):
        shown = clean(", ".join(map(str, there))[:200]) or "none"
        raise InputError(
            f"{path}: {where} has the columns {shown}; it needs `id` and `label` or `good` (and may have `labeller`, "
            "`note`); `humpback label RUN --export FILE --labeller NAME` writes a sheet to fill in"
        )


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} ends in neither {' nor '.join(SUFFIXES)}; name the file so that its kind is known")
