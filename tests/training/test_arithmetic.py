"""By what a training is computed: kept with its checkpoints, compared when it goes on, told where it has changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import COMPUTED, make_spec, same_weights

from humpback.training import launch
from humpback.training.arithmetic import Sitting, join_sitting, tell_changes
from humpback.training.checkpoints import SEAL
from humpback.training.spec import STARTED, TrainSpec

LATER = dataclasses.replace(COMPUTED, threads=2, packages={"torch": "2.14.0", "peft": "0.22"})


class Stop(Exception):
    """Ends a training in the middle."""


def test_a_training_that_goes_on_by_the_same_means_is_one_sitting_and_there_is_nothing_to_tell() -> None:
    sittings = join_sitting([], COMPUTED, step=0)
    assert sittings == [Sitting(first_step=1, arithmetic=COMPUTED)]
    again = join_sitting(sittings, COMPUTED, step=8)
    assert again == sittings
    assert tell_changes(again, "checkpoint-8", step=8) is None


def test_each_difference_is_told_with_what_it_was() -> None:
    sittings = join_sitting(join_sitting([], COMPUTED, step=0), LATER, step=8)
    assert [sitting.first_step for sitting in sittings] == [1, 9]
    told = tell_changes(sittings, "checkpoint-8", step=8)
    assert told is not None
    assert "checkpoint-8 is gone on from by other means (threads 2, it had 1; torch 2.14.0, it had 2.13.0;" in told
    assert "peft 0.22, it had none)" in told
    assert "attention" not in told
    assert "not be bit for bit" in told
    assert tell_changes(join_sitting(sittings, LATER, step=16), "checkpoint-16", step=16) is None  # told once


def test_a_checkpoint_that_does_not_tell_is_not_taken_for_the_same() -> None:
    sittings = join_sitting([], COMPUTED, step=8)
    assert sittings == [Sitting(first_step=1, arithmetic=None), Sitting(first_step=9, arithmetic=COMPUTED)]
    told = tell_changes(sittings, "checkpoint-8", step=8)
    assert told is not None
    assert "checkpoint-8 does not tell which attention, threads and versions computed it" in told


def test_a_sitting_is_read_back_as_it_was_written() -> None:
    for sitting in (Sitting(first_step=1, arithmetic=None), Sitting(first_step=4, arithmetic=COMPUTED)):
        assert Sitting.read(json.loads(json.dumps(dataclasses.asdict(sitting)))) == sitting


# -- in a training -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, base: Path) -> TrainSpec:
    """Leave a training that was ended after its first checkpoint, at step 4 of 8."""
    pytest.importorskip("trl")
    from humpback.training import sft
    from humpback.training.trainer import Trainer

    spec = make_spec(tmp_path_factory.mktemp("halves"), base, steps=8, save_every=4, dropout=0.1)
    log = Trainer.log

    def stop(self: Any, logs: dict[str, float], *args: Any) -> None:
        if self.state.global_step == 6:
            raise Stop
        log(self, logs, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "log", stop)
        with pytest.raises(Stop):
            sft.run(spec)
    (spec.work / "identity").write_text(spec.identity())
    return spec


def copy_of(spec: TrainSpec, folder: Path) -> TrainSpec:
    shutil.copytree(spec.work.parent, folder)
    places = {name: folder / getattr(spec, name).name for name in ("output", "work", "metrics")}
    return spec.model_copy(update={**places, "data": (folder / "rows.parquet",)})


def seal_of(spec: TrainSpec) -> dict[str, Any]:
    return json.loads((spec.work / "checkpoint-4" / SEAL).read_text())  # type: ignore[no-any-return]


def finish(spec: TrainSpec) -> tuple[list[str], list[dict[str, Any]]]:
    """Let a training go on to its end; return what is told of it, and the sittings in its record."""
    from humpback.training import sft

    sft.run(spec)
    notes = json.loads((spec.work / STARTED).read_text())["notes"]
    return notes, json.loads((spec.output / "training.json").read_text())["machine"]["sittings"]


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_tells_by_what_it_was_computed_and_a_resume_by_the_same_tells_nothing(
    tmp_path: Path, halves: TrainSpec
) -> None:
    spec = copy_of(halves, tmp_path / "same")
    told = seal_of(spec)["sittings"]
    assert len(told) == 1
    computed = told[0]["arithmetic"]
    assert (computed["attention"], computed["threads"], computed["batch_tokens"]) == ("sdpa", 1, 64)
    assert {"humpback", "torch", "transformers", "trl", "accelerate"} == computed["packages"].keys()
    assert finish(spec) == ([], told)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention": "humpback_training"}, "attention sdpa, it had humpback_training"),
        ({"packages": {}}, "it had none"),
        ({"threads": 7}, "threads 1, it had 7"),
    ],
    ids=["attention", "versions", "threads"],
)
def test_a_checkpoint_of_other_means_is_gone_on_from_and_told(
    tmp_path: Path, halves: TrainSpec, change: dict[str, Any], words: str
) -> None:
    spec = copy_of(halves, tmp_path / "changed")
    seal = seal_of(spec)
    seal["sittings"][0]["arithmetic"].update(change)
    (spec.work / "checkpoint-4" / SEAL).write_text(json.dumps(seal))
    notes, sittings = finish(spec)
    assert len(notes) == 1
    assert words in notes[0]
    assert [sitting["first_step"] for sitting in sittings] == [1, 5]
    assert sittings[0] == seal["sittings"][0]


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_from_before_they_told_it_is_gone_on_from_and_the_parent_passes_the_warning_on(
    tmp_path: Path, base: Path, halves: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    spec = copy_of(halves, tmp_path / "old")
    seal = seal_of(spec)
    del seal["sittings"]
    (spec.work / "checkpoint-4" / SEAL).write_text(json.dumps(seal))

    def run_child(spec: TrainSpec, steps: Any) -> int:
        sft.run(spec)
        steps.poll()
        return 0

    monkeypatch.setattr(launch, "_run_child", run_child)
    told: list[str] = []
    launch.train(spec, tell=told.append)
    assert len(told) == 1
    assert told[0].startswith("warning: checkpoint-4 does not tell which attention")
    whole = make_spec(tmp_path / "whole", base, steps=8, dropout=0.1)
    sft.run(whole)
    assert same_weights(spec.output, whole.output)  # it was the same after all


@pytest.mark.filterwarnings("default")
def test_recomputed_activations_change_no_bit_and_are_no_other_means(tmp_path: Path, base: Path) -> None:
    from humpback.training import sft

    specs = [
        make_spec(tmp_path / name, base, steps=3, dropout=0.1, recompute=recompute, precision=precision)
        for precision in ("float32", "bfloat16")
        for name, recompute in ((f"kept-{precision}", False), (f"again-{precision}", True))
    ]
    for spec in specs:
        sft.run(spec)
    assert same_weights(specs[0].output, specs[1].output)
    assert same_weights(specs[2].output, specs[3].output)
    assert not same_weights(specs[0].output, specs[2].output)
