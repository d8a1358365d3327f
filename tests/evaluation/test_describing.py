"""Statistics of sets: exact counts of every row, samples that depend on no order, no interval of too few rows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from humpback.corpus.overlap import Overlap
from humpback.evaluation.describing import Measuring, describe_sets
from humpback.evaluation.tallying import Described, Reference, Row

NOUNS = ("river", "bridge", "poem", "story", "table", "garden")
HOW = Measuring(sample=40, resamples=50)


def _rows(count: int) -> list[Row]:
    return [
        Row(
            f"Write a {NOUNS[n % 6]} about number {n}.",
            f"This is the answer to question {n}. " * (1 + n % 3),
            f"https://h{n % 2}.org/{n}",
        )
        for n in range(count)
    ]


def _one(rows: list[Row], **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = describe_sets([Described("set", rows)], [], options.get("how", HOW))["sets"][0]
    return found


def test_lengths_are_of_every_row() -> None:
    found = _one([Row("a" * n, "b" * 10, "") for n in (1, 3, 5, 7)])
    assert (found["rows"], found["instruction"]["value"], found["response"]["sd"]) == (4, 4.0, 0.0)
    assert found["instruction"]["sd"] == pytest.approx(2.582, abs=1e-3)
    assert found["instruction"]["quartiles"] == [2.5, 4.0, 5.5]
    assert sum(found["instruction"]["histogram"]["counts"]) == 4


def test_verbs_objects_and_sources_are_counted() -> None:
    found = _one(_rows(30))
    asked = found["asked"]
    assert asked["orders"]["value"] == 1
    assert asked["verbs"][0]["verb"] == "write"
    assert [one["n"] for one in asked["verbs"][0]["objects"]] == [5, 5, 5, 5]
    assert asked["verbs"][0]["other_objects"] == 10
    assert {one["name"]: one["n"] for one in found["sources"]["commonest"]} == {"h0.org": 15, "h1.org": 15}


def test_sample_and_figures_do_not_depend_on_the_order_of_rows() -> None:
    rows = _rows(300)
    mixed = random.Random(1).sample(rows, len(rows))
    assert _one(rows) == _one(mixed)
    assert _one(rows)["sample"] == 40
    assert _one(rows) != _one(rows, how=Measuring(sample=40, resamples=50, seed=1))


def test_equal_pairs_are_in_the_sample_once() -> None:
    found = _one(_rows(15) * 20)
    assert (found["rows"], found["sample"]) == (300, 15)


def test_repeated_instructions_are_counted_apart_from_case_and_punctuation() -> None:
    rows = [Row("Name a river.", "one", ""), Row("name a RIVER", "two", ""), Row("Name a bridge", "three", "")]
    found = _one(rows)
    assert found["repeated"] == {"value": 1 / 3, "low": None, "high": None, "n": 3}


def test_overlap_names_what_is_shared_and_a_set_is_not_compared_with_itself() -> None:
    seed, rows = _rows(25), [*_rows(60)[40:], _rows(1)[0]]
    texts = [row.instruction for row in seed]
    references = [Reference("seed", Overlap.of_texts("the seed", texts), texts)]
    own, other = describe_sets([Described("seed", seed, "seed"), Described("new", rows)], references, HOW)["sets"]
    assert own["overlap"][0]["shared"] is None
    shared = other["overlap"][0]
    assert (shared["rows"], shared["shared"]["n"]) == (1, 21)
    assert shared["shared"]["low"] > 0
    assert "the seed" in shared["examples"][0]
    assert shared["nearest"]["n"] == 21


def test_variety_is_of_equally_many_and_refused_of_too_few() -> None:
    sets = [Described("large", _rows(35)), Described("small", _rows(22)), Described("tiny", _rows(5))]
    data = describe_sets(sets, [], HOW)
    large, small, tiny = (found["variety"] for found in data["sets"])
    assert (data["equal"], large["n"], small["n"]) == (22, 22, 22)
    assert tiny["self_bleu"] is None
    assert "fewer than 20" in tiny["why"]
    assert describe_sets([Described("tiny", _rows(5))], [], HOW)["equal"] == 0


def test_set_without_rows_has_no_figures_and_raises_nothing() -> None:
    found = _one([])
    assert (found["rows"], found["instruction"], found["repeated"], found["asked"]["orders"]) == (0, None, None, None)


def test_foreign_instructions_are_not_parsed_but_counted() -> None:
    german = "Beschreibe bitte den Fluss und die Brücke in der alten Stadt, und schreibe auch über den Garten nebenan."
    found = _one([Row(german, f"{german} {n}", "") for n in range(9)])
    assert (found["asked"]["n"], found["asked"]["not_english"]) == (0, 9)
    assert found["languages"][0]["name"] == "de"


def test_memory_held_does_not_grow_with_the_texts() -> None:
    import tracemalloc

    def rows(count: int) -> Any:
        return (Row(f"Write a poem {n}", "x" * 20_000, f"file#L{n}") for n in range(count))

    tracemalloc.start()
    try:
        describe_sets([Described("set", rows(1500))], [], Measuring(sample=20, resamples=20))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 20_000_000  # the texts are 30 MB
