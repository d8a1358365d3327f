"""Several processes on one training: the same rows, loss and gradient as one; and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shares import weigh
from tiny import make_rows, make_spec, metrics_of, same_weights, weights_of

from humpback.errors import InputError
from humpback.training.launch import _environment, train
from humpback.training.schedule import share_rows
from humpback.training.spec import TrainStep

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

TOLERANCE = 1e-4
"""Relative difference of losses that another order of float32 sums explains, over the steps of these tests."""


def test_rows_are_shared_by_tokens_and_every_process_has_one() -> None:
    shares = share_rows([10, 90, 30, 30, 20], 2)
    assert sorted(row for share in shares for row in share) == [0, 1, 2, 3, 4]
    assert shares == [[1], [2, 3, 4, 0]]
    assert [len(share) for share in share_rows([5, 5, 5], 3)] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "weighted"), [("full", False), ("full", True), ("lora", False)])
def test_two_processes_give_the_losses_and_the_model_of_one(
    tmp_path: Path, base: Path, method: str, weighted: bool
) -> None:
    specs = [
        # an odd batch, rows of different lengths and passes of few tokens: nothing splits evenly
        make_spec(tmp_path / str(count), base, steps=12, batch_size=5, batch_tokens=40, method=method, processes=count)
        for count in (1, 2)
    ]
    for spec in specs:
        if weighted:
            weigh(spec.data[0], sampling=[0.5, 2.25] * 5, weight=[1.0, 0.25, 0.5, 0.01, 0.75] * 2)
        train(spec)
    one, two = map(metrics_of, specs)
    for name in ("step", "tokens", "label_tokens", "learning_rate"):
        assert [line[name] for line in one] == [line[name] for line in two]
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=TOLERANCE)
    assert one[-1]["loss"] < one[0]["loss"]
    weights = [weights_of(spec.output) for spec in specs]
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-4), name


class Stop(Exception):
    """Makes launch kill its child."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_killed_processes_resume_to_the_same_weights_and_refuse_to_be_one(
    tmp_path: Path, base: Path, method: str
) -> None:
    options: dict[str, Any] = {"steps": 60, "save_every": 10, "dropout": 0.1, "processes": 2, "method": method}
    whole = make_spec(tmp_path / "whole", base, **options)
    train(whole)

    def stop(step: TrainStep) -> None:
        if step.step > 25:
            raise Stop

    killed = make_spec(tmp_path / "killed", base, **options)
    with pytest.raises(Stop):
        train(killed, on_step=stop)
    with pytest.raises(
        InputError, match=r"processes=1, but .*checkpoint-\d0 was trained by 2.*Set processes back to 2"
    ):
        train(killed.model_copy(update={"processes": 1}))
    steps: list[TrainStep] = []
    train(killed, on_step=steps.append)
    assert steps[0].step > 20
    assert [line["step"] for line in metrics_of(killed)] == list(range(1, 61))
    assert same_weights(whole.output, killed.output)


@pytest.mark.slow
def test_what_one_of_two_processes_refuses_is_told_as_if_there_were_one(tmp_path: Path, base: Path) -> None:
    rows = [*make_rows(4), ([5, 200, 7], [-100, 200, 7])]
    with pytest.raises(InputError, match="row4: a token outside the 96"):
        train(make_spec(tmp_path / "input", base, rows=rows, processes=2))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees no CUDA device"):
            train(make_spec(tmp_path / "cuda", base, processes=2, device="cuda"))


def test_more_processes_than_rows_of_a_batch_are_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ValueError, match="processes=5 for batch_size=4"):
        make_spec(tmp_path, base, processes=5)


def test_a_model_is_split_over_gpus_only(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ValueError, match="sharding=full splits a model over processes"):
        make_spec(tmp_path, base, sharding="full")


def test_processes_share_the_machines_cores_unless_told_otherwise(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("humpback.training.launch._cores", lambda: 9)
    two = make_spec(tmp_path, base, processes=2, threads=None)
    assert _environment(two)["OMP_NUM_THREADS"] == "4"  # torchrun alone would say 1
    assert "OMP_NUM_THREADS" not in _environment(two.model_copy(update={"processes": 1}))
    assert _environment(two.model_copy(update={"threads": 7}))["OMP_NUM_THREADS"] == "7"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _environment(two)["OMP_NUM_THREADS"] == "3"


def test_each_process_loads_its_model_on_a_gpu_of_its_own(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    taken: list[int] = []

    def build(*args: Any, **kwargs: Any) -> Any:
        assert taken == [1]
        raise Stop

    monkeypatch.setattr(sft, "TOGETHER", 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(sft, "build_trainer", build)
    with pytest.raises(Stop):
        sft.run(make_spec(tmp_path, base, processes=2, device="cuda"))
