"""The step table, the learning rate line, and the order of the rows."""

from __future__ import annotations

import pytest

from humpback.training.schedule import (
    PAPER_STEPS,
    Schedule,
    learning_rate_at,
    paper_schedule,
    row_order,
    schedule_for,
    token_batches,
)


@pytest.mark.parametrize(("examples", "batch_size", "steps"), PAPER_STEPS)
def test_the_papers_rows_are_exact(examples: int, batch_size: int, steps: int) -> None:
    assert paper_schedule(examples) == Schedule(batch_size, steps)


def test_between_rows_epochs_are_interpolated() -> None:
    assert paper_schedule(1_131) == Schedule(8, round(3.0 * 1_131 / 8))
    schedule = paper_schedule(9_051)  # half way between 6,400 and 12,800 in log
    assert schedule.batch_size * schedule.steps / 9_051 == pytest.approx(2.25, rel=0.01)


def test_outside_the_table_the_nearest_epochs_are_kept() -> None:
    assert paper_schedule(20) == Schedule(8, 6)
    assert paper_schedule(102_400) == Schedule(32, 3_200)
    assert paper_schedule(1) == Schedule(8, 1)


def test_batch_changes_at_3000_examples() -> None:
    assert paper_schedule(2_999).batch_size == 8
    assert paper_schedule(3_000).batch_size == 32


def test_overrides() -> None:
    assert schedule_for(100) == paper_schedule(100)
    assert schedule_for(100, steps=7) == Schedule(8, 7)
    assert schedule_for(100, epochs=2, batch_size=4) == Schedule(4, 50)
    assert schedule_for(100, batch_size=16) == Schedule(16, 15)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps=1 and epochs=2"):
        schedule_for(10, steps=1, epochs=2)
    with pytest.raises(ValueError, match=r"examples=0"):
        paper_schedule(0)
    with pytest.raises(ValueError, match=r"steps=0"):
        schedule_for(10, steps=0)


def test_learning_rate_is_a_line_that_ends_at_the_last_step() -> None:
    rates = [learning_rate_at(step, steps=5, first=1.0, last=0.0) for step in range(1, 6)]
    assert rates == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert learning_rate_at(1, steps=1, first=1.0, last=0.5) == 1.0
    warm = [learning_rate_at(step, steps=5, first=1.0, last=0.5, warmup_steps=2) for step in range(1, 6)]
    assert warm == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5])


def test_every_epoch_holds_every_row_once_in_another_order() -> None:
    order = row_order(10, Schedule(4, 6), seed=3)
    assert len(order) == 24
    first, second = order[:10], order[10:20]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert order == row_order(10, Schedule(4, 6), seed=3) != row_order(10, Schedule(4, 6), seed=4)
    assert row_order(10, Schedule(4, 3), seed=3) == order[:12]


def test_groups_respect_the_token_budget_and_lose_no_row() -> None:
    lengths = [10, 90, 30, 30, 250, 20]
    groups = token_batches(lengths, 100)
    assert sorted(row for group in groups for row in group) == list(range(6))
    assert [4] in groups  # longer than the budget: alone, never cut
    assert all(len(group) * max(lengths[row] for row in group) <= 100 for group in groups if group != [4])
