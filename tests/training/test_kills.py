"""Killed in the worst places, a training ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_spec, metrics_of, same_weights

from humpback.training.launch import train
from humpback.training.spec import TrainSpec

pytest.importorskip("trl")
pytestmark = pytest.mark.slow

DRIVER = """
import os, signal, sys
from pathlib import Path
from humpback.training import checkpoints, sft, trainer, weights
from humpback.training.spec import TrainSpec

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

spec, place = TrainSpec.read(Path(sys.argv[1])), sys.argv[2]
if place == "checkpoint is written":
    trainer.publish_checkpoint = lambda written, *args, **kwargs: (
        die() if written.name == "checkpoint-8" else checkpoints.publish_checkpoint(written, *args, **kwargs)
    )
elif place == "checkpoint is sealed":
    sync = checkpoints._sync
    checkpoints._sync = lambda path: die() if path.name == "checkpoint-8" else sync(path)
elif place == "step is told":
    log = trainer.Trainer.log
    trainer.Trainer.log = lambda self, logs, *args: die() if self.state.global_step == 7 else log(self, logs, *args)
elif place == "model is written":
    write = weights.write_folder
    weights.write_folder = lambda output, *, base, write, finish: (write(output.with_name("model.tmp")), die())
elif place == "model is there":
    sft.drop_checkpoints = die
sft.run(spec)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> TrainSpec:
    spec = make_spec(tmp_path_factory.mktemp("whole"), base, steps=10, save_every=4, dropout=0.1)
    train(spec)
    return spec


@pytest.mark.parametrize(
    "place",
    ["step is told", "checkpoint is written", "checkpoint is sealed", "model is written", "model is there"],
)
def test_a_kill_when(tmp_path: Path, base: Path, whole: TrainSpec, place: str) -> None:
    spec = make_spec(tmp_path / "killed", base, steps=10, save_every=4, dropout=0.1)
    spec.work.mkdir()
    (spec.work / "identity").write_text(spec.identity())
    file = tmp_path / "spec.json"
    file.write_text(spec.model_dump_json())
    done = subprocess.run([sys.executable, "-c", DRIVER, str(file), place], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert spec.output.exists() == (place == "model is there")
    resumed = 8 if place.startswith("model") else 4
    train(spec)
    if place != "model is there":  # else there is nothing left to do
        assert json.loads((spec.work / "started.json").read_text())["resumed_step"] == resumed
    assert [line["step"] for line in metrics_of(spec)] == list(range(1, 11))
    assert same_weights(whole.output, spec.output)
    assert not list(spec.work.glob("checkpoint*")) or place == "model is there"
