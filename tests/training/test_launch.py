"""The training room, on a tiny random Llama: what is trained on, what is written, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import Row, make_rows, make_spec, metrics_of, same_weights, weights_of, write_rows

from humpback.errors import InputError, MissingDependencyError, StageError
from humpback.training import launch
from humpback.training.fake import train_fake
from humpback.training.rows import read_rows
from humpback.training.spec import TrainSpec, TrainStep

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves

# -- the label contract ------------------------------------------------------------------------------------------------


def test_the_trainer_trains_on_exactly_the_rows_and_labels_it_was_given(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    rows = make_rows(10)
    long = [2 + i % 90 for i in range(1_500)]  # TRL's default would cut this one, and with it all its labels
    rows.append((long, [-100] * 1_490 + long[1_490:]))
    spec = make_spec(tmp_path, base, rows=rows, steps=11, batch_size=2)
    seen: list[Row] = []
    original = sft.Trainer.compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        padded = inputs["attention_mask"] == 0
        assert (inputs["labels"][padded] == -100).all()
        assert inputs["input_ids"].numel() <= 64 or len(inputs["input_ids"]) == 1
        for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            seen.append((inputs["input_ids"][i, :length].tolist(), inputs["labels"][i, :length].tolist()))
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft.Trainer, "compute_loss", spy)
    sft.run(spec)
    assert sorted(seen) == sorted(rows * 2)
    lines = metrics_of(spec)
    assert sum(line["tokens"] for line in lines) == 2 * sum(len(ids) for ids, _ in rows)
    targets = sum(label != -100 for _, labels in rows for label in labels)
    assert sum(line["label_tokens"] for line in lines) == 2 * targets
    assert lines[0]["learning_rate"] == pytest.approx(1e-3)
    assert lines[-1]["learning_rate"] == pytest.approx(1e-4)
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_loss_and_gradient_are_the_mean_over_label_tokens_however_a_batch_is_split(
    tmp_path: Path, base: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import SFTTrainer

    from humpback.training import sft

    model = AutoModelForCausalLM.from_pretrained(base)
    total = count = 0.0
    for ids, labels in make_rows(10):
        kept = sum(label != -100 for label in labels[1:])
        total += kept * model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
        count += kept
    lines = []
    for name, tokens, ours in (("one", 10_000, True), ("split", 40, True), ("trl", 10_000, False)):
        spec = make_spec(tmp_path / name, base, steps=1, batch_size=10, batch_tokens=tokens, method=method)
        if not ours:
            monkeypatch.setattr(sft.Trainer, "compute_loss", SFTTrainer.compute_loss)
        sft.run(spec)
        lines += metrics_of(spec)
    assert [line["loss"] for line in lines] == pytest.approx([total / count] * 3, rel=1e-5)
    assert [line["grad_norm"] for line in lines] == pytest.approx([lines[0]["grad_norm"]] * 3, rel=1e-4)


def test_rows_that_would_train_nothing_or_the_wrong_thing_are_refused(tmp_path: Path) -> None:
    good = make_rows(2)
    cases = {
        "no label token": ([5, 6, 7], [-100, -100, -100]),
        "not its own token": ([5, 6, 7], [-100, 7, 7]),
        "differ in length": ([5, 6, 7], [-100, 6]),
        "fewer than two": ([5], [5]),
    }
    for reason, row in cases.items():
        with pytest.raises(InputError, match=rf"row2: .*{reason}"):
            read_rows([write_rows(tmp_path / "bad.parquet", [*good, row])])
    with pytest.raises(InputError, match="no label token"):  # a first token is never predicted
        read_rows([write_rows(tmp_path / "bad.parquet", [([5, 6, 7], [5, -100, -100])])])
    with pytest.raises(InputError, match="no training rows"):
        read_rows([write_rows(tmp_path / "empty.parquet", [])])


def test_bad_input_is_one_line_and_exit_2(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from humpback.training import sft

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    cases = {
        "there is no such folder": make_spec(tmp_path, tmp_path / "nowhere"),
        "is an adapter without its model": make_spec(tmp_path, adapter),
        "there is no such file": make_spec(tmp_path, base, data=[tmp_path / "nowhere.parquet"]),
        "no training rows": make_spec(tmp_path, base, data=[write_rows(tmp_path / "empty.parquet", [])]),
    }
    if not torch.cuda.is_available():
        cases["sees no CUDA device"] = make_spec(tmp_path, base, device="cuda")
    file = tmp_path / "spec.json"
    for message, spec in cases.items():
        file.write_text(spec.model_dump_json())
        assert sft.main([str(file)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
    file.write_text('{"steps": 0}')
    assert sft.main([str(file)]) == 2
    assert "steps: Input should be greater" in capsys.readouterr().err
    with pytest.raises(InputError, match="is an adapter"):  # the parent refuses too, without starting a child
        launch.train(make_spec(tmp_path, adapter))


def test_a_loss_that_is_not_a_number_stops_and_names_the_step(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    original = sft.Trainer.training_step

    def broken(self: Any, *args: Any) -> Any:
        return original(self, *args) * (float("nan") if self.state.global_step == 2 else 1)

    monkeypatch.setattr(sft.Trainer, "training_step", broken)
    spec = make_spec(tmp_path, base, save_every=1)
    with pytest.raises(StageError, match="step 3 of 5: the loss is nan"):
        sft.run(spec)
    assert not spec.output.exists()
    assert not (spec.work / "checkpoint-3").exists()


# -- the child process -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lora_training_ends_as_a_full_model_folder(tmp_path: Path, base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = make_spec(tmp_path, base, method="lora", dropout=0.1)
    steps: list[TrainStep] = []
    result = launch.train(spec, on_step=steps.append)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert (result.steps, result.examples) == (5, 10)
    assert result.last_loss == steps[-1].loss
    model = AutoModelForCausalLM.from_pretrained(spec.output)
    assert model.dtype == torch.float32
    assert model.config.attention_dropout == 0.0
    assert AutoTokenizer.from_pretrained(spec.output).chat_template
    assert weights_of(base).keys() == weights_of(spec.output).keys()
    assert not same_weights(base, spec.output)
    assert not list(spec.work.glob("checkpoint-*"))
    before = spec.output.stat().st_mtime_ns
    told: list[str] = []
    assert launch.train(spec, tell=told.append) == result  # finished: no child is started
    assert told == [f"{spec.output} is there already, trained by this spec on these rows; delete it to train it again"]
    assert spec.output.stat().st_mtime_ns == before


class Stop(Exception):
    """Makes launch kill its child."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, base: Path, method: str) -> None:
    options: dict[str, Any] = {"steps": 150, "save_every": 20, "method": method, "dropout": 0.1}
    whole = make_spec(tmp_path / "whole", base, **options)
    launch.train(whole)

    def stop(step: TrainStep) -> None:
        if step.step > 45:
            raise Stop

    killed = make_spec(tmp_path / "killed", base, **options)
    with pytest.raises(Stop):
        launch.train(killed, on_step=stop)
    assert not killed.output.exists()
    checkpoints = sorted(killed.work.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert checkpoints
    damaged = killed.model_copy(
        update={name: tmp_path / "damaged" / getattr(killed, name).name for name in ("output", "work", "metrics")}
    )
    shutil.copytree(tmp_path / "killed", tmp_path / "damaged")

    steps: list[TrainStep] = []
    launch.train(killed, on_step=steps.append)
    # the kill may have fallen into the writing of the last checkpoint; then the one before serves
    assert steps[0].step - 1 in [int(path.name[11:]) for path in checkpoints[-2:]]
    assert [line["step"] for line in metrics_of(killed)] == list(range(1, 151))
    assert same_weights(whole.output, killed.output)

    optimizer = damaged.work / checkpoints[-1].name / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100] if optimizer.exists() else b"")
    steps.clear()
    launch.train(damaged, on_step=steps.append)
    assert f"{checkpoints[-1].name} cannot be used" in (damaged.work / "train.log").read_text()
    assert steps[0].step == int(checkpoints[-2].name[11:]) + 1
    assert same_weights(whole.output, damaged.output)


