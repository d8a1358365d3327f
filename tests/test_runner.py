"""Accounting and refusals of the runner and the run folder that the kill tests cannot reach with a deterministic engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback.engines.base import EngineTotals, Loglikelihood
from humpback.engines.fake import FakeEngine
from humpback.errors import DriftError, GateError, InputError, StorageError
from humpback.executor import Executor, PoolExecutor, SerialExecutor
from humpback.records import Pair, Rejected
from humpback.report.status import stage_states
from humpback.runner import Output, Work, run_map, run_units
from humpback.store.fingerprint import diff
from humpback.store.shards import read_records, shard_files

if TYPE_CHECKING:
    from conftest import Lab


class FlakyTask:
    """Fails every row in its first sitting, in which the process dies after the rejected file; keeps all in the second."""

    one_to_one = True

    def __init__(self, *, failing: bool) -> None:
        self.failing = failing

    def __call__(self, records: Sequence[Pair]) -> Iterator[Pair | Rejected]:
        for pair in records:
            yield Rejected(id=pair.id, reason="engine_error", detail="", failed=True) if self.failing else pair

    def totals(self) -> EngineTotals:
        return EngineTotals()


def _pair(number: int) -> Pair:
    return Pair(id=str(number), instruction="i", response="r", split="train", source_uri="u", licence="")


def test_rows_a_killed_sitting_failed_do_not_stay_on_disk_when_they_are_kept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import humpback.runner as runner

    output, pairs = Output(tmp_path, "pairs", Pair), [_pair(n) for n in range(4)]
    write = runner.write_records

    def die_at_the_shard(path: Path, *given: object, **more: object) -> int:
        if path.name.startswith("pairs-"):
            raise KeyboardInterrupt
        return write(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "write_records", die_at_the_shard)
    with pytest.raises(KeyboardInterrupt):
        run_map(FlakyTask(failing=True), pairs, output, executor=SerialExecutor(), shard_rows=8)
    assert output.rejected(0).exists()
    monkeypatch.setattr(runner, "write_records", write)
    work = run_map(FlakyTask(failing=False), pairs, output, executor=SerialExecutor(), shard_rows=8)
    assert (work.counts.read, work.counts.kept, work.counts.failed) == (4, 4, {})
    assert not output.rejected(0).exists()


@dataclass(frozen=True)
class Numbers:
    """A unit of input: so many rows, of which every third is rejected."""

    index: int
    size: int


class CountingTask:
    def __call__(self, unit: Numbers, tally: Counter[str]) -> Iterator[Pair | Rejected]:
        for number in range(unit.size):
            tally["seen"] += 1
            name = f"{unit.index}-{number}"
            yield Rejected(id=name, reason="third", detail="") if number % 3 == 2 else _pair(unit.index)


UNITS = [Numbers(0, 7), Numbers(1, 0), Numbers(2, 2500), Numbers(3, 1)]


@pytest.mark.parametrize("executor", [SerialExecutor(), PoolExecutor(2)], ids=["serial", "pool"])
def test_units_are_counted_written_and_resumed(tmp_path: Path, executor: Executor) -> None:
    output = Output(tmp_path, "pairs", Pair)
    told: list[tuple[int, bool]] = []

    def on_unit(unit: Numbers, work: Work, fresh: bool) -> None:
        told.append((unit.index, fresh))

    half = run_units(CountingTask(), UNITS[:2], output, executor=executor, on_unit=on_unit)
    assert (half.counts.read, half.counts.kept, half.counts.rejected) == (7, 5, {"third": 2})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    whole = run_units(CountingTask(), UNITS, output, executor=executor, on_unit=on_unit)
    assert (whole.counts.read, whole.counts.kept, whole.counts.rejected) == (2508, 1673, {"third": 835})
    assert whole.tally == {"seen": 2508}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(told) == [(0, False), (0, True), (1, False), (1, True), (2, True), (3, True)]
    assert [pair.id for pair in read_records(shard_files(tmp_path, "pairs"), Pair)] == ["0"] * 5 + ["2"] * 1667 + ["3"]
    assert len(shard_files(tmp_path, "pairs")) == 4  # an empty unit is finished too
    assert [path.name for path in shard_files(tmp_path, "rejected")] == [
        "rejected-00000.parquet",
        "rejected-00002.parquet",
    ]
    assert list(tmp_path.glob(".*.tmp")) == []


def test_unit_that_fails_half_way_leaves_no_file(tmp_path: Path) -> None:
    class Failing(CountingTask):
        def __call__(self, unit: Numbers, tally: Counter[str]) -> Iterator[Pair | Rejected]:
            yield from super().__call__(unit, tally)
            raise StorageError("no more")

    with pytest.raises(StorageError, match="no more"):
        run_units(Failing(), [Numbers(0, 3000)], Output(tmp_path, "pairs", Pair), executor=SerialExecutor())
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_new_stage_before_finished_ones_is_refused_before_any_work(lab: Lab, copy_of_finished: Path) -> None:
    before = lab.listing(copy_of_finished)
    with pytest.raises(DriftError, match="--rerun-from iteration-2/score"):
        lab.run(copy_of_finished, iterations=2)
    assert lab.listing(copy_of_finished) == before
    assert lab.run(copy_of_finished, iterations=2, rerun_from="iteration-2/score")


def test_held_out_pair_without_likelihood_is_left_out_for_every_model_and_counted(
    lab: Lab, copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = FakeEngine.loglikelihood
    bad = next(row for row in lab.rows(copy_of_finished, "seed", "pairs") if row["split"] == "holdout")["response"]

    def refuse_one(self: FakeEngine, prompts: list, continuations: list) -> list[Loglikelihood]:  # type: ignore[type-arg]
        answers = answer(self, prompts, continuations)
        failure = Loglikelihood(logprob=0.0, tokens=0, error="too long for the model")
        return [failure if c.text == bad else a for a, c in zip(answers, continuations, strict=True)]

    monkeypatch.setattr(FakeEngine, "loglikelihood", refuse_one)
    lab.run(copy_of_finished, rerun_from="evaluate", runtime__cache=str(copy_of_finished.parent / "fresh.sqlite"))
    manifest = lab.manifest(copy_of_finished, "evaluate")
    assert (manifest["read"], manifest["kept"], manifest["failed"]) == (10, 9, {"engine_error": 1})
    assert {row["n"] for row in manifest["result"]["response_nll"]["both tags"]["models"]} == {9}


def test_refused_stage_says_why_in_status_and_begins_anew_with_a_corrected_recipe(lab: Lab, tmp_path: Path) -> None:
    run = tmp_path / "run"
    strict = {"curate__signal": "rating", "curate__threshold": 5}
    with pytest.raises(GateError, match="no candidate passes"):
        lab.run(run, **strict)
    state = next(row for row in stage_states(run) if row["name"] == "iteration-1/curate")
    assert state["state"] == "refused"
    assert "no candidate passes" in state["refusal"]
    assert lab.run(run, curate__signal="rating", curate__threshold=2)


def test_curated_pairs_that_cannot_be_trained_on_stop_the_run(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.prompts import Continuation, Prompt, Prompts, Rendered

    render = Prompts.render

    def cut_documents(self: Prompts, prompt: Prompt, target: Continuation) -> Rendered | str:
        return "target_cut" if self.web_tag in prompt.text else render(self, prompt, target)

    monkeypatch.setattr(Prompts, "render", cut_documents)
    with pytest.raises(GateError, match="none of the curated pairs can be trained on"):
        lab.run(tmp_path / "run")


def test_run_folder_inside_the_corpus_or_full_of_other_files_is_refused(lab: Lab, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.txt").write_text("A text.", encoding="utf-8")
    corpus = {"corpus__inputs": [{"path": str(documents)}]}
    with pytest.raises(InputError, match="lies inside"):
        lab.run(documents / "run", **corpus)
    with pytest.raises(InputError, match="holds files that are no run's"):
        lab.run(documents, **corpus)
    assert [path.name for path in documents.iterdir()] == ["a.txt"]


def test_drift_of_a_long_list_names_what_is_gone_and_what_is_new() -> None:
    old = [["a", "1"], ["b", "2"], ["e", "5"]]
    new = [["b", "2"], ["c", "3"], ["d", "4"], ["e", "5"]]
    assert list(diff(old, new, "files")) == ['files: 1 gone: ["a", "1"]', 'files: 2 new: ["c", "3"], ["d", "4"]']


def test_complete_stage_whose_rows_are_gone_is_named(lab: Lab, copy_of_finished: Path) -> None:
    for path in (copy_of_finished / "iteration-1" / "score").glob("scored-*.parquet"):
        path.unlink()
    with pytest.raises(StorageError, match=r"holds 0 of the .* --rerun-from iteration-1/score"):
        lab.run(copy_of_finished)
    assert lab.run(copy_of_finished, rerun_from="iteration-1/score")
