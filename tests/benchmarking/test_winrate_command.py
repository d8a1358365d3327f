"""`humpback winrate`: from outputs or models to a report, resumable, with nothing dropped in silence."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback.engines.base import Completion
from humpback.engines.fake import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from humpback.engines.base import Sampling
    from humpback.prompts import Prompt
    from tests.conftest import Command


def _outputs(path: Path, name: str, answers: dict[str, str]) -> Path:
    rows = [
        {"instruction": q, "output": a, "generator": name, "dataset": f"kind {len(q) % 2}"} for q, a in answers.items()
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    prompts = [f"Question {'x' * n}?" for n in range(12)]
    good = _outputs(tmp_path / "good.json", "good", {q: f"GOOD answer to {q}" for q in prompts})
    bad = _outputs(tmp_path / "bad.json", "bad", dict.fromkeys(prompts, "BAD"))
    return good, bad


@pytest.fixture
def fair(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A judge that prefers GOOD, and has no verdict on the shortest question; returns what it was asked."""
    asked: list[str] = []

    def generate(self: FakeEngine, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        texts = [prompt.user for prompt in prompts]
        asked.extend(texts)
        told = ["Hm." if "Question ?" in t else f"Score: {1 if t.index('GOOD') < t.index('BAD') else 5}" for t in texts]
        return [Completion(text=text, tokens=3, finish="stop") for text in told]

    monkeypatch.setattr(FakeEngine, "generate", generate)
    return asked


def _winrate(command: Command, tmp_path: Path, *arguments: object) -> object:
    return command("winrate", *arguments, "--judge", "fake", "-o", tmp_path / "out", "--json").json()


def test_report_counts_wins_and_what_was_not_judged(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command
) -> None:
    told = _winrate(command, tmp_path, *sides)
    assert (told["wins"], told["losses"], told["judged"], told["prompts"]) == (11, 0, 11, 12)  # type: ignore[index]
    assert told["without_verdict"] == 1  # type: ignore[index]
    assert told["rulings"] == {"parsed": 22, "unparsed": 2}  # type: ignore[index]
    assert told["win_rate"]["value"] == 100  # type: ignore[index]
    assert told["judge_figures"]["self_consistency"]["value"] == 100  # type: ignore[index]


def test_judge_that_reads_is_believed_and_one_that_follows_the_place_is_warned_of(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _winrate(command, tmp_path, *sides)["doubt"] is None  # type: ignore[index]
    judged = ("winrate", *sides, "--judge", "fake")
    assert "not to be believed" not in command(*judged, "-o", tmp_path / "out").out
    few = command(*judged, "-o", tmp_path / "few", "--recheck", 3, "--json").json()
    assert "8 are needed: ask again about more" in few["doubt"]
    assert command(*judged, "-o", tmp_path / "none", "--recheck", 0, "--json").json()["doubt"] is None

    def first(self: FakeEngine, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return [Completion(text="Score: 1", tokens=3, finish="stop") for _ in prompts]

    monkeypatch.setattr(FakeEngine, "generate", first)
    out = " ".join(command(*judged, "-o", tmp_path / "placed").out.split())
    assert "warning the judge is not to be believed here: it gives 100 %" in out
    assert "win rate 50.0%" in out, "its figures stay shown"
    kept = json.loads((tmp_path / "placed" / "winrate.json").read_bytes())
    assert "to the answer that stands first; beyond 75 %" in kept["doubt"]
    assert kept["win_rate"]["value"] == 50


def test_same_command_asks_nothing_again(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command
) -> None:
    first = _winrate(command, tmp_path, *sides)
    count = len(fair)
    second = _winrate(command, tmp_path, *sides)
    assert len(fair) == count > 0
    assert second["cost"]["from_cache"] == second["cost"]["judge_requests"]  # type: ignore[index]
    assert second["win_rate"] == first["win_rate"]  # type: ignore[index]


def test_cost_is_that_of_all_sittings(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, calls = FakeEngine.generate, []

    def stop_at_the_second(self: FakeEngine, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        self.totals.tokens_in += 100 * len(prompts)
        return answer(self, prompts, sampling)

    monkeypatch.setattr(FakeEngine, "generate", stop_at_the_second)
    priced = ("--price-in", 1e6, "--price-out", 0)
    assert command("winrate", *sides, "--judge", "fake", "-o", tmp_path / "out").status == 1
    second = _winrate(command, tmp_path, *sides, *priced)
    third = _winrate(command, tmp_path, *sides, *priced)
    assert second["cost"]["sittings"] == 2  # type: ignore[index]
    asked = sum(calls) - calls[1]
    assert second["cost"]["tokens_in"] == second["cost"]["price"] == 100 * asked  # type: ignore[index]
    for name in ("sittings", "judge_seconds", "tokens_in", "tokens_out", "price"):
        assert third["cost"][name] == second["cost"][name]  # type: ignore[index]
    assert "in 2 sittings" in command("winrate", *sides, "--judge", "fake", "-o", tmp_path / "out").out


def test_answers_that_another_comparison_has_paid_for_are_not_called_free(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command
) -> None:
    _winrate(command, tmp_path, *sides)
    renamed = json.loads(sides[0].read_text())
    other = tmp_path / "renamed.json"
    other.write_text(json.dumps([{**row, "generator": "renamed"} for row in renamed]))
    told = _winrate(command, tmp_path, other, sides[1], "--price-in", 1, "--price-out", 1)
    assert (told["cost"]["sittings"], told["cost"]["price"]) == (0, None)  # type: ignore[index]
    assert (
        "all its answers were there"
        in command(*("winrate", other, sides[1], "--judge", "fake", "-o", tmp_path / "out")).out
    )


def test_damaged_account_is_told_with_its_fix(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command
) -> None:
    _winrate(command, tmp_path, *sides)
    (tmp_path / "out" / "spent.json").write_text('[{"comparison": 3}]')
    ended = command("winrate", *sides, "--judge", "fake", "-o", tmp_path / "out")
    assert (ended.status, "spent.json is damaged" in ended.err, "delete it" in ended.err) == (1, True, True)


def test_annotations_are_alpacaevals(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command
) -> None:
    told = _winrate(command, tmp_path, *sides)
    again = command("alpaca-eval", "--annotations", tmp_path / "out" / "annotations.json", "--json").json()
    (row,) = again["models"]
    assert (row["model"], again["baseline"], row["n_unjudged"]) == ("good", "bad", 1)
    assert row["win_rate"] == told["win_rate"]["value"]  # type: ignore[index]
    outputs = json.loads((tmp_path / "out" / "model_outputs.json").read_text())
    assert outputs == json.loads(sides[0].read_text())


def test_report_for_people_tells_intervals_judge_and_cost(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command
) -> None:
    out = command(
        *("winrate", *sides, "--judge", "fake", "-o", tmp_path / "out", "--price-in", 1e6, "--price-out", 0)
    ).out
    for words in (
        *(
            "good against bad",
            "11 wins, 0 losses, 0 ties",
            "all prompts came out alike",
            "1 of 12 prompts",
            "2 unparsed",
        ),
        *("kind 0", "longer", "first place wins", "both orders agree", "alike when asked again", "price"),
    ):
        assert words in out


def test_models_answer_the_prompts_of_a_file(tmp_path: Path, command: Command) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Tell about number {n} FAIL-ME" if n == 3 else f"Tell about number {n}"} for n in range(9)]
    rows.append({"turns": ["First turn"], "category": "talk"})
    prompts.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    answers = {row.get("prompt") or "First turn": "An answer." for row in rows}
    other = _outputs(tmp_path / "other.json", "other", answers)
    told = _winrate(command, tmp_path, "fake", other, "--prompts", prompts, "--by-probability")
    assert (told["prompts"], told["without_output"], told["judged"]) == (10, 1, 9)  # type: ignore[index]
    assert told["sides"]["fake"]["errors"] == ["scripted failure"]  # type: ignore[index]
    assert told["judge_is_a_side"]  # type: ignore[index]


@pytest.mark.parametrize("by_variable", [False, True])
def test_prompts_are_a_set_of_the_folder_by_its_name(
    by_variable: bool,
    sides: tuple[Path, Path],
    fair: list[str],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    prompts = [{"id": n, "dataset": f"kind {n % 2}", "instruction": f"Question {'x' * n}?"} for n in range(1, 5)]
    (folder / "short.v1.json").write_text(json.dumps(prompts))  # as AlpacaEval writes its own
    (folder / "other.jsonl").write_text(json.dumps({"prompt": "a"}))
    named: tuple[object, ...] = ("--prompts-folder", folder)
    if by_variable:
        monkeypatch.setenv("HUMPBACK_PROMPTS", str(folder))
        named = ()
    told = _winrate(command, tmp_path, *sides, "--prompts", "short.v1", *named)
    assert told["prompts"] == 4  # type: ignore[index]
    assert {name: row["n"] for name, row in told["by_category"].items()} == {"kind 0": 2, "kind 1": 2}  # type: ignore[index]


def test_a_set_that_is_not_there_is_told_with_those_that_are(
    sides: tuple[Path, Path], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HUMPBACK_PROMPTS", raising=False)
    folder = tmp_path / "sets"
    folder.mkdir()
    for name in ("koala.jsonl", "mt-bench.jsonl.gz", "twice.json", "twice.jsonl", "notes.txt"):
        (folder / name).write_text("")
    here = ("--prompts-folder", folder)
    for arguments, words in (
        (("--prompts", "kaola", *here), f"{folder} has no prompt set kaola; it has koala, mt-bench, twice"),
        (("--prompts", "twice", *here), "several sets twice: twice.json, twice.jsonl; name the file"),
        (("--prompts", "koala"), "give --prompts-folder FOLDER, or set HUMPBACK_PROMPTS"),
        (("--prompts", "koala", "--prompts-folder", tmp_path / "none"), "cannot be read: No such file or directory"),
        (("--prompts", "koala", "--prompts-folder", tmp_path), "has no prompt set koala; it has bad, good"),
        (("--prompts", "koala.json", *here), "koala.json cannot be read"),
    ):
        ended = command("winrate", *sides, *arguments, "--judge", "fake", "-o", tmp_path / "out")
        assert (ended.status, words in ended.err) == (2, True), (words, ended.err)


def test_sample_takes_as_many_prompts(
    sides: tuple[Path, Path], fair: list[str], tmp_path: Path, command: Command
) -> None:
    assert _winrate(command, tmp_path, *sides, "--sample", 5)["prompts"] == 5  # type: ignore[index]


def test_judge_that_answers_nothing_usable_stops_with_the_counts(
    sides: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    ended = command(
        "winrate", *sides, "--judge", "fake", "-o", tmp_path / "out"
    )  # it writes instructions, not verdicts
    assert ended.status == 1
    assert "no usable verdict on 12 prompts (24 unparsed)" in ended.err
    assert (tmp_path / "out" / "annotations.json").exists()


def test_model_that_answers_nothing_is_no_loser(tmp_path: Path, command: Command) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"instruction": f"FAIL-ME {n}"} for n in range(3)]))
    other = _outputs(tmp_path / "other.json", "other", {f"FAIL-ME {n}": "x" for n in range(3)})
    ended = command("winrate", "fake", other, "--prompts", prompts, "--judge", "fake", "-o", tmp_path / "out")
    assert (ended.status, "no usable verdict on 3 prompts (nothing to judge)" in ended.err) == (1, True), ended.err
    report = json.loads((tmp_path / "out" / "winrate.json").read_text())
    assert (report["without_output"], report["losses"], report["win_rate"]["value"]) == (3, 0, None)


def test_wrong_sides_and_prompts_are_refused_by_name(
    sides: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    good, bad = sides
    part = _outputs(tmp_path / "part.json", "part", {"Question ?": "x", "Another?": "y"})
    twice = tmp_path / "twice.json"
    twice.write_text(json.dumps([{"prompt": "a"}, {"prompt": "a"}]))
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    nameless = tmp_path / "nameless.json"
    nameless.write_text(json.dumps([{"text": "a"}]))
    several = tmp_path / "several.json"
    entries = [{"instruction": n, "output": "x", "generator": n} for n in "ab"]
    several.write_text(json.dumps(entries))
    for arguments, words in (
        ((good, part), "do not answer the same prompts: 1 are in both, 11 in the first only, 1 in the second only"),
        ((good, good), "both sides are good"),
        (
            (good, "fake"),
            f"a model needs --prompts to answer; only two files of outputs bring their own; --prompts {good}",
        ),
        ((good, bad, "--prompts", twice), "1 prompts more than once"),
        ((good, bad, "--prompts", empty), "holds no prompt"),
        ((good, bad, "--prompts", nameless), "entry 1 has no text"),
        ((good, several), "outputs of 2 models"),
        ((good, tmp_path / "none.json"), "cannot be read: No such file or directory; check its name"),
        ((good, part, "--prompts", good), "has no output for 11 of 12 prompts, for example"),
        ((good, part, "--prompts", good), "add those outputs, or take the prompts out"),
        ((good, bad, "--sample", 99), "--sample 99 is more than the 12 there are"),
        ((good, bad, "--tags", "web"), "--tags web is unknown"),
        ((good, bad, "--engine", "tpu"), "--engine tpu is unknown"),
    ):
        ended = command("winrate", *arguments, "--judge", "fake", "-o", tmp_path / "out")
        assert (ended.status, words in ended.err) == (2, True), (words, ended.err)


class _Chat(BaseHTTPRequestHandler):
    """A chat endpoint that prefers GOOD answers."""

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "judge", "object": "model", "owned_by": "someone"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions" or body.keys() & {"logprobs", "top_logprobs"}:
            self._send(404, {"error": {"message": "Not Found", "code": 404}})
            return
        text = body["messages"][0]["content"]
        good, bad = text.find("GOOD"), text.find("BAD")
        message = {"role": "assistant", "content": f"They differ.\nScore: {1 if good < bad else 5}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        self._send(200, {"model": "judge", "choices": [choice], "usage": usage})

    def _send(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_no_interval_is_named_where_there_is_none(tmp_path: Path, command: Command) -> None:
    files = [_outputs(tmp_path / f"{name}.json", name, {"Q": name}) for name in ("one", "two")]
    printed = command("winrate", *files, "--judge", "fake", "--by-probability", "-o", tmp_path / "out").out
    assert "too few for an interval" in printed
    assert "95 %" not in printed


def test_server_judges(sides: tuple[Path, Path], tmp_path: Path, command: Command) -> None:
    pytest.importorskip("httpx")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Chat) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            told = command(
                *("winrate", *sides, "--judge", f"http://127.0.0.1:{server.server_port}/v1"),
                *(
                    "--judge-tokenizer",
                    "estimate",
                    "--price-in",
                    1,
                    "--price-out",
                    10,
                    "-o",
                    tmp_path / "out",
                    "--json",
                ),
            ).json()
        finally:
            server.shutdown()
            thread.join()
    assert (told["wins"], told["judged"]) == (12, 12)
    assert told["cost"]["price"] == pytest.approx((told["cost"]["tokens_in"] + 10 * told["cost"]["tokens_out"]) / 1e6)


def test_interrupted_comparison_says_that_it_goes_on(
    sides: tuple[Path, Path], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> list[Completion]:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeEngine, "generate", interrupt)
    ended = command("winrate", *sides, "--judge", "fake", "-o", tmp_path / "out")
    assert (ended.status, "the same command goes on" in ended.err) == (1, True)
