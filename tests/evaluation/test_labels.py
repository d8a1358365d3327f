"""The labelled pairs of a run: verdicts, weights, and labels that no longer fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.evaluation.labellog import FILE_NAME, Event, append_events, make_event, pair_digest
from humpback.evaluation.labels import read_labels, weigh

if TYPE_CHECKING:
    from tests.conftest import Lab


def _label(row: dict[str, Any], label: int, labeller: str = "ann", stratum: str = "s", rows: int = 10) -> Event:
    return make_event(
        "label",
        pair_id=row["id"],
        digest=pair_digest(row["instruction"], row["response"]),
        labeller=labeller,
        label=label,
        design="d",
        stratum=stratum,
        stratum_rows=rows,
    )


@pytest.fixture
def rows(lab: Lab, finished: Path) -> list[dict[str, Any]]:
    return lab.rows(finished, "augment", "candidates")


def test_run_without_labels_has_none(finished: Path) -> None:
    labels = read_labels(finished)
    assert (labels.pairs, labels.gone, labels.split) == ((), 0, 0)


def test_labels_come_with_the_text_they_are_of(copy_of_finished: Path, rows: list[dict[str, Any]]) -> None:
    append_events(copy_of_finished / FILE_NAME, [_label(rows[0], 5), _label(rows[1], 2)])
    found = {pair.pair_id: pair for pair in read_labels(copy_of_finished).pairs}
    assert sorted(found) == sorted(row["id"] for row in rows[:2])
    assert found[rows[0]["id"]].response == rows[0]["response"]
    assert (found[rows[0]["id"]].good, found[rows[1]["id"]].good) == (True, False)
    assert found[rows[1]["id"]].label == 2


def test_majority_decides_and_a_tie_is_no_verdict(copy_of_finished: Path, rows: list[dict[str, Any]]) -> None:
    events = [_label(rows[0], 5), _label(rows[0], 4, "bob"), _label(rows[0], 1, "cid")]
    events += [_label(rows[1], 5), _label(rows[1], 1, "bob")]
    append_events(copy_of_finished / FILE_NAME, events)
    labels = read_labels(copy_of_finished)
    (pair,) = labels.pairs
    assert (pair.good, pair.labellers, pair.label) == (True, 3, pytest.approx(10 / 3))
    assert labels.split == 1


def test_label_of_a_candidate_that_is_gone_or_reads_otherwise_is_counted_and_not_used(
    copy_of_finished: Path, rows: list[dict[str, Any]]
) -> None:
    other = {**rows[1], "response": "Another text."}
    gone = {**rows[2], "id": "0" * 16}
    append_events(copy_of_finished / FILE_NAME, [_label(rows[0], 5), _label(other, 5), _label(gone, 5)])
    labels = read_labels(copy_of_finished)
    assert [pair.pair_id for pair in labels.pairs] == [rows[0]["id"]]
    assert labels.gone == 2


def test_weights_of_a_stratum_sum_to_its_rows() -> None:
    row = {"instruction": "", "response": ""}
    events = [_label({**row, "id": "a"}, 5, stratum="big", rows=90)]
    events += [_label({**row, "id": name}, 5, stratum="small", rows=10) for name in "bc"]
    assert weigh(events) == {"a": 90, "b": 5, "c": 5}


def test_two_cuts_into_strata_share_the_whole_by_their_number_of_labels() -> None:
    row = {"instruction": "", "response": ""}
    import dataclasses

    events = [_label({**row, "id": name}, 5, rows=100) for name in "abc"]
    events += [dataclasses.replace(_label({**row, "id": "d"}, 5, rows=100), design="other")]
    weights = weigh(events)
    assert weights == {"a": 25, "b": 25, "c": 25, "d": 25}


def test_identity_changes_with_what_is_said_and_not_with_who_or_when(
    copy_of_finished: Path, rows: list[dict[str, Any]]
) -> None:
    path = copy_of_finished / FILE_NAME
    append_events(path, [_label(rows[0], 5)])
    before = read_labels(copy_of_finished).identity()
    path.unlink()
    append_events(path, [_label(rows[0], 2, "bob"), _label(rows[0], 5, "bob")])
    assert read_labels(copy_of_finished).identity() == before
    append_events(path, [_label(rows[1], 1)])
    after = read_labels(copy_of_finished).identity()
    assert (before["pairs"], after["pairs"]) == (1, 2)
    assert before["digest"] != after["digest"]
