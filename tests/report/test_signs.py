"""Signs of failure: each is found where its figures say so, and what could not be looked at is said, not passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.errors import DriftError, StorageError
from humpback.evaluation.signs import Sign
from humpback.report import signs_models, signs_pairs
from humpback.report.page import write_report
from humpback.report.results import render_results
from humpback.report.signs import CHECKS, find_signs, sign_lines
from humpback.report.summary import print_summary
from humpback.report.winrates import read_win_rates

if TYPE_CHECKING:
    from tests.conftest import Command, Lab

Data = dict[str, Any]


def _differ(data: Data, model: str, against: str, value: float, half: float | None, *, n: int = 400) -> None:
    rows = data["evaluation"]["response_nll"]["both tags"]["differences"]
    row = next(row for row in rows if (row["model"], row["against"]) == (model, against))
    low, high = (None, None) if half is None else (value - half, value + half)
    row.update(value=value, low=low, high=high, n=n)


def _spoil_likelihood(data: Data) -> None:
    _differ(data, "M_2", "M_0", 0.02, 0.01)


def _spoil_turn(data: Data) -> None:
    _differ(data, "M_1", "M_0", -0.05, 0.01)
    _differ(data, "M_2", "M_0", -0.02, 0.01)
    _differ(data, "M_2", "M_1", 0.03, 0.01)


def _spoil_win_rate(data: Data) -> None:
    data["win_rates"] = [_rate(40.0, 30.0, 48.0)]


def _rate(value: float, low: float | None, high: float | None) -> Data:
    known: Data = {"model": "M_2", "against": "M_0", "folder": "winrate/a", "judge": "J", "judge_is_a_side": False}
    known["doubt"] = None
    return known | {"value": value, "low": low, "high": high, "n": 200, "reason": None if low else "200 are too few"}


def _spoil_rows(data: Data) -> None:
    row = next(row for row in data["training"] if row["stage"] == "iteration-2/finetune")
    row["same_as"] = "iteration-1"


def _spoil_curation(data: Data) -> None:
    _differ(data, "control", "M_2", -0.001, 0.002)


def _spoil_backward(data: Data) -> None:
    data["evaluation"]["instruction_nll"]["differences"][0].update(value=0.1, low=0.05, high=0.15)


def _spoil_gate(name: str, **figures: float) -> Callable[[Data], None]:
    def spoil(data: Data) -> None:
        next(row for row in data["gate"]["measures"] if row["name"] == name).update(n=200, **figures)

    return spoil


def _spoil_diversity(data: Data) -> None:
    data["decay"][2]["as_gated"] = {"distinct": 0.1, "asking": 50}


def _spoil_signal(data: Data) -> None:
    signal = data["curation"][1]["decision"]["signal"]
    entry = next(entry for entry in data["audits"][1]["signals"] if entry["signal"] == signal)
    entry["auc"]["all"] = {"value": 0.55, "low": 0.49, "high": 0.59, "n": 60}


def _spoil_change(name: str) -> Callable[[Data], None]:
    def spoil(data: Data) -> None:
        data["changes"][1][name] = {"value": -0.1, "low": -0.2, "high": -0.01, "n": 60}

    return spoil


def _spoil_ratings(data: Data) -> None:
    scores = data["curation"][0]["scores"]
    scores["with_value"]["rating"], scores["unparsed"]["rating"] = 40, 60


def _spoil_scores(data: Data) -> None:
    data["curation"][0]["scores"]["entropy"]["rating"] = {"bits": 0.1, "collapsed": True, "n": 60}


def _spoil_shift(data: Data) -> None:
    data["curation"][1]["scores"]["shift"]["auc"] = 0.93


def _spoil_kept(data: Data) -> None:
    data["decay"][1]["kept"] = 0.99


SPOILT: dict[str, Callable[[Data], None]] = {
    "data_brings_nothing": _spoil_likelihood,
    "win_rate_falls": _spoil_win_rate,
    "iterations_turn": _spoil_turn,
    "nothing_new_learnt": _spoil_rows,
    "curation_is_worth_nothing": _spoil_curation,
    "backward_learnt_nothing": _spoil_backward,
    "instructions_off_topic": _spoil_gate("lift_auc", value=0.55, low=0.5, high=0.6),
    "instructions_nonsense": _spoil_gate("echo", value=0.4, low=0.3, high=0.5),
    "instructions_alike": _spoil_diversity,
    "signal_is_a_coin": _spoil_signal,
    "judge_worsens": _spoil_change("auc"),
    "precision_falls": _spoil_change("precision"),
    "ratings_unparsed": _spoil_ratings,
    "scores_collapse": _spoil_scores,
    "audit_unlike_candidates": _spoil_shift,
    "all_kept": _spoil_kept,
}
"""How a report is spoilt so that a sign is there: every check of the list has one."""


def _find(data: Data, name: str) -> Data:
    return next(sign for sign in find_signs(data) if sign["name"] == name)


def test_every_check_has_a_sign_of_its_name_and_a_case() -> None:
    assert [check.__name__ for check in CHECKS] == list(SPOILT)


@pytest.mark.parametrize("name", SPOILT)
def test_sign_is_found_and_comes_with_figures_limit_and_advice(data: Data, name: str) -> None:
    SPOILT[name](data)
    sign = _find(data, name)
    assert sign["state"] == "found", sign
    assert sign["told"]
    assert sign["limit"]
    assert sign["advice"]
    assert any(line.startswith(f"found: {sign['what']}: ") for line in sign_lines(find_signs(data)))


def test_report_tells_every_sign_in_json_page_markdown_and_terminal(
    complete: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {sign["name"] for sign in data["signs"]} == set(SPOILT)
    print_summary(complete)
    told = " ".join(capsys.readouterr().out.split())
    page = (complete / "report" / "report.html").read_text(encoding="utf-8")
    markdown = render_results(complete)
    for sign in data["signs"]:
        assert f"{sign['state']}: {sign['what']}" in told
        assert sign["what"] in page
        assert f"| {sign['what']} | {sign['state']} |" in markdown


def _without_evidence(data: Data) -> None:
    """Take away all that a check could go by."""
    for table in [*data["evaluation"]["response_nll"].values(), data["evaluation"]["instruction_nll"]]:
        for row in table["differences"]:
            row.update(low=None, high=None, n=5)
    data["gate"], data["win_rates"] = None, []
    for row in data["changes"]:
        row.update(auc=None, precision=None)
    for curation in data["curation"]:
        curation["scores"].update(shift=None, entropy={}, with_value={}, unparsed={})
    for audit in data["audits"]:
        for entry in audit["signals"]:
            entry["auc"] = {}
    for row in data["decay"][1:]:
        row["as_gated"] = {"distinct": None, "asking": 0}


def test_what_could_not_be_looked_at_is_not_checked_and_says_why(data: Data) -> None:
    _without_evidence(data)
    signs = {sign["name"]: sign for sign in find_signs(data)}
    counted = {"nothing_new_learnt", "all_kept"}  # these count rows, which a run always has
    assert {name for name, sign in signs.items() if sign["state"] != "not checked"} == counted
    assert all(sign["told"] for sign in signs.values())
    assert all(
        sign["advice"]
        for sign in signs.values()
        if sign["name"] not in {*counted, "ratings_unparsed", "scores_collapse"}
    )


@pytest.mark.parametrize(
    ("check", "spoil", "state", "words"),
    [
        (
            signs_models.data_brings_nothing,
            lambda d: _differ(d, "M_2", "M_0", -0.01, 0.02),
            "cannot tell",
            "gains worth having",
        ),
        (signs_models.data_brings_nothing, lambda d: _differ(d, "M_2", "M_0", -0.01, 0.005), "not found", "helps"),
        (
            signs_models.curation_is_worth_nothing,
            lambda d: _differ(d, "control", "M_2", 0.02, 0.01),
            "not found",
            "helps: M_2",
        ),
        (signs_models.win_rate_falls, lambda d: d.update(win_rates=[_rate(50.0, 49.0, 52.0)]), "found", "stalls"),
        (
            signs_models.win_rate_falls,
            lambda d: d.update(win_rates=[_rate(55.0, 51.0, 59.0)]),
            "not found",
            "wins 55.0 %",
        ),
        (
            signs_models.win_rate_falls,
            lambda d: d.update(win_rates=[_rate(55.0, None, None)]),
            "not checked",
            "too few",
        ),
        (
            signs_pairs.instructions_nonsense,
            _spoil_gate("cut", value=0.35, low=0.2, high=0.5),
            "cannot tell",
            "cut 0.35 (0.20 to 0.50) is beyond 0.3, though not surely",
        ),
        (
            signs_pairs.precision_falls,
            lambda d: d["changes"][1].update(precision={"value": -0.03, "low": -0.09, "high": 0.01, "n": 24}),
            "cannot tell",
            "a fall of 0.05 is not ruled out",
        ),
    ],
)
def test_open_question_is_told_apart_from_an_answer(
    data: Data, check: Callable[[Data], Sign], spoil: Callable[[Data], None], state: str, words: str
) -> None:
    spoil(data)
    sign = check(data)
    assert (sign.state, words in sign.told) == (state, True), sign
    assert (sign.advice == "") == (state == "not found")


def test_moved_limit_of_the_gate_does_not_silence_its_sign(data: Data) -> None:
    _spoil_gate("echo", value=0.9, low=0.85, high=0.95, limit=1.0)(data)
    assert _find(data, "instructions_nonsense")["state"] == "found"


def test_one_iteration_checks_no_change_over_iterations(lab: Lab, finished: Path) -> None:
    data = json.loads((finished / "report" / "report.json").read_bytes())
    for name in ("iterations_turn", "nothing_new_learnt", "precision_falls"):
        sign = _find(data, name)
        assert (sign["state"], sign["told"].startswith("one iteration")) == ("not checked", True), sign


def test_hostile_figures_of_a_sign_are_escaped(tmp_path: Path, data: Data) -> None:
    data["signs"][0]["told"] = "<script>alert(1)</script>"
    write_report(tmp_path / "page.html", data)
    assert "<script>" not in (tmp_path / "page.html").read_text(encoding="utf-8").split("</style>")[1]


# -- win rates kept in a run's folder --------------------------------------------------------------------------------------


def _train(run: Path, room: str, content_hash: str) -> None:
    counts = {"read": 0, "kept": 0, "rejected": {}, "failed": {}}
    told = {"name": f"{room}/finetune", "iteration": None, "fingerprint": "x", "identity": {}, **counts, "seconds": 0.0}
    told |= {"result": {"content_hash": content_hash}, "engine": {}, "environment": {}}
    path = run / room / "finetune" / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")


def _keep_win_rate(run: Path, model: str, baseline: str, value: float = 60.0) -> None:
    folder = run / "winrate" / f"{model}-{baseline}"
    folder.mkdir(parents=True)
    for side in (model, baseline):
        _train(run, side, f"hash of {side}")
    rate = {"value": value, "low": value - 5, "high": value + 5, "n": 100, "reason": None}
    told = {
        "model": f"runs/{run.name}/{model}/finetune/model",
        "baseline": f"runs/{run.name}/{baseline}/finetune/model",
        "judge": "J",
        "judge_is_a_side": False,
        "doubt": None,
        "content_hashes": {"model": f"hash of {model}", "baseline": f"hash of {baseline}"},
        "win_rate": rate,
    }
    (folder / "winrate.json").write_text(json.dumps(told), encoding="utf-8")


def test_win_rate_is_that_of_the_later_model(tmp_path: Path) -> None:
    _keep_win_rate(tmp_path, "iteration-0", "iteration-2", 30.0)
    _keep_win_rate(tmp_path, "iteration-1", "elsewhere")
    (row,) = read_win_rates(tmp_path)
    assert (row["model"], row["against"], row["value"], row["low"], row["high"]) == ("M_2", "M_0", 70.0, 65.0, 75.0)


def test_win_rate_of_another_runs_models_is_none_of_this_one(tmp_path: Path) -> None:
    other, own = tmp_path / "a" / "demo", tmp_path / "b" / "demo"
    _keep_win_rate(other, "iteration-0", "iteration-1")
    own.mkdir(parents=True)
    (other / "winrate").rename(own / "winrate")  # as it is named, it may be of either run called demo
    for room in ("iteration-0", "iteration-1"):
        _train(own, room, "another model's")
    assert read_win_rates(own) == []


def test_win_rate_of_a_model_that_was_trained_anew_since_is_not_told(tmp_path: Path) -> None:
    _keep_win_rate(tmp_path, "iteration-0", "iteration-1")
    assert len(read_win_rates(tmp_path)) == 1
    _train(tmp_path, "iteration-1", "trained anew")
    assert read_win_rates(tmp_path) == []


def test_win_rate_stays_told_when_the_run_is_renamed(tmp_path: Path) -> None:
    _keep_win_rate(tmp_path / "before", "iteration-0", "iteration-1")
    (tmp_path / "before").rename(tmp_path / "after")
    assert len(read_win_rates(tmp_path / "after")) == 1


def test_win_rate_of_a_judge_that_is_not_believed_is_told_and_decides_nothing(data: Data) -> None:
    data["win_rates"] = [{**_rate(40.0, 30.0, 48.0), "doubt": "a coin"}]
    sign = signs_models.win_rate_falls(data)
    assert sign.state == "not checked"
    assert "the judge J is not believed on M_2 against M_0, where it gives 40.0 %: a coin" in sign.told
    data["win_rates"].append(_rate(40.0, 30.0, 48.0))
    assert signs_models.win_rate_falls(data).state == "found"


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [(0.45, 0.58, "found"), (0.3, 0.45, "found"), (0.45, 0.8, "cannot tell"), (0.55, 0.8, "not found")],
)
def test_signal_is_a_coin_only_where_its_interval_can_tell(data: Data, low: float, high: float, state: str) -> None:
    for curation in data["curation"]:
        audit = data["audits"][curation["iteration"] - 1]
        entry = next(row for row in audit["signals"] if row["signal"] == curation["decision"]["signal"])
        entry["auc"]["all"] = {"value": (low + high) / 2, "low": low, "high": high, "n": 60}
    assert signs_pairs.signal_is_a_coin(data).state == state


@pytest.mark.parametrize(("half", "state"), [(0.001, "not found"), (0.02, "cannot tell")])
def test_iterations_do_not_turn_only_where_a_loss_is_ruled_out(data: Data, half: float, state: str) -> None:
    _differ(data, "M_1", "M_0", -0.05, 0.001)
    _differ(data, "M_2", "M_0", -0.05, 0.001)
    _differ(data, "M_2", "M_1", 0.0, half)
    found = signs_models.iterations_turn(data)
    assert found.state == state
    assert ("not ruled out" in found.told) == (state == "cannot tell")


def test_pairs_too_long_to_be_rated_are_not_called_unparsed(data: Data) -> None:
    scores = data["curation"][0]["scores"]
    scores["with_value"]["rating"], scores["unparsed"]["rating"] = 40, 60
    scores["not_given"] = {**scores["not_given"], "rating": {"unparsed": 10, "too_long": 50, "truncated": 0}}
    told = signs_pairs.ratings_unparsed(data).told
    assert "60.0% of 100 without a rating (10 unparsed, 50 too long)" in told


def test_damaged_win_rate_is_named(tmp_path: Path) -> None:
    _keep_win_rate(tmp_path, "iteration-0", "iteration-2")
    (path,) = tmp_path.glob("winrate/*/winrate.json")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(StorageError, match=r"winrate\.json is no result"):
        read_win_rates(tmp_path)


def test_win_rate_of_the_command_makes_the_report_alone_stale_and_is_told_by_it(
    copy_of_finished: Path, lab: Lab, tmp_path: Path, command: Command
) -> None:
    run = copy_of_finished
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"instruction": f"Tell about {n}."}) + "\n" for n in range(12)), "utf-8")
    sides = [run / f"iteration-{t}" / "finetune" / "model" for t in (1, 0)]
    judged = ("--judge", "fake", "--by-probability", "--max-tokens", 8000, "--max-new-tokens", 64)
    assert command("winrate", *sides, "--prompts", prompts, *judged, "-o", run / "winrate" / "m1-m0").status == 0
    with pytest.raises(DriftError, match="stage report"):
        lab.run(run)
    before = (run / "evaluate" / "manifest.json").read_bytes()
    assert lab.run(run, rerun_from="report")
    assert (run / "evaluate" / "manifest.json").read_bytes() == before
    data = json.loads((run / "report" / "report.json").read_bytes())
    rate = json.loads((run / "winrate" / "m1-m0" / "winrate.json").read_bytes())["win_rate"]
    (row,) = data["win_rates"]
    assert (row["model"], row["against"], row["value"]) == ("M_1", "M_0", rate["value"])
    sign = next(sign for sign in data["signs"] if sign["name"] == "win_rate_falls")
    assert "M_1" in sign["told"]
    assert "judge fake" in sign["told"] or sign["state"] == "not checked"


def _judge(data: Data, doubted: str | None) -> None:
    change = {"against": "M_0", "value": 20.0, "low": 10.0, "high": 30.0, "n": 200}
    rows = [
        {"model": f"M_{t}", "doubt": f"M_{t}" == doubted and "a coin", "changes": [change] if t else []}
        for t in range(3)
    ]
    data["judged"] = {"by": "J", "rows": [{**row, "judge_is_a_side": False} for row in rows]}


@pytest.mark.parametrize(
    ("doubted", "state", "words"),
    [
        (None, "not found", "helps: M_2 +20.0 points"),
        ("M_2", "not checked", "not believed on M_2: a coin"),
        ("M_0", "not checked", "not believed on M_0: a coin"),
    ],
)
def test_change_of_win_rate_is_believed_only_where_the_judge_is_on_both_models(
    data: Data, doubted: str | None, state: str, words: str
) -> None:
    data["win_rates"] = []
    _judge(data, doubted)
    sign = signs_models.win_rate_falls(data)
    assert (sign.state, words in sign.told) == (state, True), sign


def test_run_that_publishes_m_0_has_no_win_rate_to_fall(data: Data) -> None:
    data["win_rates"], data["iterations"]["published"] = [], 0
    _judge(data, None)
    sign = signs_models.win_rate_falls(data)
    assert (sign.state, "M_0 itself" in sign.told) == ("not checked", True), sign
