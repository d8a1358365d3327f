"""`labels.jsonl` of a run: what people said of its candidates, one event a line, only ever added to.

An event is a label, a skip, or an undo that takes back its labeller's last standing event on a pair. A later label of the same
labeller on the same pair replaces the earlier one. The line is on the disk before the next pair is shown; a line that a kill cut
off is no event, and is ended before the next one is written.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import humpback
from humpback.errors import StorageError
from humpback.records import content_id
from humpback.store.shards import storage_errors

__all__ = [
    "FILE_NAME",
    "GOOD_FROM",
    "Event",
    "append_events",
    "is_good",
    "make_event",
    "pair_digest",
    "read_events",
    "standing_events",
]

FILE_NAME = "labels.jsonl"
GOOD_FROM = 4
"""A label of 4 or 5 is good: the paper's A_4 keeps what is rated at least 4."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the file."""

    event: Literal["label", "skip", "undo"]
    pair_id: str
    """Id of the candidate."""
    digest: str
    """Of the instruction and response that were shown."""
    label: int | None = None
    """1 to 5; None when only good or bad was said."""
    good: bool | None = None
    """Set in every label: as said, else whether `label` is at least 4."""
    labeller: str
    time: str
    """UTC, ISO 8601."""
    design: str = ""
    """Which cut into strata the pair was drawn by; labels of several cuts are weighted apart."""
    stratum: str = ""
    stratum_rows: int = 0
    """Candidates of the run in that stratum. Divided by the labelled ones it is the weight of a label: how many it speaks for."""
    note: str = ""
    version: str = ""
    """humpback that wrote it."""


def is_good(label: int) -> bool:
    return label >= GOOD_FROM


def pair_digest(instruction: str, response: str) -> str:
    return content_id("labelled", instruction, response)


def make_event(
    event: Literal["label", "skip", "undo"],
    *,
    pair_id: str,
    digest: str,
    labeller: str,
    label: int | None = None,
    good: bool | None = None,
    note: str = "",
    design: str = "",
    stratum: str = "",
    stratum_rows: int = 0,
) -> Event:
    """Return an event of now; `good` follows from `label` where it is not said."""
    return Event(
        event=event,
        pair_id=pair_id,
        digest=digest,
        label=label,
        good=is_good(label) if good is None and label is not None else good,
        labeller=labeller,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        design=design,
        stratum=stratum,
        stratum_rows=stratum_rows,
        note=note,
        version=humpback.__version__,
    )


def append_events(path: Path, events: Iterable[Event]) -> None:
    """Add events in one write, synced. Several labellers may write at the same time."""
    lines = "".join(json.dumps(dataclasses.asdict(event), sort_keys=True) + "\n" for event in events).encode()
    if not lines:
        return
    with storage_errors(path), path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                lines = b"\n" + lines  # a kill cut the last line off: it must not spoil this one
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def read_events(path: Path) -> list[Event]:
    """Return the events in order; none when there is no file. A cut-off line is passed over, a damaged one is refused."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                events.append(_parse(json.loads(line)))
        except (ValueError, TypeError) as error:
            if _cut_off(line):
                continue
            raise StorageError(
                f"{path}, line {number} is damaged ({error}); mend or delete that line, the others are kept"
            ) from error
    return events


def _cut_off(line: bytes) -> bool:
    """Tell a line that a kill cut off: it begins as one of ours does and has no end."""
    return line.startswith(b"{") and not line.rstrip().endswith(b"}")


def _parse(row: object) -> Event:
    if not isinstance(row, dict):
        raise ValueError("it is no object")
    event = Event(**row)
    if event.event not in ("label", "skip", "undo"):
        raise ValueError(f"event {event.event!r} is none of label, skip and undo")
    if event.event == "label" and not isinstance(event.good, bool):
        raise ValueError("a label that is neither good nor bad")
    return event


def standing_events(events: Sequence[Event]) -> list[Event]:
    """Return the labels and skips that hold: the last of each labeller on each pair that is not undone, in order."""
    stacks: dict[tuple[str, str], list[tuple[int, Event]]] = {}
    for index, event in enumerate(events):
        stack = stacks.setdefault((event.labeller, event.pair_id), [])
        if event.event != "undo":
            stack.append((index, event))
        elif stack:
            stack.pop()
    return [event for _, event in sorted((stack[-1] for stack in stacks.values() if stack), key=lambda item: item[0])]
