from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from humpback.engines.packs import BLOCK, MIN_SHARED, Row, build_pack, count_common, plan_packs

PARTS = [tuple(range(10 * n, 10 * n + size)) for n, size in enumerate((3, 20, 40, 17, 5))]
ROWS = st.lists(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(
        lambda parts: tuple(t for part in parts for t in part)
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS)
def test_every_row_is_read_back_from_its_places(rows: list[Row]) -> None:
    pack = build_pack(rows)
    for number, row in enumerate(rows):
        places = pack.places(number, 0, len(row))
        assert tuple(pack.token_ids[place] for place in places) == row
        assert [pack.positions[place] for place in places] == list(range(len(row)))


@given(ROWS)
def test_every_token_is_in_one_block_that_sees_its_row_so_far(rows: list[Row]) -> None:
    pack = build_pack(rows)
    blocks = pack.blocks()
    assert [place for block in blocks for place in range(block.start, block.end)] == list(range(len(pack.token_ids)))
    for number, row in enumerate(rows):
        last = pack.segments[pack.ways[number][-1]]
        (block,) = [block for block in blocks if block.start <= last.start < block.end]
        seen = [place for start, end in block.way for place in range(start, end)]
        assert seen + list(range(last.start, last.end)) == pack.places(number, 0, len(row))
        assert len(block.lengths) == 1 or sum(block.lengths) <= BLOCK


@given(ROWS)
def test_no_more_is_computed_than_the_rows_and_long_beginnings_only_once(rows: list[Row]) -> None:
    ordered = sorted(rows)
    new = [len(row) - count_common(before, row) for before, row in zip([(), *ordered], ordered, strict=False)]
    computed = len(build_pack(rows).token_ids)
    assert sum(new) <= computed <= min(sum(new) + MIN_SHARED * len(rows), sum(map(len, rows)))


def test_equal_rows_stand_once_and_a_short_beginning_is_not_shared() -> None:
    assert build_pack([(1, 2, 3)] * 4).token_ids == [1, 2, 3]
    assert len(build_pack([(1, 2, 3), (1, 2, 4)]).segments) == 2


def test_skipped_tokens_are_not_in_the_pack() -> None:
    head = tuple(range(30))
    pack = build_pack([(*head, 70, 71), (*head, 80)], skipped=30)
    assert sorted(pack.token_ids) == [70, 71, 80]
    assert pack.places(1, 30, 31) == [pack.token_ids.index(80)]


@given(ROWS, st.integers(1, 120), st.integers(1, 20))
def test_packs_keep_to_their_budgets_and_hold_every_row_once(rows: list[Row], budget: int, head_budget: int) -> None:
    heads = [1 + len(row) % 5 for row in rows]
    packs = plan_packs(rows, token_budget=budget, heads=heads, head_budget=head_budget)
    assert sorted(row for pack in packs for row in pack) == list(range(len(rows)))
    for pack in packs:
        assert len(pack) == 1 or sum(heads[row] for row in pack) <= head_budget
        alike = MIN_SHARED * len(pack)  # shorter beginnings are counted as shared, and are not
        assert len(pack) == 1 or len(build_pack([rows[row] for row in pack]).token_ids) <= budget + alike


def test_rows_that_begin_alike_go_together() -> None:
    one, other = tuple(range(100)), tuple(range(200, 300))
    rows = [(*one, 1), (*other, 2), (*one, 3), (*other, 4)]
    assert plan_packs(rows, token_budget=110) == [[0, 2], [1, 3]]
