"""Another trainer between `mix/` and `model/`: the shipped example trains, and one that fails or leaves half a model is told apart."""

from __future__ import annotations

import fcntl
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shares import weigh
from tiny import make_rows, make_spec, metrics_of, same_weights

from humpback.errors import InputError, StageError
from humpback.training.held_out import HeldOutLoss, add_loss
from humpback.training.own import train_by_command
from humpback.training.spec import FINISHED, TrainStep

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_trainer.py"
COPY = "import json,sys,shutil; s=json.load(open(sys.argv[1])); shutil.copytree(s['base_model'], s['output'])"


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code, "{spec}"])


@pytest.mark.slow
def test_the_example_trains_a_model_that_is_complete(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path, base, steps=4, batch_size=5, chat_template="{{ bos_token }}!", stop_ids=(7,))
    weigh(spec.data[0], sampling=[1.0] * 9 + [2.0], weight=[1.0] * 5 + [0.5] * 5)
    steps: list[TrainStep] = []
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(EXAMPLE))} {{spec}}"
    result = train_by_command(spec, command, on_step=steps.append)
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert result.steps == 4
    assert result.examples == 10
    assert result.last_loss == metrics_of(spec)[-1]["loss"] < result.first_loss  # type: ignore[operator]
    assert not same_weights(base, spec.output)
    assert (spec.output / "tokenizer.json").is_file()
    assert (spec.output / "chat_template.jinja").read_text() == "{{ bos_token }}!"
    record = json.loads((spec.output / "training.json").read_text())
    assert record["trainer"] == command
    assert record["trained"]["tokens"] == result.tokens > 0


@pytest.mark.slow
def test_the_example_and_our_trainer_learn_the_same_from_one_batch(tmp_path: Path, base: Path) -> None:
    """All rows in one step: no order, no split and no dropout can tell the two apart."""
    from humpback.training import sft

    losses: list[Any] = []
    for name in ("own", "ours"):
        spec = make_spec(tmp_path / name, base, steps=3, batch_size=10, weight_decay=0.0)
        weigh(spec.data[0], sampling=[1.0] * 10, weight=[1.0] * 5 + [0.5] * 5)
        if name == "own":
            train_by_command(spec, f"{shlex.quote(sys.executable)} {shlex.quote(str(EXAMPLE))} {{spec}}")
        else:
            sft.run(spec)
        losses.append([line["loss"] for line in metrics_of(spec)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_trainer_that_fails_is_told_with_its_last_line_and_its_log(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path, base)
    with pytest.raises(StageError, match=r"ended with status 3: .*\(out of luck\); log: .*train\.log"):
        train_by_command(spec, python("print('out of luck'); raise SystemExit(3)"))
    with pytest.raises(InputError, match="cannot be started: no-such-trainer"):
        train_by_command(spec, "no-such-trainer {spec}")


def test_a_trainer_that_leaves_no_model_is_refused(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path, base)
    with pytest.raises(StageError, match=r"left no config\.json"):
        train_by_command(spec, python("pass"))
    code = "import json,sys,os; o=json.load(open(sys.argv[1]))['output']; os.makedirs(o); open(o+'/config.json','w')"
    with pytest.raises(StageError, match=r"left no \*\.safetensors"):
        train_by_command(spec, python(code))


def test_what_our_trainer_left_does_not_pass_for_the_commands(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path, base)
    weigh(spec.data[0], sampling=[2.0] * 10)
    spec.work.mkdir()
    loss = HeldOutLoss.of(5, sums={"seed": 2.0}, tokens={"seed": 1})
    for name in ("metrics.jsonl", "held-out.jsonl"):
        add_loss(tmp_path / name, loss)
    (spec.work / FINISHED).write_text("{}")
    result = train_by_command(spec, python(COPY))
    assert (result.held_out, result.first_loss) == ((), None)
    record = json.loads((spec.output / "training.json").read_text())
    assert (record["held_out"], record["trained"]["steps"]) == ([], 0)
    assert record["data"]["tokens"] == sum(len(ids) for ids, _ in make_rows(10))  # each row once, as with ours
    assert not (spec.work / FINISHED).exists()  # ours would take the model for its own


def test_rows_that_would_train_the_wrong_thing_are_refused_before_the_command_starts(
    tmp_path: Path, base: Path
) -> None:
    spec = make_spec(tmp_path, base, rows=[([5, 6, 7], [-100, 6, 7]), ([5, 6, 7], [-100, 7, 7])])
    with pytest.raises(InputError, match="row1: a label is not its own token"):
        train_by_command(spec, python(COPY))
    assert not spec.output.exists()


def test_a_command_that_outlives_its_run_is_not_joined_by_a_second(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path, base)
    spec.work.mkdir()
    with (spec.work / "command.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held.fileno(),))
    with pytest.raises(InputError, match=r"still writes to .*model; wait for it or end it"):
        train_by_command(spec, python(COPY))
    left.communicate(b"\n")
    train_by_command(spec, python(COPY))
    assert (spec.output / "training.json").is_file()


def test_a_line_of_metrics_that_is_half_there_is_waited_for(tmp_path: Path, base: Path) -> None:
    spec = make_spec(tmp_path, base)
    code = (
        "import json,sys,os,shutil,time; s=json.load(open(sys.argv[1])); f=open(s['metrics'],'w');"
        "f.write('{\"step\": 1, \"lo'); f.flush(); time.sleep(0.6); f.write('ss\": 2.5}\\n'); f.close();"
        "shutil.copytree(s['base_model'], s['output'])"
    )
    steps: list[TrainStep] = []
    result = train_by_command(spec, python(code), on_step=steps.append)
    assert [(step.step, step.loss) for step in steps] == [(1, 2.5)]
    assert result.first_loss == 2.5
