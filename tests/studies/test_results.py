"""What is told of cells: differences pair seeds and pairs, and what is missing is counted and never replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from humpback.errors import InputError
from humpback.studies.grid import AblationStudy, Arm, Cell, ScalingStudy
from humpback.studies.outcome import Item, Outcome
from humpback.studies.page import failure_lines
from humpback.studies.results import build_results
from humpback.studies.running import check_done

ABLATION = AblationStudy(recipe="r.yaml", factors={"data": ["seed", "base"]}, seeds=[0, 1], resamples=100)


def _outcome(
    folder: Path, nats: Sequence[float | None], *, data: str = "seed", seed: int = 0, pairs: str = "p", **more: str
) -> Outcome:
    """Return a cell that measured these nats of ten tokens each; None for a pair that it could not answer."""
    place = folder / "-".join([data, str(seed), pairs, *more.values()]) / "arm" / "measure"
    place.mkdir(parents=True)
    table = {
        "pair_ids": [f"{pairs}{n}" for n in range(len(nats))],
        "nats": [value or 0.0 for value in nats],
        "tokens": [10] * len(nats),
        "errors": ["too long" if value is None else None for value in nats],
    }
    (place / "likelihoods.json").write_text(json.dumps({"given": table, "alone": table}), encoding="utf-8")
    return Outcome(_cell(data, seed, **more), place.parents[1])


def _cell(data: str, seed: int, **more: str) -> Cell:
    arm = Arm.model_validate({"data": data})
    return Cell(setting={"data": data, **more}, seed=seed, arm=arm, recipe=None, steps=None, measure=None)


def test_seed_that_failed_in_a_setting_bears_on_no_difference(tmp_path: Path) -> None:
    # the second training seed is worse by a whole nat; the setting is better by a tenth with the one it has
    outcomes = [
        _outcome(tmp_path, [20.0] * 10),
        _outcome(tmp_path, [30.0] * 10, seed=1),
        _outcome(tmp_path, [19.0] * 10, data="base"),
    ]
    found = build_results(ABLATION, outcomes, [(_cell("base", 1), "no memory")], first="data=seed")
    first, second = found["metrics"]["nll"]["settings"]
    assert (first["value"], second["value"]) == (pytest.approx(2.5), pytest.approx(1.9))
    assert [second["difference"][key] for key in ("value", "low", "high")] == pytest.approx([-0.1] * 3)


def test_no_setting_takes_the_place_of_a_first_one_that_failed(tmp_path: Path) -> None:
    outcomes = [_outcome(tmp_path, [20.0] * 10, data="base"), _outcome(tmp_path, [19.0] * 10, data="curated")]
    found = build_results(ABLATION, outcomes, [(_cell("seed", 0), "no memory")], first="data=seed")
    assert [row["difference"] for row in found["metrics"]["nll"]["settings"]] == [None, None]
    assert any("data=seed, failed: there are no differences" in note for note in found["notes"])


def test_pairs_that_no_cell_could_answer_are_counted(tmp_path: Path) -> None:
    outcomes = [
        _outcome(tmp_path, [*[20.0] * 10, None, None]),
        _outcome(tmp_path, [*[20.0] * 9, None, None, None], data="base"),
    ]
    found = build_results(ABLATION, outcomes, [], first="data=seed")
    assert (found["pairs"], found["pairs_left_out"]) == (9, 3)


@pytest.mark.parametrize("scaling", [False, True])
def test_cells_without_a_pair_in_common_are_refused_with_what_to_do(tmp_path: Path, scaling: bool) -> None:
    kinds: dict[str, Any] = {"kinds": {"k": {"data": "seed"}}, "sizes": [1, 2]}
    study = ScalingStudy(recipe="r.yaml", seeds=[0], **kinds) if scaling else ABLATION
    outcomes = [_outcome(tmp_path, [20.0] * 10, pairs=pairs, kind="k", size=pairs) for pairs in ("1", "2")]
    found = build_results(study, outcomes, [], first=outcomes[0].cell.name)
    assert (found["metrics"]["nll"]["settings"], found["pairs"], found["pairs_left_out"]) == ([], 0, 20)
    assert any("cells hold out different pairs" in note for note in found["notes"])
    with pytest.raises(InputError, match="no pair in common; name the pairs to measure on under measure"):
        check_done(found, tmp_path)


def _judge(n: int) -> dict[str, Any]:
    """Return a prompt of which both orders name the same answer."""
    first = float(n % 2)
    orders = {
        "model_first": {"first": first, "kind": "parsed"},
        "baseline_first": {"first": 1 - first, "kind": "parsed"},
    }
    return {"prompt": f"q{n}", "output": "ours", "baseline": "theirs", "share": first, "orders": orders}


def test_wins_that_all_came_out_alike_are_no_stall(tmp_path: Path) -> None:
    study = ScalingStudy.model_validate(
        {
            "recipe": "r.yaml",
            "seeds": [0],
            "resamples": 100,
            "kinds": {"one": {"data": "seed"}, "two": {"data": "curated"}},
            "sizes": [8, 16],
            "judge": {"model": "biased", "prompts": "p.jsonl"},
        }
    )
    outcomes = []
    for kind in ("one", "two"):
        for size in (8, 16):
            outcome = _outcome(tmp_path, [20.0 + size] * 10, pairs="p", data="seed", seed=0, kind=kind, size=str(size))
            outcome.examples = size
            outcome.judged = [_judge(n) for n in range(12)]  # believed, so that the sign looks at the fit
            outcome.tables = {**outcome.tables, "win_rate": {f"q{n}": Item(50.0, 1) for n in range(12)}}
            outcomes.append(outcome)
    told = build_results(study, outcomes, [], first=outcomes[0].cell.name)["metrics"]["win_rate"]
    assert [(fit["alpha"]["value"], fit["alpha"]["low"]) for fit in told["fits"]] == [(0.0, None)] * 2
    assert {(sign["state"], sign["told"].split(":")[0]) for sign in told["signs"]} == {
        ("not checked", "all came out alike, so there is no interval")
    }
    assert [(row["low"], row["p_value"], row["p_holm"]) for row in told["comparisons"]] == [(None, None, None)]


def test_a_reason_that_several_cells_share_is_told_once() -> None:
    failed = [{"name": name, "seed": 0, "why": why} for name, why in (("a", "gate"), ("b", "memory"), ("c", "gate"))]
    assert list(failure_lines({"failed": failed})) == ["2 cells (a, seed 0; c, seed 0): gate", "b, seed 0: memory"]
