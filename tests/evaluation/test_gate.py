"""The gate's measures on drafts of known faults, and when one of them stops the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from humpback.engines.base import Completion
from humpback.errors import GateError
from humpback.evaluation.gate import Draft, check_limits, is_beyond, measure_drafts, tell_rates, to_plain
from humpback.recipe import GateSettings
from humpback.records import Segment, content_id

TEXT = "The river carries sand from the mountains to the sea, and the sea spreads the sand along the coast over many years."
THINGS = "rivers mountains coasts bridges gardens windows engines markets clouds needles saddles valleys".split()


def _segment(text: str = TEXT) -> Segment:
    empty = dict.fromkeys(("header_path", "source_uri", "title", "licence", "language", "document_id"), "")
    return Segment(id=content_id(text), text=text, offset=0, **empty)


def _draft(text: str, finish: Any = "stop", lift: float | None = 1.0, other: float | None = 0.0) -> Draft:
    answer = Completion(text=text, tokens=9, finish=finish)
    return Draft(segment=_segment(), answer=answer, lift=lift, lift_of_other=other)


def _good(number: int = 12) -> list[Draft]:
    return [_draft(f"How do {THINGS[n % 12]} change over the years, and why number {n}?") for n in range(number)]


def _measures(drafts: list[Draft]) -> dict[str, dict[str, Any]]:
    return {measure.name: to_plain(measure) for measure in measure_drafts(drafts, seed=0)}


def test_good_drafts_have_no_fault_and_pass() -> None:
    found = _measures(_good())
    faults = [name for name in found if name not in ("distinct", "lift_auc")]
    assert {name: found[name]["value"] for name in faults} == dict.fromkeys(faults, 0)
    assert (found["distinct"]["value"], found["lift_auc"]["value"]) == (1, 1)
    check_limits({"measures": list(found.values())}, GateSettings())


@pytest.mark.parametrize(
    ("name", "draft"),
    [
        ("echo", _draft("Write the one instruction or question that a person would have asked.")),
        ("copy", _draft(TEXT[:70])),
        ("empty", _draft(" ... ")),
        ("cut", _draft("How does a river carry sand and", "length")),
        ("other_language", _draft("Wie kommt der Sand von den Bergen ins Meer, und warum ist das so?")),
        ("no_request", _draft("The sand of the river and the sea.")),
    ],
)
def test_each_fault_is_counted_with_an_example_and_stops_the_run(name: str, draft: Draft) -> None:
    found = _measures([*_good(9), *[draft] * 3])
    assert found[name]["value"] == pytest.approx(0.25, abs=0.03)
    assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert len(found[name]["examples"]) == 1, "the same draft is no second example"
    assert draft.answer.text.strip()[:40] in found[name]["examples"][0]
    many = _measures([*_good(), *[draft] * 60])
    with pytest.raises(
        GateError, match=rf"(?s){name} 0\.\d\d \(.*gate\.max_{name} is .*try: .*gate\.json.*gate\.segments=0"
    ):
        check_limits({"measures": [many[name]]}, GateSettings())


def test_duplicates_and_sameness_are_counted() -> None:
    same = [_draft(f"How do rivers flow{mark}") for mark in ("?", "?!", " ?")]
    found = _measures([*_good(9), *same])
    assert found["duplicate"]["value"] == 0.25
    assert found["distinct"]["value"] == pytest.approx(9 / 12)  # `how rivers` is there already
    monotone = _measures([_draft(f"How do rivers flow in the year {n}?") for n in range(40)])
    assert monotone["duplicate"]["value"] == 0
    with pytest.raises(GateError, match=r"distinct 0\.0\d.*gate\.min_distinct is 0\.2"):
        check_limits({"measures": [monotone["distinct"]]}, GateSettings())


def test_lift_that_does_not_know_its_text_stops_the_run() -> None:
    blind = [
        dataclasses.replace(draft, lift=n % 5 / 10, lift_of_other=(n + 2) % 5 / 10) for n, draft in enumerate(_good(60))
    ]
    found = _measures(blind)["lift_auc"]
    assert found["value"] == pytest.approx(0.5, abs=0.1)
    with pytest.raises(GateError, match=r"lift_auc.*own text.*min_lift_auc"):
        check_limits({"measures": [found]}, GateSettings())


def test_lift_that_could_not_be_computed_is_no_low_lift() -> None:
    found = _measures([dataclasses.replace(draft, lift=None) for draft in _good()])["lift_auc"]
    assert (found["value"], found["n"]) == (None, 0)
    assert not is_beyond(found, GateSettings(min_lift_auc=1))
    assert "lift_auc -" in tell_rates({"measures": [found]})


def test_chance_stops_no_run() -> None:
    # 2 of 10 are above a limit of 0.1, and their interval is not
    found = _measures([*_good(8), _draft(""), _draft("")])["empty"]
    assert found["value"] == 0.2
    assert not is_beyond(found, GateSettings())
    few = _measures([_draft("How do rivers flow?")] * 10)["distinct"]
    assert few["value"] == 0.1
    assert not is_beyond(few, GateSettings())


def test_no_drafts_give_no_figures_and_stop_nothing() -> None:
    found = _measures([])
    assert {measure["value"] for measure in found.values()} == {None}
    check_limits({"measures": list(found.values())}, GateSettings())


@pytest.mark.parametrize("make", [lambda: _measures([_draft("\ud800 \x1b[2J")] * 30)])
def test_hostile_drafts_are_measured(make: Callable[[], dict[str, Any]]) -> None:
    assert make()["empty"]["n"] == 30
