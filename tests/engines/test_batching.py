from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from humpback.engines.batching import plan_batches

LENGTHS = st.lists(st.integers(0, 300), max_size=200)


@given(LENGTHS, st.integers(1, 2000), st.integers(1, 70))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int, max_rows: int) -> None:
    batches = plan_batches(lengths, budget, max_rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 2000), st.integers(1, 70))
def test_only_a_single_row_may_exceed_the_budget(lengths: list[int], budget: int, max_rows: int) -> None:
    for batch in plan_batches(lengths, budget, max_rows):
        assert 1 <= len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(LENGTHS)
def test_longest_rows_come_first(lengths: list[int]) -> None:
    order = [lengths[i] for batch in plan_batches(lengths, 500) for i in batch]
    assert order == sorted(lengths, reverse=True)


def test_rows_fill_the_budget_and_an_over_long_row_stands_alone() -> None:
    assert plan_batches([10, 50, 5, 10, 10], token_budget=30) == [[1], [0, 3, 4], [2]]


def test_no_rows_give_no_batches() -> None:
    assert plan_batches([], token_budget=30) == []
