"""A training that does not do what it was given to do stops, and says which rows it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, make_spec, write_rows

from humpback.errors import InputError, StageError
from humpback.training.guard import Expected, RowLoss, check_step, expect, refuse_loss
from humpback.training.rows import read_rows
from humpback.training.sampling import draw_order, rounded_rows
from humpback.training.schedule import Schedule, row_order

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves


def test_each_step_is_expected_to_count_its_own_rows(tmp_path: Path) -> None:
    rows = make_rows(6)
    table = read_rows([write_rows(tmp_path / "rows.parquet", rows)])
    expected = expect(table, [5, 0, 1, 1], batch_size=2)
    lengths = [len(ids) for ids, _ in rows]
    learnt = [sum(label != -100 for label in labels[1:]) for _, labels in rows]
    assert expected.tokens == [lengths[5] + lengths[0], 2 * lengths[1]]
    assert expected.label_tokens == [learnt[5] + learnt[0], 2 * learnt[1]]


def test_a_step_that_counted_other_tokens_is_refused() -> None:
    expected = Expected(tokens=[10, 12], label_tokens=[4, 5])
    check_step(expected, 2, tokens=12, label_tokens=5)
    with pytest.raises(StageError, match="step 2 trained on 4 label tokens, and its rows have 5"):
        check_step(expected, 2, tokens=12, label_tokens=4)
    with pytest.raises(StageError, match="step 1 trained on 9 tokens, and its rows have 10"):
        check_step(expected, 1, tokens=9, label_tokens=4)


def test_the_rows_of_a_bad_loss_are_named_the_bad_ones_first(tmp_path: Path) -> None:
    rows = [RowLoss(id=f"r{i}", loss=2.0, tokens=9, label_tokens=3) for i in range(3)]
    rows.append(RowLoss(id="bad", loss=float("nan"), tokens=9, label_tokens=3))
    error = refuse_loss(rows, step=3, steps=5, loss=float("nan"), work=tmp_path)
    assert "step 3 of 5: the loss is nan, from rows bad (nan), all in" in str(error)
    lines = [json.loads(line) for line in (tmp_path / "bad-rows.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["bad", "r0", "r1", "r2"]
    assert lines[0]["loss"] == "nan"


def test_a_trainer_that_drops_a_label_is_found_at_the_step(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    original = sft.Trainer.training_step

    def masking(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        if self.state.global_step == 1:
            inputs["labels"][0] = -100
        return original(self, model, inputs, *rest)

    monkeypatch.setattr(sft.Trainer, "training_step", masking)
    spec = make_spec(tmp_path, base)
    with pytest.raises(StageError, match="step 2 trained on"):
        sft.run(spec)
    assert not spec.output.exists()


def test_a_row_that_no_pass_takes_is_found_at_the_step(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft, trainer

    original = trainer.share_rows
    monkeypatch.setattr(trainer, "share_rows", lambda *args: [rows[:-1] for rows in original(*args)])
    with pytest.raises(StageError, match=r"step 1 trained on \d+ tokens, and its rows have"):
        sft.run(make_spec(tmp_path, base))


def test_a_gradient_that_is_not_a_number_names_the_rows_of_its_step(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    monkeypatch.setattr(sft.Trainer, "_get_grad_norm", lambda *_, **__: float("nan"))
    with pytest.raises(
        StageError, match=r"step 1 of 5: the gradient is nan; .* not known; .* rows are (row\d, ){3}row\d$"
    ):
        sft.run(make_spec(tmp_path, base))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_loss_that_is_not_a_number_names_its_rows_before_the_weights_are_spoilt(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    from humpback.training import sft

    monkeypatch.setattr(sft.Trainer, "sharded", property(lambda _: sharded))
    original = torch.nn.functional.cross_entropy

    def broken(logits: Any, labels: Any, **options: Any) -> Any:
        loss = original(logits, labels, **options)
        return loss * float("nan") if 77 in labels.tolist() else loss

    rows = make_rows(8)
    rows[5] = ([5, 6, 77], [-100, 6, 77])
    for i in {*range(8)} - {5}:
        rows[i] = ([t if t != 77 else 78 for t in rows[i][0]], [t if t != 77 else 78 for t in rows[i][1]])
    spec = make_spec(tmp_path, base, rows=rows, steps=2, batch_size=4)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", broken)
    with pytest.raises(StageError, match=r"the loss is nan, from rows row5 \(nan\), all in .*bad-rows"):
        sft.run(spec)
    assert not spec.output.exists()


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_rows_are_drawn_as_often_as_their_weight_says() -> None:
    sampling = [2.0, 0.5, 1.25, 1.0]
    epochs = 400
    order = draw_order(sampling, Schedule(19, 100), seed=3)  # 4.75 rows an epoch
    assert len(order) == 1900
    for row, draws in enumerate(sampling):
        assert order.count(row) / epochs == pytest.approx(draws, rel=0.12)
    assert draw_order(sampling, Schedule(19, 100), seed=3) == order != draw_order(sampling, Schedule(19, 100), seed=4)


def test_equal_weights_keep_the_order_of_old() -> None:
    assert draw_order([1.0] * 7, Schedule(3, 5), seed=1) == row_order(7, Schedule(3, 5), 1)


def test_weights_that_leave_no_row_in_an_epoch_are_refused() -> None:
    with pytest.raises(InputError, match=r"add up to 0\.3, less than one row"):
        draw_order([0.1] * 3, Schedule(1, 1), seed=0)
    assert rounded_rows(10.4) == 10


def test_a_weight_that_is_no_weight_is_refused_by_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_rows(tmp_path / "rows.parquet", make_rows(3))
    for column in ("sampling", "weight"):
        table = pq.read_table(path)
        pq.write_table(table.append_column(column, pa.array([1.0, 0.0, float("nan")])), tmp_path / "bad.parquet")
        with pytest.raises(
            InputError, match=rf"row1: {column} is not a number above 0; leave such rows out \(2 such rows\)"
        ):
            read_rows([tmp_path / "bad.parquet"])


@pytest.mark.parametrize("column", ["sampling", "weight"])
def test_weights_that_are_words_are_refused_by_file_and_column(tmp_path: Path, column: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from humpback.training.plan import count_data

    path = write_rows(tmp_path / "rows.parquet", make_rows(2))
    pq.write_table(pq.read_table(path).append_column(column, pa.array(["1", "2"])), tmp_path / "bad.parquet")
    for read in (read_rows, count_data):
        with pytest.raises(InputError, match=rf"bad\.parquet: column {column} is of type string; give numbers"):
            read([tmp_path / "bad.parquet"])
