"""Held-out losses: which step is best, when to stop; and a training that measures, stops and keeps by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import make_rows, make_spec, metrics_of, same_weights, write_rows

from humpback.errors import InputError
from humpback.training.held_out import HeldOutLoss, add_loss, best_loss, read_losses, should_stop
from humpback.training.launch import train
from humpback.training.rows import read_rows, split_rows

pytest.importorskip("trl")


def loss(step: int, nll: float) -> HeldOutLoss:
    return HeldOutLoss.of(step, sums={"seed": nll * 4, "web": nll * 8}, tokens={"seed": 4, "web": 8})


def test_the_loss_is_per_label_token_whatever_the_origins_sizes() -> None:
    found = HeldOutLoss.of(3, sums={"seed": 8.0, "web": 2.0}, tokens={"seed": 4, "web": 1})
    assert (found.nll, found.tokens) == (2.0, 5)
    assert found.by_origin == {"seed": 2.0, "web": 2.0}


def test_the_best_is_the_lowest_the_earliest_of_equals_and_never_the_base_model() -> None:
    losses = [loss(0, 1.0), loss(5, 3.0), loss(10, 2.0), loss(15, 2.0), loss(20, 2.5)]
    best = best_loss(losses)
    assert best is not None
    assert best.step == 10
    early = best_loss(losses, until=9)
    assert early is not None
    assert early.step == 5
    assert best_loss(losses[:1]) is None


def test_patience_counts_losses_in_a_row_that_are_no_better() -> None:
    losses = [loss(0, 1.0), loss(5, 3.0), loss(10, 2.0), loss(15, 2.0)]
    assert not should_stop(losses, 2)
    assert should_stop([*losses, loss(20, 2.5)], 2)
    assert not should_stop([*losses, loss(20, 1.5)], 2)
    assert not should_stop([*losses, loss(20, 2.5)], None)
    assert not should_stop([loss(0, 1.0)], 1)


def test_losses_come_back_from_their_file_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "held-out.jsonl"
    assert read_losses(path) == []
    losses = [loss(0, 1.5), loss(5, 1.25)]
    for each in losses:
        add_loss(path, each)
    assert read_losses(path) == losses


def test_a_share_of_each_origin_is_held_out_the_same_each_time_and_never_all(tmp_path: Path) -> None:
    rows = pq.read_table(write_rows(tmp_path / "rows.parquet", make_rows(13)))
    origins = ["seed"] * 8 + ["web"] * 4 + ["other"]
    pq.write_table(rows.append_column("origin", pa.array(origins)), tmp_path / "rows.parquet")
    table = read_rows([tmp_path / "rows.parquet"])
    trained, held = split_rows(table, 0.25, seed=3)
    assert sorted(held["origin"].to_pylist()) == ["seed", "seed", "web"]
    assert sorted(trained["id"].to_pylist() + held["id"].to_pylist()) == sorted(table["id"].to_pylist())
    assert split_rows(table, 0.25, seed=3)[1].equals(held)
    assert not split_rows(table, 0.25, seed=4)[1].equals(held)
    assert len(split_rows(table.slice(0, 1), 0.5, seed=3)[1]) == 0


# -- in a training -----------------------------------------------------------------------------------------------------


def write_held_out(path: Path) -> Path:
    rows = pq.read_table(write_rows(path, make_rows(14)[10:]))
    pq.write_table(rows.append_column("origin", pa.array(["seed", "web", "seed", "web"])), path)
    return path


def held_out_spec(folder: Path, base: Path, **changes: Any) -> Any:
    folder.mkdir()
    values = {"steps": 12, "evaluate_every": 2, "held_out": [write_held_out(folder / "held.parquet")], **changes}
    return make_spec(folder, base, **values)


def expected(model_folder: Path, rows: list[tuple[list[int], list[int]]]) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    nats = count = 0.0
    for ids, labels in rows:
        kept = sum(label != -100 for label in labels[1:])
        with torch.no_grad():
            nats += kept * model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
        count += kept
    return nats / count


@pytest.mark.slow
def test_held_out_losses_are_those_of_the_model_and_change_nothing_of_it(tmp_path: Path, base: Path) -> None:
    plain = make_spec(tmp_path / "plain", base, steps=12, dropout=0.1)
    train(plain)
    spec = held_out_spec(tmp_path / "held", base, dropout=0.1)
    result = train(spec)
    assert [each.step for each in result.held_out] == [0, 2, 4, 6, 8, 10, 12]
    first, last = result.held_out[0], result.held_out[-1]
    rows = make_rows(14)[10:]
    assert first.nll == pytest.approx(expected(base, rows), rel=1e-5)
    assert last.nll == pytest.approx(expected(spec.output, rows), rel=1e-5)
    assert last.by_origin["web"] == pytest.approx(expected(spec.output, rows[1::2]), rel=1e-5)
    assert result.kept_step == 12
    assert same_weights(plain.output, spec.output)


@pytest.mark.slow
def test_patience_ends_a_training_that_gets_worse_and_the_best_step_is_kept(tmp_path: Path, base: Path) -> None:
    # so high a rate makes held-out rows worse soon
    options: dict[str, Any] = {"steps": 60, "learning_rate": 0.03, "final_learning_rate": 0.03, "patience": 3}
    spec = held_out_spec(tmp_path / "best", base, keep="best", save_every=7, **options)
    result = train(spec)
    best = best_loss(result.held_out)
    assert best is not None
    assert result.kept_step == best.step < result.steps < 60
    assert sum(each.step > best.step for each in result.held_out) == 3
    record = json.loads((spec.output / "training.json").read_text())
    assert record["trained"]["kept_step"] == best.step
    assert [file["name"] for file in record["data"]["held_out"]] == ["held.parquet"]
    assert expected(spec.output, make_rows(14)[10:]) == pytest.approx(best.nll, rel=1e-5)
    assert not list(spec.work.glob("checkpoint*"))
    assert "stopping" in (spec.work / "train.log").read_text()
    # the same rows and rate to that step give the same model; only the line of the rate depends on the steps, and is flat here
    short = make_spec(tmp_path / "short", base, steps=best.step, learning_rate=0.03, final_learning_rate=0.03)
    train(short)
    assert same_weights(short.output, spec.output)


def test_killed_after_patience_ended_it_a_training_ends_at_the_same_step(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    options: dict[str, Any] = {"steps": 60, "learning_rate": 0.03, "final_learning_rate": 0.03, "patience": 3}
    specs = [held_out_spec(tmp_path / name, base, save_every=2, **options) for name in ("whole", "killed")]
    sft.run(specs[0])

    def kill(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sft, "save_model", kill)
    with pytest.raises(KeyboardInterrupt):
        sft.run(specs[1])
    monkeypatch.undo()
    sft.run(specs[1])
    whole, killed = map(metrics_of, specs)
    assert len(killed) == len(whole) < 60
    assert same_weights(specs[0].output, specs[1].output)


def test_a_best_step_needs_a_row_that_can_be_held_out(tmp_path: Path, base: Path) -> None:
    from humpback.training import sft

    for wrong in ({"patience": 2}, {"keep": "best"}):
        spec = make_spec(tmp_path / next(iter(wrong)), base, rows=make_rows(1), held_out_share=0.5, **wrong)
        with pytest.raises(InputError, match=r"held_out_share=0\.5 of 1 rows is none"):
            sft.run(spec)


def test_rows_of_the_held_out_share_are_measured_and_not_trained_on(tmp_path: Path, base: Path) -> None:
    from humpback.training import sft

    rows = make_rows(10)
    spec = make_spec(tmp_path, base, rows=rows, steps=4, batch_size=3, held_out_share=0.3, evaluate_every=2)
    sft.run(spec)
    trained, held = split_rows(read_rows(spec.data), 0.3, spec.seed)
    losses = read_losses(spec.metrics.with_name("held-out.jsonl"))
    assert [each.step for each in losses] == [0, 2, 4]
    assert {each.tokens for each in losses} == {
        sum(label != -100 for labels in held["labels"].to_pylist() for label in labels[1:])
    }
    lengths = [len(ids) for ids in trained["input_ids"].to_pylist()]
    # 12 places: all seven rows once, five of them again
    assert sum(lengths) < sum(line["tokens"] for line in metrics_of(spec)) < 2 * sum(lengths)
    with pytest.raises(ValueError, match=r"held_out and held_out_share=0\.3 are both given"):
        make_spec(tmp_path, base, held_out_share=0.3, held_out=spec.data)
