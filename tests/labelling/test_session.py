"""A labeller's way: nothing is asked twice, nothing said is lost, and undo takes one step back."""

from __future__ import annotations

from pathlib import Path

import pytest

from humpback.evaluation.labellog import read_events
from humpback.evaluation.labels import read_labels
from humpback.labelling.sample import draw, load_population
from humpback.labelling.session import Session


@pytest.fixture
def run(copy_of_finished: Path) -> Path:
    return copy_of_finished


def _session(run: Path, labeller: str = "ann", count: int = 6) -> Session:
    return Session(load_population(run), labeller, count)


def _shown(session: Session) -> str:
    assert session.current is not None
    return session.current.pair_id


def test_pairs_come_in_the_order_of_the_draw_until_enough_are_labelled(run: Path) -> None:
    session, shown = _session(run), []
    while session.current is not None:
        shown.append(_shown(session))
        session.answer(label=4)
    assert shown == [place.pair_id for place in draw(load_population(run))][:6]
    assert (session.labelled, len(read_labels(run).pairs)) == (6, 6)


def test_a_new_session_goes_on_where_the_last_one_stopped(run: Path) -> None:
    first = _session(run)
    first.answer(label=4)
    first.skip()
    shown = _shown(first)
    again = _session(run)
    assert _shown(again) == shown
    assert (again.labelled, again.skipped, again.last) == (1, 1, "skipped")


def test_a_skipped_pair_is_replaced_and_not_labelled(run: Path) -> None:
    session = _session(run, count=2)
    skipped = _shown(session)
    session.skip()
    session.answer(good=True)
    session.answer(good=False)
    assert session.current is None
    assert skipped not in {pair.pair_id for pair in read_labels(run).pairs}
    assert len(read_labels(run).pairs) == 2


def test_undo_shows_the_pair_again_and_then_the_one_that_was_left(run: Path) -> None:
    session = _session(run)
    first = _shown(session)
    session.answer(label=1)
    second = _shown(session)
    assert session.undo() is True
    assert (_shown(session), session.labelled) == (first, 0)
    session.answer(label=5)
    assert _shown(session) == second
    assert [(pair.pair_id, pair.label) for pair in read_labels(run).pairs] == [(first, 5)]
    assert [event.event for event in read_events(session.path)] == ["label", "undo", "label"]


def test_undo_after_the_last_pair_opens_it_again(run: Path) -> None:
    session = _session(run, count=1)
    shown = _shown(session)
    session.answer(label=1)
    assert session.current is None
    assert session.undo()
    assert _shown(session) == shown


def test_undo_reaches_into_the_last_session_and_takes_back_no_one_elses(run: Path) -> None:
    first = _session(run)
    shown = _shown(first)
    first.answer(label=1)
    assert _session(run, "bob").undo() is False
    again = _session(run)
    assert again.undo()
    assert _shown(again) == shown


def test_two_labellers_are_asked_the_same_pairs(run: Path) -> None:
    shown = []
    for name in ("ann", "bob"):
        session = _session(run, name)
        shown.append([])
        while session.current is not None:
            shown[-1].append(_shown(session))
            session.answer(label=4)
    assert shown[0] == shown[1]


def test_a_run_has_an_end(run: Path) -> None:
    session = _session(run, count=1000)
    while session.current is not None:
        session.answer(label=4)
    assert session.labelled == sum(map(len, load_population(run).strata.values()))
    assert sum(pair.weight for pair in read_labels(run).pairs) == session.labelled
