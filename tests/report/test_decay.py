"""What the iterations brought: where they stop paying is found by paired differences, and said."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from humpback.evaluation.requests import share_distinct
from humpback.report.decay import Turn, decay_rows, tell_turn, turn_of
from humpback.report.signs_pairs import instructions_alike

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


def test_limit_of_the_gate_is_held_to_as_many_instructions_as_the_gate_has() -> None:
    # 100 different requests: of 200 instructions half, of 2,000 a twentieth, though they are as varied
    words = [f"{a}{b}er" for a in "bcdfghklmn" for b in "aeiouyrstl"]
    texts = [f"Describe the {words[n % 100]}." for n in range(2000)]
    curate: Any = SimpleNamespace(result={"signal": "rating"}, kept=2000, read=4000)
    nll = {"models": [{"model": f"M_{t}", "value": 2.0, "low": 1.9, "high": 2.1, "n": 50} for t in (0, 1)]}
    evaluate: Any = SimpleNamespace(result={"response_nll": {"both tags": nll}})
    audit: dict[str, Any] = {"best": None, "signals": []}
    curation: dict[str, Any] = {"decision": {"signal": "rating"}, "histograms": {}}
    by_name = {"evaluate": evaluate, "iteration-1/curate": curate}
    first, second = decay_rows(by_name, [audit, audit], [curation], [texts])
    assert first["as_gated"] == {"asking": 0, "distinct": None}
    assert (second["asking"], second["distinct"]) == (2000, 0.05)
    assert second["as_gated"] == {"asking": 200, "distinct": 0.5}
    assert instructions_alike({"decay": [first, second]}).state == "not found"


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


def test_models_that_share_too_few_pairs_leave_the_turn_open() -> None:
    def row(later: int, earlier: int, low: float | None) -> dict[str, object]:
        return {"model": f"M_{later}", "against": f"M_{earlier}", "value": -0.1, "low": low, "high": low and low + 0.2}

    assert turn_of([row(1, 0, -0.2), row(2, 0, -0.2), row(2, 1, None)], 2) == Turn(None, None, None)
