"""`humpback train`: a few lines are a whole spec, a run's own spec is the same training, and what is wrong is told at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from shares import weigh
from tiny import make_rows, make_spec, write_rows

from humpback.cli import main
from humpback.errors import InputError
from humpback.finetuning import _summary, load_spec
from humpback.training import launch
from humpback.training.held_out import HeldOutLoss
from humpback.training.metrics import sum_steps
from humpback.training.plan import count_data, tell_plan
from humpback.training.rows import count_rows, read_rows
from humpback.training.spec import TrainResult, TrainSpec, TrainStep

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, and a tokenizer of bytes without a chat template."""
    from serving import save_gpt2_like

    folder = tmp_path_factory.mktemp("base")
    save_gpt2_like(folder)
    from conftest import save_random_model

    save_random_model(folder, vocabulary=400, hidden=16, layers=1)
    return folder


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    folder = tmp_path / "mix"
    folder.mkdir()
    write_rows(folder / "mix-00000.parquet", make_rows(7))
    write_rows(folder / "mix-00001.parquet", make_rows(5))
    write_rows(folder / "rejected-00000.parquet", make_rows(3))
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_three_lines_are_a_spec_with_the_papers_schedule(tmp_path: Path, base: Path, mix: Path) -> None:
    file = write(tmp_path / "spec.yaml", f"base_model: {base}\ndata: {mix}\noutput: {tmp_path / 'out'}\n")
    spec, counts = load_spec(file)
    assert [path.name for path in spec.data] == ["mix-00000.parquet", "mix-00001.parquet"]
    assert counts.examples == 12
    assert (spec.batch_size, spec.steps) == (
        8,
        round(2.4 * 12 / 8),
    )  # the table's first row: 30 steps of 8 for 100 rows
    assert (spec.learning_rate, spec.final_learning_rate, spec.dropout, spec.method) == (1e-5, 9e-6, 0.1, "full")
    assert spec.work == tmp_path / "out.work"
    assert spec.metrics == tmp_path / "out.work" / "metrics.jsonl"
    assert spec.base_hash
    assert "### Response:" in spec.chat_template  # the base has no template: the model will have ours
    assert spec.stop_ids == (0,)
    assert "the longest row has" in tell_plan(spec, counts)[0]
    assert "4 steps of 8 rows = 2.67 epochs" in tell_plan(spec, counts)[1]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("preset: lora\n", {"method": "lora", "learning_rate": 1e-3, "dropout": 0.0, "steps": 2}),
        ("preset: lora\nlearning_rate: 2.0e-4\nepochs: 4\n", {"method": "lora", "learning_rate": 2e-4, "steps": 6}),
        ("preset: small\nsteps: 9\nbatch_size: 3\n", {"method": "full", "steps": 9, "batch_size": 3}),
    ],
)
def test_a_preset_gives_way_to_what_is_given(
    tmp_path: Path, base: Path, mix: Path, more: str, expected: dict[str, Any]
) -> None:
    file = write(tmp_path / "spec.yaml", f"base_model: {base}\ndata: {mix}\noutput: out\n{more}")
    spec, _ = load_spec(file)
    assert {key: getattr(spec, key) for key in expected} == expected
    assert load_spec(file, ["seed=5"])[0].seed == 5


def test_a_whole_spec_is_the_same_training(tmp_path: Path, base: Path) -> None:
    """So what a run has written can be trained again, or resumed, alone."""
    spec = make_spec(tmp_path, base, base_hash="abc", chat_template="{{ x }}", stop_ids=(3,))
    file = write(tmp_path / "spec.json", spec.model_dump_json(indent=2))
    assert load_spec(file)[0] == spec


