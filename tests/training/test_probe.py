"""A probe trains some steps for nothing and tells from them how long all take."""

from __future__ import annotations

from pathlib import Path

import pytest
from shares import weigh
from tiny import make_rows, make_spec

from humpback.training import probe as probing
from humpback.training.probe import expect_seconds, probe
from humpback.training.spec import TrainSpec, TrainStep


def steps(*taken: tuple[int, float]) -> list[TrainStep]:
    return [
        TrainStep(step=i, steps=9, loss=1.0, tokens=tokens, seconds=seconds)
        for i, (tokens, seconds) in enumerate(taken, 1)
    ]


def test_time_goes_with_tokens_and_neither_the_first_step_nor_a_slow_one_decides() -> None:
    assert expect_seconds(steps((10, 9.0), (10, 1.0), (20, 2.0), (10, 30.0), (40, 4.0)), 1_000) == pytest.approx(100.0)
    assert expect_seconds(steps((10, 2.0)), 50) == pytest.approx(10.0)


def test_a_probe_trains_few_steps_without_held_out_rows_and_leaves_nothing(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(10)
    spec = make_spec(tmp_path, base, rows=rows, steps=50, save_every=3, warmup_steps=20)
    spec = spec.model_copy(update={"held_out": spec.data, "patience": 1, "keep": "best"})
    tried: list[TrainSpec] = []

    def train(given: TrainSpec, *, on_step: object) -> None:
        assert callable(on_step)
        given.work.mkdir()
        tried.append(given)
        for step in steps(*[(50, 0.5)] * given.steps):
            on_step(step)

    monkeypatch.setattr(probing, "train", train)
    before = sorted(tmp_path.iterdir())
    found = probe(spec, steps=4)
    assert sorted(tmp_path.iterdir()) == before
    (given,) = tried
    assert (given.steps, given.held_out, given.patience, given.keep) == (4, (), None, "last")
    assert given.save_every > 50
    assert given.output != spec.output
    assert found.tokens == 50 * 4 * sum(len(ids) for ids, _ in rows) / 10
    assert found.tokens_per_s == pytest.approx(100.0)
    assert found.seconds == pytest.approx(found.tokens / 100)


def test_a_row_counts_as_often_as_it_is_drawn(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(2)
    spec = make_spec(tmp_path, base, rows=rows, steps=30)
    weigh(spec.data[0], sampling=[2.0, 0.5])
    monkeypatch.setattr(probing, "train", lambda given, *, on_step: on_step(*steps((50, 0.5))))
    short, long = (len(ids) for ids, _ in rows)
    assert probe(spec).tokens == 30 * 4 * (2 * short + 0.5 * long) / 2.5
