"""What can be known without GPUs of a training over several: how it is started, and what accelerate is told of splitting the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, make_spec, metrics_of, same_weights, weights_of

from humpback.training.launch import _command

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves


def test_a_process_per_gpu_is_started_by_torchrun_and_one_alone_is_not() -> None:
    module = ["-m", "humpback.training.sft"]
    assert _command(1) == [sys.executable, *module]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    assert _command(4) == [*torchrun, "--standalone", "--nproc-per-node=4", *module]


def arguments_of(spec: Any) -> Any:
    from humpback.training.sft import _arguments
    from humpback.training.weights import load_model

    return _arguments(spec, load_model(spec, on_cuda=False), longest=28, on_cuda=False)


@pytest.mark.parametrize("recompute", [False, True])
def test_accelerate_is_asked_to_split_the_model_layer_by_layer_and_to_recompute_by_itself(
    tmp_path: Path, base: Path, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    from humpback.training.sft import CHECKPOINTING
    from humpback.training.weights import load_model

    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # transformers sets it, and would leave it set
    spec = make_spec(tmp_path, base, processes=2, sharding="full", recompute=recompute)
    arguments = arguments_of(spec)
    assert not getattr(arguments, CHECKPOINTING)  # twice would gather every weight twice
    plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    assert plugin.fsdp_version == 2
    assert bool(plugin.activation_checkpointing) is recompute
    model = load_model(spec, on_cuda=False)
    plugin.set_auto_wrap_policy(model)
    wrapped = {type(module).__name__ for module in model.modules() if plugin.auto_wrap_policy(module, False, 0)}
    assert wrapped == {"LlamaDecoderLayer"}


def test_a_model_that_is_not_split_is_not_told_to_be(tmp_path: Path, base: Path) -> None:
    from humpback.training.sft import CHECKPOINTING

    arguments = arguments_of(make_spec(tmp_path, base, processes=2, recompute=True))
    assert getattr(arguments, CHECKPOINTING)
    assert not arguments.fsdp
    assert not arguments.fsdp_plugin_args


def test_adapters_over_weights_in_4_bits_learn_and_are_merged_into_the_whole_ones(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: runs where it is (4-bit weights)")
    from humpback.training import sft

    spec = make_spec(tmp_path, base, method="qlora", rows=make_rows(8), steps=6, learning_rate=1e-2)
    sft.run(spec)
    losses = [line["loss"] for line in metrics_of(spec)]
    assert losses[-1] < losses[0]
    still = make_spec(tmp_path / "still", base, method="qlora", steps=1, learning_rate=1e-9, final_learning_rate=0)
    sft.run(still)
    before, after = weights_of(base), weights_of(still.output)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)  # 4 bits are 1e-3 off
    assert not same_weights(base, spec.output)