@pytest.mark.slow
def test_the_child_does_not_outlive_its_parent(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path, base, steps=100_000)
    code = (
        "import sys; from pathlib import Path; from humpback.training.launch import train; "
        "from humpback.training.spec import TrainSpec; train(TrainSpec.read(Path(sys.argv[1])))"
    )
    file = tmp_path / "mine.json"
    file.write_text(spec.model_dump_json())
    parent = subprocess.Popen([sys.executable, "-c", code, str(file)])
    try:
        deadline = time.monotonic() + 500  # a busy machine takes minutes to import torch
        while not (spec.metrics.is_file() and spec.metrics.stat().st_size):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert children_of(spec)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 60
    while children_of(spec) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not children_of(spec)


def children_of(spec: TrainSpec) -> list[str]:
    wanted = os.fsencode(spec.work / "spec.json")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            pass
    return found


def test_a_missing_trainer_is_named_with_its_extra(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None if name == "trl" else name)
    with pytest.raises(MissingDependencyError, match=r"needs trl: pip install 'humpback-lm\[train\]'"):
        launch.train(make_spec(tmp_path, base))


def test_a_device_is_one_of_those_that_are_visible(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path, base, device="cuda:1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert launch._environment(spec)["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(InputError, match="device=cuda:1: CUDA_VISIBLE_DEVICES=4 has no such device"):
        launch._environment(spec)


def test_a_failed_child_is_reported_with_its_log(tmp_path: Path, base: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(StageError, match=r"log: .*train\.log; the same command goes on from the last checkpoint"):
        launch.train(make_spec(tmp_path, broken))


# -- identity ----------------------------------------------------------------------------------------------------------


def test_identity_is_what_is_learnt_and_not_where_or_how(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path / "one", base)
    assert make_spec(tmp_path / "two", base, threads=2, batch_tokens=9).identity() == spec.identity()
    assert make_spec(tmp_path / "three", base, learning_rate=2e-3).identity() != spec.identity()
    assert make_spec(tmp_path / "four", base, rows=make_rows(9)).identity() != spec.identity()


def test_fake_training_depends_on_base_and_rows_alone(tmp_path: Path, base: Path) -> None:
    def content(spec: TrainSpec) -> dict[str, Any]:
        train_fake(spec)
        return json.loads((spec.output / "fake-model.json").read_text())  # type: ignore[no-any-return]

    spec = make_spec(tmp_path / "one", base)
    first = content(spec)
    assert (first["fake"], first["examples"]) == (True, 10)
    assert content(make_spec(tmp_path / "two", base)) == first
    assert content(make_spec(tmp_path / "three", base, rows=make_rows(9)))["trained_on"] != first["trained_on"]
    assert content(make_spec(tmp_path / "four", spec.output))["trained_on"] != first["trained_on"]
    assert metrics_of(spec) == [{"step": 5, "steps": 5}]
