"""A judge in a run: every M_t against the same baseline, what the judge is worth, and what its word decides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from humpback.engines.base import Completion, Loglikelihood, Sampling
from humpback.engines.fake import FakeEngine
from humpback.errors import DriftError, InputError
from humpback.prompts import Continuation, Prompt
from humpback.report.results import render_results
from humpback.report.status import stage_states
from humpback.report.summary import print_summary
from humpback.rooms.comparing import tell_compared
from humpback.stages.table import find_course
from humpback.store.rundir import RunDir

if TYPE_CHECKING:
    from tests.conftest import Command, Lab

N = 24
PROMPTS = [{"instruction": f"How does one get to number {n}?"} for n in range(N)]
Changes = dict[str, Any]
Judging = Callable[[int, int, int], str]
"""What a judge replies to the first grade, the second, and a number that is the prompt's."""


def reader(first: int, second: int, drawn: int) -> str:
    return f"Score: {2 if first > second else 4 if second > first else 3}"


def coin(first: int, second: int, drawn: int) -> str:
    return f"Score: {2 if drawn % 2 else 4}"


def first_place(first: int, second: int, drawn: int) -> str:
    return "Score: 2"


def indifferent(first: int, second: int, drawn: int) -> str:
    return "Score: 3"


def rambler(first: int, second: int, drawn: int) -> str:
    return "Both have their merits."


class Asked:
    """What the scripted models and judge were asked, answers from the cache left out."""

    def __init__(self) -> None:
        self.answers = self.rulings = 0
        self.kill_after: int | None = None
        """The judge dies after so many rulings."""


@pytest.fixture
def judged(lab: Lab, tmp_path: Path) -> Changes:
    """What a recipe is changed by to have a judge that replies."""
    lab.write_lines(tmp_path / "prompts.jsonl", PROMPTS)
    judge = {"model": "fake", "prompts": str(tmp_path / "prompts.jsonl"), "max_new_tokens": 32, "recheck": 8}
    curate = {
        "curate__signal": "rating",
        "curate__policy": "top",
        "curate__top": 0.5,
    }  # each M_t keeps other pairs, so none is another's twin
    cheap = {"gate__segments": 0, "evaluate__control": False, "evaluate__corruptions": ["mismatch_hard", "cut_end"]}
    return {**cheap, **curate, "score__signals": ["rating"], "evaluate__judge": judge}


def _script(
    monkeypatch: pytest.MonkeyPatch, judging: Judging, grades: Sequence[float], gains: Sequence[float] = ()
) -> Asked:
    """Let M_t answer a share of `grades[t]` of the prompts well, and expect held-out responses by `gains[t]` nats better than M_0."""
    asked, complete, likelihood = Asked(), FakeEngine._complete, FakeEngine._likelihood

    def answer(engine: FakeEngine, prompt: Prompt, sampling: Sampling) -> Completion:
        found = complete(engine, prompt, sampling)
        if found.finish == "error":
            return found
        if "Second answer:" in prompt.user:
            if asked.kill_after is not None and asked.rulings >= asked.kill_after:
                raise KeyboardInterrupt
            asked.rulings += 1
            one, other = (
                int(part.split("grade ")[1][0])
                for part in prompt.user.split("First answer:")[1].split("Second answer:")
            )
            drawn = hashlib.sha256(f"{prompt.text}{prompt.seed if sampling.temperature else ''}".encode()).digest()[0]
            return Completion(text=judging(one, other, drawn), tokens=3, finish="stop")
        if (t := _iteration(engine)) is not None and "get to number" in prompt.user:
            asked.answers += 1
            place = int(prompt.user.split("number ")[1].split("?")[0])
            return Completion(text=f"grade {5 if place < grades[t] * N else 1} by {t}", tokens=3, finish="stop")
        return found

    def likely(engine: FakeEngine, prompt: Prompt, continuation: Continuation) -> Loglikelihood:
        found, t = likelihood(engine, prompt, continuation), _iteration(engine) or 0
        gain = gains[t] if gains else 0.1 * t
        return found if found.error else Loglikelihood(logprob=found.logprob + gain * found.tokens, tokens=found.tokens)

    monkeypatch.setattr(FakeEngine, "_complete", answer)
    monkeypatch.setattr(FakeEngine, "_likelihood", likely)
    return asked


def _iteration(engine: FakeEngine) -> int | None:
    room = Path(engine.model.path).parts[-3:-2]
    return int(room[0][10:]) if room and room[0].startswith("iteration-") else None


def _found(lab: Lab, run: Path, t: int) -> dict[str, Any]:
    found: dict[str, Any] = lab.manifest(run, f"iteration-{t}/compare")["result"]
    return found


