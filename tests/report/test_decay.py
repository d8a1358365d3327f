"""What the iterations brought: where they stop paying is found by paired differences, and said."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.evaluation.requests import share_distinct
from humpback.report.decay import tell_turn

if TYPE_CHECKING:
    from tests.conftest import Lab


def _evaluation(values: list[float], half: float | None = 0.02) -> dict[str, Any]:
    """Return an evaluation whose M_t has the NLL `values[t]`, every difference give or take `half`."""
    differences = [
        {
            "model": f"M_{later}",
            "against": f"M_{earlier}",
            "value": change,
            "low": None if half is None else change - half,
            "high": None if half is None else change + half,
        }
        for earlier, later in itertools.combinations(range(len(values)), 2)
        for change in [values[later] - values[earlier]]
    ]
    return {"response_nll": {"both tags": {"differences": differences}}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([3.0, 2.9, 2.8, 2.7], "No plateau yet: M_3 is surely better"),
        ([3.0, 2.9, 2.8, 2.79, 2.81], "Plateau at M_2: no later model is surely better, and none is surely worse"),
        (
            [3.0, 2.8, 2.81, 2.85, 2.9],
            "Plateau at M_1: no later model is surely better; a turn at M_3, which is surely",
        ),
        ([3.0, 3.1], "Plateau at M_0: no later model is surely better; a turn at M_1"),
        (
            [3.0, 2.985, 2.97, 2.955, 2.94],
            "Plateau at M_3",
        ),  # by steps that are not sure, M_4 is surely better than M_2
    ],
)
def test_plateau_and_turn_are_found(values: list[float], told: str) -> None:
    assert tell_turn(_evaluation(values), len(values) - 1).startswith(told)


def test_too_few_pairs_tell_no_plateau() -> None:
    assert tell_turn(_evaluation([3.0, 2.9], None), 1).startswith("Too few held-out pairs")


def test_diversity_counts_different_requests_of_those_that_ask() -> None:
    texts = ["Describe the river.", "Describe the river!", "Explain the bridge.", "The bridge."]
    assert share_distinct(texts) == pytest.approx(2 / 3)
    assert share_distinct(["The bridge."]) is None


def test_six_iterations_are_shown_with_precision_recall_and_diversity(lab: Lab, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lab.run(run, iterations=6, evaluate__control=False, curate__top=0.5, curate__signal="forward_lift")
    data = json.loads((run / "report" / "report.json").read_bytes())
    assert [row["model"] for row in data["decay"]] == [f"M_{t}" for t in range(7)]
    first, *others = data["decay"]
    assert (first["precision"], first["recall"], first["distinct"]) == (None, None, None)
    for row in others:
        assert 0 <= row["precision"]["value"] <= 1
        assert row["precision"]["low"] <= row["recall"]["value"]
        assert 0 < row["distinct"] <= 1
    assert data["turn"].startswith(("Plateau at M_", "No plateau yet"))
    assert data["turn"] in (run / "report" / "report.html").read_text(encoding="utf-8")
