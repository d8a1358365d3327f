"""The number format of a training: measured once, kept over its sittings, one for all processes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import COMPUTED, make_spec, metrics_of, same_weights

from humpback.errors import InputError
from humpback.training.checkpoints import publish_checkpoint
from humpback.training.launch import train
from humpback.training.spec import FINISHED, PRECISION, TrainSpec, TrainStep

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves


class Stop(Exception):
    """Ends the parent, and so the child, in the middle of a training."""


def be_faster_in(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    speeds = {"float32": 10.0, "bfloat16": 10.0, name: 30.0}
    monkeypatch.setattr("humpback.formats.measure_formats", lambda threads: speeds)


def settle(spec: TrainSpec, *, first: bool = True) -> Any:
    from humpback.training.precision import settle_precision

    return settle_precision(spec, on_cuda=False, first=first)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_cpu_trains_in_the_format_it_is_faster_in_and_the_model_tells_why(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from humpback.training import sft

    be_faster_in(monkeypatch, name)
    spec = make_spec(tmp_path, base, steps=2, precision="auto")
    sft.run(spec)
    record = json.loads((spec.output / "training.json").read_text())
    assert record["machine"]["precision"]["format"] == record["spec"]["precision"] == name
    assert "GFLOP/s in bfloat16" in record["machine"]["precision"]["reason"]
    other = make_spec(tmp_path / "named", base, steps=2, precision=name)
    sft.run(other)
    assert same_weights(spec.output, other.output)
    finished = json.loads((spec.work / FINISHED).read_text())
    assert finished["precision"].startswith(f"{name} (")
    assert [line["loss"] for line in metrics_of(spec)] == [line["loss"] for line in metrics_of(other)]


def test_a_decision_stays_when_the_machine_has_become_another(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base, precision="auto")
    be_faster_in(monkeypatch, "bfloat16")
    decided = settle(spec)
    be_faster_in(monkeypatch, "float32")
    assert settle(spec) == decided
    assert decided.format == "bfloat16"


def test_another_training_in_the_same_folder_decides_anew(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base, precision="auto", steps=1)
    be_faster_in(monkeypatch, "bfloat16")
    settle(spec)
    train(spec.model_copy(update={"seed": 1, "precision": "float32"}))
    assert json.loads((spec.work / PRECISION).read_text())["format"] == "float32"


def test_trainings_that_are_compared_share_the_decision_of_the_first(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [make_spec(tmp_path / name, base, precision="auto") for name in ("first", "second", "alone")]
    first, second = (spec.model_copy(update={"precision_file": tmp_path / PRECISION}) for spec in specs[:2])
    be_faster_in(monkeypatch, "bfloat16")
    decided = settle(first)
    be_faster_in(monkeypatch, "float32")
    assert settle(second) == decided
    assert decided.format == "bfloat16"
    assert settle(specs[2]).format == "float32"
    assert first.identity() == specs[0].identity()


def test_a_kill_before_a_decision_is_kept_whole_parts_no_trainings(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import precision

    spec = make_spec(tmp_path, base, precision="auto", precision_file=tmp_path / PRECISION)
    be_faster_in(monkeypatch, "bfloat16")
    written, write = [], precision.write_json

    def kill(path: Path, value: Any) -> None:
        if written:
            raise Stop
        written.append(path)
        write(path, value)

    monkeypatch.setattr(precision, "write_json", kill)
    with pytest.raises(Stop):
        settle(spec)
    monkeypatch.setattr(precision, "write_json", write)
    be_faster_in(monkeypatch, "float32")
    assert settle(spec).format == "bfloat16"
    assert json.loads((spec.work / PRECISION).read_text()) == json.loads((tmp_path / PRECISION).read_text())


def test_what_a_killed_training_began_with_is_what_the_others_get(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / PRECISION
    be_faster_in(monkeypatch, "bfloat16")
    spec = make_spec(tmp_path / "killed", base, precision="auto")
    settle(spec)
    be_faster_in(monkeypatch, "float32")
    settle(spec.model_copy(update={"precision_file": shared}))
    assert settle(make_spec(tmp_path / "next", base, precision="auto", precision_file=shared)).format == "bfloat16"


def test_a_damaged_decision_of_a_run_is_told_with_the_key_that_says_it(tmp_path: Path, base: Path) -> None:
    shared = tmp_path / PRECISION
    shared.write_text("{")
    spec = make_spec(tmp_path, base, precision="auto", precision_file=shared)
    with pytest.raises(InputError, match=rf"^{shared} does not say.*delete the file.*runtime\.training\.precision"):
        settle(spec)


def test_a_gpu_without_the_format_of_the_run_is_refused(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training.precision import settle_precision

    shared = tmp_path / PRECISION
    shared.write_text('{"format": "bfloat16", "reason": "a GPU"}')
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    spec = make_spec(tmp_path, base, precision="auto", precision_file=shared)
    with pytest.raises(InputError, match=r"bfloat16 \(a GPU\), which this GPU does not have.*precision=float32"):
        settle_precision(spec, on_cuda=True, first=True)


def test_other_processes_wait_for_the_first_to_decide(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base, precision="auto")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(settle(spec, first=False)))
    waiting.start()
    time.sleep(0.2)
    assert not found
    be_faster_in(monkeypatch, "bfloat16")
    decided = settle(spec)
    waiting.join(10)
    assert found == [decided]


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, base: Path) -> None:
    from humpback.formats import Chosen
    from humpback.training import sft

    spec = make_spec(tmp_path, base)
    written = spec.work / "checkpoint.tmp" / "checkpoint-5"
    written.mkdir(parents=True)
    (written / "trainer_state.json").write_text('{"global_step": 5}')
    publish_checkpoint(written, spec.work, processes=1, sharding="none", sittings=(), keep=1)
    (spec.work / PRECISION).write_text('{"format": "bfloat16", "reason": "it was faster"}')
    with pytest.raises(InputError, match=r"precision=float32, but .*checkpoint-5 was trained in bfloat16.*or auto"):
        sft._begin(spec, {"examples": 10}, Chosen(format="float32", reason="told"), COMPUTED)
    assert settle(spec.model_copy(update={"precision": "auto"})).format == "bfloat16"


@pytest.mark.parametrize("text", ["", "[]", '{"format": "int3", "reason": ""}'])
def test_a_decision_that_cannot_be_read_is_told(tmp_path: Path, base: Path, text: str) -> None:
    spec = make_spec(tmp_path, base, precision="auto")
    spec.work.mkdir()
    (spec.work / PRECISION).write_text(text)
    with pytest.raises(InputError, match=r"does not say which number format.*delete .*work to train from the start"):
        settle(spec)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_in_bfloat16_and_resumed_on_auto_a_training_ends_with_the_same_bits(
    tmp_path: Path, base: Path, processes: int
) -> None:
    options: dict[str, Any] = {"steps": 40, "save_every": 8, "dropout": 0.1, "processes": processes}
    whole = make_spec(tmp_path / "whole", base, precision="bfloat16", **options)
    train(whole)

    def stop(step: TrainStep) -> None:
        if step.step > 20:
            raise Stop

    killed = make_spec(tmp_path / "killed", base, precision="bfloat16", **options)
    with pytest.raises(Stop):
        train(killed, on_step=stop)
    steps: list[TrainStep] = []
    train(killed.model_copy(update={"precision": "auto"}), on_step=steps.append)
    assert steps[0].step > 8
    assert same_weights(whole.output, killed.output)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_rounding_does_not_change_what_is_learnt(tmp_path: Path, base: Path, method: str) -> None:
    """Held-out losses over 20 steps, in nats: seen here 0.0005 apart at most, where 20 steps gain 0.36 (full) and 0.08 (lora)."""
    curves = {}
    for name in ("float32", "bfloat16"):
        from humpback.training import sft

        spec = make_spec(
            tmp_path / name, base, steps=20, precision=name, method=method, held_out_share=0.2, evaluate_every=5
        )
        sft.run(spec)
        record = json.loads((spec.output / "training.json").read_text())
        curves[name] = [loss["nll"] for loss in record["held_out"]]
    exact, rounded = curves["float32"], curves["bfloat16"]
    assert len(exact) == 5
    assert exact[0] - exact[-1] > 0.05
    assert max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) < 0.002


def test_adapters_learnt_over_rounded_weights_are_merged_into_the_whole_ones(tmp_path: Path, base: Path) -> None:
    from tiny import weights_of

    from humpback.training import sft

    spec = make_spec(tmp_path, base, steps=1, method="lora", precision="bfloat16", learning_rate=1e-9)
    sft.run(spec)
    before, after = weights_of(base), weights_of(spec.output)
    assert all(torch.allclose(before[name], after[name].float(), atol=1e-6) for name in before)
    assert any((value != value.bfloat16().float()).any() for value in after.values())