def _report(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "report/report.json").read_bytes())
    return data


def test_win_rate_of_every_model_is_in_the_decay_curve(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _script(monkeypatch, reader, [0.0, 0.5, 0.75])
    run = tmp_path / "run"
    lab.run(run, iterations=2, **judged)
    assert [_found(lab, run, t)["win_rate"]["value"] for t in (1, 2)] == [
        75.0,
        87.5,
    ]  # half of the prompts won, half tied
    assert [(row["against"], row["value"]) for row in _found(lab, run, 2)["changes"]] == [("M_0", 37.5), ("M_1", 12.5)]
    data = _report(run)
    assert [row["win_rate"] and row["win_rate"]["value"] for row in data["decay"]] == [None, 75.0, 87.5]
    assert data["decay"][1]["win_rate"]["low"] < 75 < data["decay"][1]["win_rate"]["high"]
    assert data["judged"]["turn"] == "Win rates still rise: M_2 surely wins more than every model before it"
    page = (run / "report/report.html").read_text(encoding="utf-8")
    assert "Win rate in percent by model" in page
    assert ">believed<" in page
    assert "87.5 %" in render_results(run)
    print_summary(run)
    assert "Win rates still rise" in capsys.readouterr().out


def test_without_a_judge_nothing_is_said_of_one(lab: Lab, finished: Path) -> None:
    data = _report(finished)
    assert data["judged"] is None
    assert {row["win_rate"] for row in data["decay"]} == {None}
    page = (finished / "report/report.html").read_text(encoding="utf-8")
    assert "win rate</th>" not in page
    assert "Win rate, and the judge" not in page
    assert not any("compare" in stage["name"] for stage in stage_states(finished))


@pytest.mark.parametrize(
    ("judging", "why"),
    [
        (coin, "both orders name the same answer on"),
        (first_place, "to the answer that stands first; beyond 75 %"),
        (indifferent, "it names an answer in both orders on 0 of 24 prompts"),
        (rambler, "0 prompts with different answers and a verdict in both orders are too few"),
    ],
)
def test_judge_that_cannot_judge_is_not_believed_and_decides_nothing(
    judging: Judging, why: str, lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a judge that reads would end the loop: the first model already answers all that any answers
    _script(monkeypatch, judging, [0.0, 0.5, 0.5])
    run = tmp_path / "run"
    lab.run(run, iterations="auto", max_iterations=2, **judged)
    assert why in _found(lab, run, 1)["doubt"]
    for t in (1, 2):
        stop = lab.manifest(run, f"iteration-{t}/stop")["result"]
        assert (stop["goes_on"], stop["preferred"]["gain"]) == (True, None)
        assert f"the judge fake is not believed on M_{t} and decides nothing: " in stop["why"]
    data = _report(run)
    assert data["judged"]["turn"].startswith("The judge is not believed on M_1, M_2")
    sign = next(sign for sign in data["signs"] if sign["name"] == "win_rate_falls")
    assert (sign["state"], "is not believed on M_2" in sign["told"]) == ("not checked", True)
    assert "not believed" in (run / "report/report.html").read_text(encoding="utf-8")


def test_prompts_without_a_verdict_are_counted_and_are_no_loss(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [*PROMPTS, {"instruction": "FAIL-ME"}]
    lab.write_lines(tmp_path / "prompts.jsonl", prompts)

    def unsure(first: int, second: int, drawn: int) -> str:
        return "Score: 4" if first < second else "Score: 2" if first > second else "I cannot say."

    _script(monkeypatch, unsure, [0.0, 0.5])
    run = tmp_path / "run"
    lab.run(run, **judged)
    found, manifest = _found(lab, run, 1), lab.manifest(run, "iteration-1/compare")
    assert (found["wins"], found["losses"], found["ties"], found["win_rate"]["value"]) == (12, 0, 0, 100.0)
    assert (manifest["read"], manifest["kept"]) == (25, 12)
    assert manifest["failed"] == {"no_output": 1, "no_verdict": 12}
    assert "1 without an answer, 12 without a verdict: unparsed 24 rulings" in (run / "report/report.html").read_text(
        "utf-8"
    )


def test_loop_ends_where_the_win_rate_stalls_and_the_model_is_kept(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, reader, [0.0, 0.5, 0.45, 0.9])  # M_2 loses one prompt: no gain of 3 points is left open
    run, auto = tmp_path / "run", {"iterations": "auto", "max_iterations": 3, **judged}
    lab.run(run, **auto)
    stop = lab.manifest(run, "iteration-2/stop")["result"]
    assert (stop["improved"], stop["goes_on"], stop["fired"]) == (True, False, "win_rate")
    assert "M_2 wins no more than M_1: -2.1 points of win rate by fake (-7.3 to +0.0, 24 prompts)" in stop["why"]
    course = find_course(lab.recipe(**auto), RunDir(run))
    assert (course.iterations, course.best) == (2, 2)
    assert "M_2 wins no more than M_1" in _report(run)["iterations"]["told"]


def test_shares_that_are_all_alike_rule_out_no_gain_and_end_no_loop(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, reader, [0.0, 0.5, 0.5])  # in other words, so M_2 is no twin of M_1
    run, auto = tmp_path / "run", {"iterations": "auto", "max_iterations": 2, **judged}
    lab.run(run, **auto)
    stop = lab.manifest(run, "iteration-2/stop")["result"]
    assert (stop["goes_on"], stop["preferred"]["gain"]) == (True, None)
    assert "M_2 may win more than M_1: +0.0 points of win rate by fake (all came out alike" in stop["why"]
    assert _report(run)["judged"]["turn"].startswith("Win rates rise no further than M_1")
    assert "+0.0 (all alike)" in render_results(run)


def test_model_that_surely_wins_less_is_not_kept_though_its_likelihood_is_better(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, reader, [0.0, 0.9, 0.4])
    run, auto = tmp_path / "run", {"iterations": "auto", "max_iterations": 3, **judged}
    lab.run(run, **auto)
    stop = lab.manifest(run, "iteration-2/stop")["result"]
    assert (stop["improved"], stop["fired"], stop["preferred"]["gain"]) == (False, "win_rate", "falls")
    assert find_course(lab.recipe(**auto), RunDir(run)).best == 1
    assert "a turn at M_2" in _report(run)["judged"]["turn"]


def test_model_that_surely_wins_more_is_kept_where_its_likelihood_only_stays(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, reader, [0.0, 0.5], [0.0, 0.0])
    run, auto = tmp_path / "run", {"iterations": "auto", "max_iterations": 2, **judged}
    lab.run(run, **auto)
    stop = lab.manifest(run, "iteration-1/stop")["result"]
    assert (stop["improved"], stop["goes_on"], stop["fired"]) == (True, False, "likelihood")
    assert find_course(lab.recipe(**auto), RunDir(run)).best == 1


def test_killed_judge_goes_on_and_nothing_is_asked_twice(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _script(monkeypatch, reader, [0.0, 0.5, 0.75])
    run, changes = tmp_path / "run", {"iterations": 2, **judged}
    lab.run(tmp_path / "whole", **changes)
    whole = (asked.answers, asked.rulings)
    assert whole == (3 * N, 2 * 2 * (N + 8))  # M_0 answers once for both
    asked.answers = asked.rulings = 0
    asked.kill_after = 70
    with pytest.raises(KeyboardInterrupt):
        lab.run(run, **changes)
    asked.kill_after = None
    lab.run(run, **changes)
    assert asked.answers == whole[0]
    assert whole[1] <= asked.rulings <= whole[1] + 2 * (N + 8), "the batch in flight, at most, is asked again"
    assert [_found(lab, run, t) for t in (1, 2)] == [_found(lab, tmp_path / "whole", t) for t in (1, 2)]
    assert lab.run(run, **changes) is False


def test_judge_named_when_the_run_is_done_trains_nothing(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, reader, [0.0, 0.5, 0.75])
    run, without = tmp_path / "run", {**judged, "iterations": 2}
    del without["evaluate__judge"]
    lab.run(run, **without)
    kept = {path: path.read_bytes() for path in run.glob("*/finetune/manifest.json")}
    with pytest.raises(DriftError, match="--rerun-from iteration-1/compare"):
        lab.run(run, iterations=2, **judged)
    lab.run(run, iterations=2, **judged, rerun_from="iteration-1/compare")
    assert {path: path.read_bytes() for path in run.glob("*/finetune/manifest.json")} == kept
    assert _report(run)["judged"]["rows"][1]["model"] == "M_2"


@pytest.mark.parametrize("iterations", [2, "auto"])
def test_outputs_of_others_are_a_baseline_that_m_0_is_compared_with_too(
    iterations: object, lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**row, "output": "grade 3 by bus", "generator": "bus"} for row in PROMPTS]
    lab.write_lines(tmp_path / "bus.jsonl", rows)
    _script(monkeypatch, reader, [0.25, 0.5, 0.75])
    run = tmp_path / "run"
    judged["evaluate__judge"]["baseline"] = str(tmp_path / "bus.jsonl")
    lab.run(run, iterations=iterations, max_iterations=2, **judged)
    assert [_found(lab, run, t)["win_rate"]["value"] for t in range(3)] == [25.0, 50.0, 75.0]
    assert _found(lab, run, 1)["against"] == "bus"
    assert [row["value"] for row in _found(lab, run, 2)["changes"]] == [50.0, 25.0]
    sign = next(sign for sign in _report(run)["signs"] if sign["name"] == "win_rate_falls")
    assert "helps: M_2 +50.0 points of win rate against M_0" in sign["told"]


def test_probabilities_are_read_and_need_no_second_asking(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, reader, [0.0, 0.5])
    judged["evaluate__judge"]["verdicts"] = "probability"
    run = tmp_path / "run"
    lab.run(run, **judged)
    found = _found(lab, run, 1)  # the scripted engine's probabilities are the first place's
    assert "to the answer that stands first" in found["doubt"]
    assert found["judge"]["self_consistency"]["n"] == N
    made = lab.manifest(run, "iteration-1/compare")
    judged["evaluate__judge"] |= {"recheck": 9, "reply_tokens": 99}  # of a judge that replies
    lab.run(run, **judged)
    assert lab.manifest(run, "iteration-1/compare") == made


def test_cost_is_told_before_anything_is_made(lab: Lab, tmp_path: Path, judged: Changes, command: Command) -> None:
    recipe = lab.recipe_file(tmp_path / "recipe.yaml", iterations=2, **judged)
    told = command("run", recipe, "--run", tmp_path / "run").err
    cost = "judge fake, 24 prompts: at most 72 answers of up to 32 tokens by M_0 to M_2, and 128 rulings of up to 512 tokens"
    assert cost in told
    assert told.index(cost) < told.index("seed ...")
    assert "judge fake" not in command("run", recipe, "--run", tmp_path / "run").err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": "none.jsonl"}, "none.jsonl cannot be read"),
        ({"sample": 99}, "more than the 24"),
        ({"baseline": "none.json"}, "none.json cannot be read"),
    ],
)
def test_wrong_judge_is_told_before_anything_is_made(
    change: Changes, words: str, lab: Lab, tmp_path: Path, judged: Changes
) -> None:
    judged["evaluate__judge"].update(change)
    with pytest.raises(InputError, match=words):
        lab.run(tmp_path / "run", **judged)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("prompts", "confidence", "words"),
    [
        (7, 0.95, r"few\.jsonl with 7 prompts is too few: on fewer than 8 no judge can be told"),
        (10, 0.99, "give 11 prompts or more"),
    ],
)
def test_prompts_on_which_no_judge_could_be_believed_are_refused_before_anything_is_made(
    prompts: int, confidence: float, words: str, lab: Lab, tmp_path: Path, judged: Changes
) -> None:
    lab.write_lines(tmp_path / "few.jsonl", PROMPTS[:prompts])
    judged["evaluate__judge"]["prompts"] = str(tmp_path / "few.jsonl")
    with pytest.raises(InputError, match=words):
        lab.run(tmp_path / "run", **judged, evaluate__confidence=confidence)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "./nowhere"}, "nowhere"),
        ({"model": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
    ],
)
def test_judge_that_cannot_be_had_is_told_before_the_first_stage(
    change: Changes, words: str, lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("httpx")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judged["evaluate__judge"].update(change)
    with pytest.raises(InputError, match=words):
        lab.run(tmp_path / "run", **judged)
    assert not list((tmp_path / "run").glob("**/manifest.json"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_new_tokens": 3841}, r"evaluate\.judge\.max_new_tokens=3841; use at least 4097"),
        ({"max_tokens": 512}, r"judge\.max_tokens=512 leaves no room .*judge\.reply_tokens=512"),
        ({"sample": 7}, "sample\n.*greater than or equal to 8"),
    ],
)
def test_judge_that_could_never_be_heard_is_refused_by_the_recipe(
    change: Changes, words: str, lab: Lab, judged: Changes
) -> None:
    judged["evaluate__judge"].update(change)
    with pytest.raises(ValidationError, match=words):
        lab.recipe(**judged)


def test_missing_answers_are_told_with_their_reasons(
    lab: Lab, tmp_path: Path, judged: Changes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write_lines(tmp_path / "prompts.jsonl", [{"instruction": f"{n} " + "long " * 4000} for n in range(8)])
    _script(monkeypatch, reader, [0.0, 0.5])
    run = tmp_path / "run"
    lab.run(run, **judged)
    why = "too_long: prompt and answer exceed 4096 tokens (model.max_tokens)"
    assert _found(lab, run, 1)["errors"] == [why]
    assert tell_compared(_found(lab, run, 1))[0].endswith(f"(no answer: {why})")
    print_summary(run)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Answers are missing because: {why}" in shown
    assert "in the cache already" not in shown
    assert "The judge has ruled on nothing" in shown
