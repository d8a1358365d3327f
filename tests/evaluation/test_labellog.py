"""labels.jsonl: what stands after labels, skips and undos, and after a kill in the middle of a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from humpback.errors import StorageError
from humpback.evaluation.labellog import Event, append_events, make_event, read_events, standing_events


def _event(kind: Any, pair_id: str, labeller: str = "ann", **more: Any) -> Event:
    return make_event(kind, pair_id=pair_id, digest="d", labeller=labeller, **more)


def _standing(*events: Event) -> list[tuple[str, str, bool | None]]:
    return [(event.labeller, event.pair_id, event.good) for event in standing_events(events)]


def test_four_and_five_are_good_unless_something_else_is_said() -> None:
    assert [_event("label", "a", label=label).good for label in range(1, 6)] == [False, False, False, True, True]
    assert _event("label", "a", label=3, good=True).good is True


def test_later_label_replaces_the_labellers_own_and_no_other() -> None:
    told = (_event("label", "a", label=1), _event("label", "a", "bob", label=1), _event("label", "a", label=5))
    assert _standing(*told) == [("bob", "a", False), ("ann", "a", True)]


def test_undo_takes_back_the_last_event_and_brings_back_the_one_before() -> None:
    first, second, undo = _event("label", "a", label=1), _event("label", "a", label=5), _event("undo", "a")
    assert _standing(first, second, undo) == [("ann", "a", False)]
    assert _standing(first, second, undo, undo) == []
    assert _standing(first, undo, undo, second) == [("ann", "a", True)]
    assert _standing(first, _event("undo", "a", "bob")) == [("ann", "a", False)]


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    events = [_event("label", "a", label=4, note="caf\u00e9\n\u2028"), _event("skip", "b")]
    append_events(path, events[:1])
    append_events(path, events[1:])
    append_events(path, [])
    assert read_events(path) == events


def test_line_that_a_kill_cut_off_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    events = [_event("label", name, label=4) for name in "abc"]
    append_events(path, events[:2])
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1])):
        path.write_bytes(whole[: -1 - cut])
        append_events(path, [events[2]])
        assert read_events(path) == [events[0], events[2]], cut


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[]", "no object"),
        (b"nonsense", "damaged"),
        (b'{"event": "label"}', "pair_id"),
        (b'{"event": "x", "pair_id": "a", "digest": "", "labeller": "a", "time": ""}', "none of label, skip"),
        (b'{"event": "label", "pair_id": "a", "digest": "", "labeller": "a", "time": ""}', "neither good nor bad"),
    ],
)
def test_damaged_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "labels.jsonl"
    append_events(path, [_event("skip", "a")])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(StorageError, match=f"line 2.*{words}"):
        read_events(path)


def test_no_file_is_no_labels(tmp_path: Path) -> None:
    assert read_events(tmp_path / "labels.jsonl") == []


def test_every_label_is_on_the_disk_when_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    append_events(tmp_path / "labels.jsonl", [_event("skip", "a")])
    assert len(synced) == 1