def test_sampling_weights_make_an_epoch_longer_or_shorter(tmp_path: Path, base: Path, mix: Path) -> None:
    weigh(mix / "mix-00000.parquet", sampling=[2.0] * 7)
    weigh(mix / "mix-00001.parquet", sampling=[0.5] * 5)
    file = write(tmp_path / "spec.yaml", f"base_model: {base}\ndata: {mix}\noutput: out\nepochs: 2\nbatch_size: 4\n")
    spec, counts = load_spec(file)
    assert counts.draws == 16.5
    lengths = [[len(ids) for ids, _ in make_rows(n)] for n in (7, 5)]
    assert counts.tokens == 2 * sum(lengths[0]) + 0.5 * sum(lengths[1])
    learnt = [sum(label != -100 for _, labels in make_rows(n) for label in labels) for n in (7, 5)]
    assert counts.label_tokens == 2 * learnt[0] + 0.5 * learnt[1]
    assert spec.steps == 8
    assert "12 rows, 16 drawn per epoch" in tell_plan(spec, counts)[0]


def test_epochs_are_of_the_rows_that_are_not_held_out(tmp_path: Path, base: Path, mix: Path) -> None:
    """As in a run: twelve rows, a quarter held out, are nine to train on."""
    text = f"base_model: {base}\ndata: {mix}\noutput: out\nepochs: 2\nbatch_size: 3\nheld_out_share: 0.25\n"
    spec, counts = load_spec(write(tmp_path / "spec.yaml", text))
    assert spec.steps == 6
    assert counts.examples == 12
    told = tell_plan(spec, counts)
    assert "12 rows, 25% of them held out, " in told[0]
    assert f"{counts.tokens * 0.75:,.0f} tokens per epoch" in told[0]
    assert "6 steps of 3 rows = 2.00 epochs" in told[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model: b\ndata: d\n", "lacks output"),
        ("- a\n", "holds list"),
        ("# later\n", "holds nothing; give keys and values"),
        ("a: [\n", "cannot be read"),
        ("base_model: {base}\ndata: nowhere\noutput: o\n", "data=nowhere is not there"),
        ("base_model: {base}\ndata: {empty}\noutput: o\n", "holds no Parquet file"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nlearning_rat: 1\n", "learning_rat: Extra inputs"),
        ("base_model: {base}\ndata: {mix}\noutput: o\npreset: huge\n", "preset=huge is not one of paper, small, lora"),
        ("base_model: {base}\ndata: {mix}\noutput: o\npreset: [small]\n", "preset=['small'] is not one of paper"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nsteps: 3\nepochs: 1\n", "steps and epochs"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nsteps: many\n", "steps=many is not a whole number"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nsteps: true\n", "steps=True is not a whole number"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nbatch_size: 2.5\n", "batch_size=2.5 is not a whole number"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nepochs: .inf\n", "epochs=inf is not a number"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nepochs: .nan\n", "epochs=nan is not a number"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nepochs: 1e3\n", "epochs=1e3 is not a number (YAML takes"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nheld_out_share: half\n", "held_out_share=half is not a number"),
        ("base_model: {base}\ndata: {mix}\noutput: o\nheld_out: gone\n", "held_out=gone is not there"),
        ("base_model: nowhere\nbase_hash: abc\ndata: {mix}\noutput: o\n", "base_model=nowhere holds no config.json"),
        ("base_model: nowhere\ndata: {mix}\noutput: o\n", "model='nowhere' does not exist"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_is_wrong(
    tmp_path: Path, base: Path, mix: Path, text: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name, value in (("base", base), ("mix", mix), ("empty", tmp_path / "empty")):
        text = text.replace(f"{{{name}}}", str(value))
    with pytest.raises(InputError) as caught:
        load_spec(write(tmp_path / "spec.yaml", text))
    assert message in str(caught.value)


def test_a_rows_first_token_is_not_learnt_and_is_not_counted(tmp_path: Path) -> None:
    """A causal model predicts from the second token on; the trainer counts the same."""
    path = write_rows(tmp_path / "rows.parquet", [([5, 6, 7], [5, 6, 7]), ([8, 9], [-100, 9])])
    assert count_data([path]).label_tokens == count_rows(read_rows([path]))["label_tokens"] == 3


def test_places_below_home_are_found(tmp_path: Path, base: Path, mix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    spec, _ = load_spec(write(tmp_path / "spec.yaml", f"base_model: {base}\ndata: ~/mix\noutput: ~/out\n"))
    assert (spec.output, spec.work) == (tmp_path / "out", tmp_path / "out.work")


def test_rows_that_cannot_be_read_are_refused_with_their_file(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet", "no rows")
    with pytest.raises(InputError, match=r"rows\.parquet cannot be read as rows"):
        count_data([file])


def test_the_command_trains_and_tells_what_came_of_it(
    tmp_path: Path, base: Path, mix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[TrainSpec] = []

    def train(spec: TrainSpec, *, on_step: Any, tell: Any) -> TrainResult:
        asked.append(spec)
        tell("warning: what a user should know")
        on_step(TrainStep(step=1, steps=spec.steps, loss=2.0, tokens=50, seconds=0.1))
        numbers = {"first_loss": 2.0, "last_loss": 1.0, "first_tenth_loss": 2.0, "last_tenth_loss": 1.0}
        return TrainResult(steps=4, examples=12, tokens=900, label_tokens=300, seconds=65.0, **numbers)

    monkeypatch.setattr(launch, "train", train)
    file = write(tmp_path / "spec.yaml", f"base_model: {base}\ndata: {mix}\noutput: {tmp_path / 'out'}\n")
    monkeypatch.setattr(sys, "argv", ["humpback", "train", str(file), "--set", "seed=3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out'}: 4 steps; 900 tokens in 1:05; loss 2.000 -> 1.000 (first and last tenth)\n"
    assert "4 steps of 8 rows" in err
    assert "warning: what a user should know" in err
    assert asked[0].seed == 3
    monkeypatch.setattr(sys, "argv", ["humpback", "train", str(file), "--json"])
    with pytest.raises(SystemExit):
        main()
    out, err = capsys.readouterr()
    assert json.loads(out)["tokens"] == 900
    assert err == ""


@pytest.mark.parametrize(
    ("trained", "words"), [(1.5, "(step 3 is kept)"), (2.5, "(step 3 is kept, worse than the base model)")]
)
def test_a_training_that_ended_early_and_one_that_made_the_model_worse_are_told(
    tmp_path: Path, base: Path, trained: float, words: str
) -> None:
    losses = [
        HeldOutLoss.of(step, sums={"all": nll}, tokens={"all": 1}) for step, nll in ((0, 2.0), (3, trained), (4, 2.6))
    ]
    lines = [{"step": step, "loss": 1.0, "tokens": 9} for step in range(1, 5)]
    spec = make_spec(tmp_path, base, steps=20)
    told = _summary(spec, sum_steps(lines, steps=20, examples=3, held_out=losses, kept_step=3, seconds=1.0))
    assert told.startswith("4 steps of 20, ended early; 36 tokens")
    assert f"held-out loss 2.000 -> {trained:.3f} {words}" in told


def test_a_plan_is_told_with_the_time_of_a_trial_and_nothing_is_trained(
    tmp_path: Path, base: Path, mix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from humpback import finetuning
    from humpback.training import probe

    expected = probe.Expectation(tokens=1000, seconds=125.0, tokens_per_s=8.0)
    monkeypatch.setattr(finetuning, "probe", lambda spec: expected)
    file = write(tmp_path / "spec.yaml", f"base_model: {base}\ndata: {mix}\noutput: {tmp_path / 'out'}\n")
    monkeypatch.setattr(sys, "argv", ["humpback", "train", str(file), "--plan"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    told = capsys.readouterr().out.splitlines()
    assert "4 steps of 8 rows = 2.67 epochs" in told[1]
    assert told[2] == "about 2:05 (8 tokens/s in 4 steps on trial)"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_is_trained_from_three_lines(tmp_path: Path, base: Path, mix: Path) -> None:
    """With the real trainer: what is left is a model that transformers loads, with our template beside it."""
    import subprocess

    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    file = write(tmp_path / "spec.yaml", f"base_model: {base}\ndata: {mix}\noutput: {out}\npreset: lora\nthreads: 1\n")
    command = [sys.executable, "-m", "humpback", "train", str(file), "--json", "--set", "device=cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == 400
    assert "### Response:" in AutoTokenizer.from_pretrained(out).chat_template
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((out / "training.json").read_text())["data"]["examples"] == 12
