"""The account of a comparison: nothing lost and nothing counted twice, whoever else writes to the folder."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from humpback.benchmarking.spending import Ledger
from humpback.engines.base import EngineTotals, Heard

ONE, OTHER = {"model": "one", "judge": "x"}, {"model": "other", "judge": "x"}


def _heard(requests: int, *, cache_hits: int = 0) -> Heard:
    totals = EngineTotals(requests=requests, cache_hits=cache_hits, tokens_in=10 * (requests - cache_hits))
    return Heard(totals=totals, work=float(requests))


def _told(path: Path) -> dict[str, tuple[int, int]]:
    entries = json.loads(path.read_bytes())
    return {entry["comparison"]["model"]: (entry["sittings"], entry["totals"]["tokens_in"]) for entry in entries}


def test_comparisons_that_are_open_at_once_keep_each_others_accounts(tmp_path: Path) -> None:
    path = tmp_path / "out" / "spent.json"
    one, other = Ledger(path, ONE), Ledger(path, OTHER)
    for ledger in (one, other, one, other):
        ledger.hear(_heard(3))
    assert _told(path) == {"one": (1, 60), "other": (1, 60)}


def test_two_sittings_of_one_comparison_at_once_are_added_up(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    first, second = Ledger(path, ONE), Ledger(path, ONE)
    for ledger in (first, second, first):
        ledger.hear(_heard(1))
    assert _told(path) == {"one": (2, 30)}
    assert (first.sittings, first.totals.tokens_in) == (2, 30)


def test_nothing_is_lost_where_many_write_at_the_same_moment(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"

    def sit(number: int) -> None:
        ledger = Ledger(path, ONE if number % 2 else OTHER)
        for _ in range(20):
            ledger.hear(_heard(1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sit, range(8)))
    assert _told(path) == {"one": (4, 800), "other": (4, 800)}


def test_answers_from_the_cache_open_no_account(tmp_path: Path) -> None:
    Ledger(tmp_path / "spent.json", ONE).hear(_heard(4, cache_hits=4))
    assert list(tmp_path.iterdir()) == []
