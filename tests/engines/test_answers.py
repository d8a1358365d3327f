"""The answer cache's file: several processes at once, no other program's database touched, nothing lost but what is pruned."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from humpback.engines import answers
from humpback.engines.answers import READABLE, SCHEMA, AnswerCache, Source, locate_cache
from humpback.errors import LockedError, StorageError

ONE, TWO = Source("model-1", "generate"), Source("model-2", "loglikelihood")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


@pytest.fixture
def opening(path: Path) -> Iterator[Callable[..., AnswerCache]]:
    opened: list[AnswerCache] = []

    def open_one(**more: bool) -> AnswerCache:
        opened.append(AnswerCache(path, **more))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()


def _items(*numbers: int, size: int = 8) -> list[tuple[bytes, bytes]]:
    return [(n.to_bytes(32, "big"), bytes(size)) for n in numbers]


def _on_day(monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    monkeypatch.setattr(answers, "_today", lambda: day)


# -- keeping -------------------------------------------------------------------------------------------------------------


def test_two_processes_see_each_others_answers(opening: Callable[..., AnswerCache]) -> None:
    one, other = opening(), opening()
    one.put(ONE, [(b"key", b"1")])
    assert other.get([b"key", b"unknown"]) == {b"key": b"1"}
    other.put(ONE, [(b"key", b"2"), (b"more", b"3")])  # the first answer stays: it may be in a shard already
    assert one.get([b"key", b"more"]) == {b"key": b"1", b"more": b"3"}


def test_thousands_of_keys_are_looked_up_at_once(opening: Callable[..., AnswerCache]) -> None:
    cache, items = opening(), _items(*range(2100))
    cache.put(ONE, items)
    assert cache.get([key for key, _ in items]) == dict(items)
    assert cache.keys() == {key for key, _ in items}


def test_answers_of_one_call_are_stored_together_or_not_at_all(opening: Callable[..., AnswerCache]) -> None:
    cache = opening()
    with pytest.raises((StorageError, sqlite3.Error)):
        cache.put(ONE, [(b"good", b"1"), (b"bad", object())])  # type: ignore[list-item]
    assert cache.keys() == set()
    assert cache.groups() == []
    cache.put(ONE, [(b"good", b"1")])  # and the cache goes on
    assert cache.keys() == {b"good"}


def test_it_opens_again_after_close(opening: Callable[..., AnswerCache]) -> None:
    cache = opening()
    cache.put(ONE, _items(1))
    cache.close()
    cache.close()
    cache.put(TWO, _items(2))
    assert len(cache.keys()) == 2


WRITER = """
import sys
from pathlib import Path
from humpback.engines.answers import AnswerCache, Source
number = int(sys.argv[2])
cache = AnswerCache(Path(sys.argv[1]))
for batch in range(40):
    shared, own = batch.to_bytes(8, "big"), (1000 * (number + 1) + batch).to_bytes(8, "big")
    cache.put(Source("model", "generate" if number % 2 else "loglikelihood"), [(shared, sys.argv[2].encode()), (own, b"own")])
    assert set(cache.get([shared, own])) == {shared, own}
cache.close()
"""


def test_processes_that_make_and_fill_one_file_at_once_lose_nothing(path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    cache = AnswerCache(path)
    assert len(cache.keys()) == 40 + 4 * 40
    assert sum(group.entries for group in cache.groups()) == 200
    cache.close()


# -- the file ------------------------------------------------------------------------------------------------------------


def test_damaged_file_is_named_with_the_fix(path: Path) -> None:
    path.write_bytes(b"this is no database at all, and long enough to be looked at" * 100)
    before = path.read_bytes()
    with pytest.raises(
        StorageError,
        match=r"answer cache .*answers\.sqlite: file is not a database; .*set runtime.cache to another file",
    ):
        AnswerCache(path)
    assert path.read_bytes() == before


def test_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(StorageError, match=r"answer cache .*file/a\.sqlite cannot be made: .*; choose another place"):
        AnswerCache(tmp_path / "file" / "a.sqlite")


@pytest.mark.parametrize("table", ["browser_history", "answers"])
def test_database_of_another_program_is_refused_and_not_touched(path: Path, table: str) -> None:
    db = sqlite3.connect(path)
    db.execute(f"CREATE TABLE {table} (key, value)")
    db.execute("CREATE TABLE second (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"is a database of another program \(tables: .*second.*another file"):
        AnswerCache(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("schema", "age"), [(SCHEMA + 1, "a newer"), (READABLE - 1, "an older")])
def test_cache_of_another_schema_is_refused_and_not_touched(path: Path, schema: int, age: str) -> None:
    cache = AnswerCache(path)
    cache.put(ONE, _items(1))
    cache.close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={schema}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(
        StorageError, match=rf"was written by {age} version of humpback \(schema {schema}, this one has"
    ):
        AnswerCache(path)
    assert path.read_bytes() == before


def test_cache_of_the_schema_before_is_read_and_from_then_on_refused_by_the_version_before(path: Path) -> None:
    cache = AnswerCache(path)
    cache.put(ONE, _items(3))
    cache.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={READABLE}")
    db.close()
    cache = AnswerCache(path)
    assert cache.get([key for key, _ in _items(3)]) == dict(_items(3))
    cache.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    db.close()


def test_cache_of_the_first_version_is_refused_with_what_to_do(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    db.close()
    with pytest.raises(StorageError, match=r"an older version .*\(schema 1.*move this one away"):
        AnswerCache(path)


def test_place_is_the_runs_own_the_file_named_or_in_the_folder_named(tmp_path: Path) -> None:
    assert locate_cache(None, tmp_path) == tmp_path / "answers.sqlite"
    assert locate_cache("shared.db", tmp_path) == Path("shared.db")
    assert locate_cache(str(tmp_path), tmp_path / "run") == tmp_path / "answers.sqlite"
    assert locate_cache("not/there/yet/", tmp_path) == Path("not/there/yet/answers.sqlite")
    assert locate_cache("~/a.sqlite", tmp_path) == Path.home() / "a.sqlite"


# -- what it holds -------------------------------------------------------------------------------------------------------


def test_groups_tell_entries_bytes_and_days_by_model_and_call(
    opening: Callable[..., AnswerCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opening()
    _on_day(monkeypatch, 100)
    cache.put(ONE, _items(1, 2))
    _on_day(monkeypatch, 103)
    cache.put(ONE, _items(3))
    cache.put(TWO, _items(4, size=1000))
    _on_day(monkeypatch, 105)
    cache.get([_items(1)[0][0]])
    large, small = cache.groups()
    assert (large.source, large.entries, large.bytes, large.oldest, large.last_used) == (TWO, 1, 1032, 103, 103)
    assert (small.source, small.entries, small.bytes) == (ONE, 3, 120)
    assert (small.oldest, small.newest, small.last_used) == (100, 103, 105)


def test_an_answer_used_again_on_the_same_day_costs_no_write(opening: Callable[..., AnswerCache]) -> None:
    cache = opening()
    cache.put(ONE, _items(1))
    changes = cache._db.total_changes
    cache.get([_items(1)[0][0]])
    assert cache._db.total_changes == changes


# -- pruning -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(opening: Callable[..., AnswerCache], monkeypatch: pytest.MonkeyPatch) -> AnswerCache:
    """Ten answers of each model: of the first on days 0 to 9, of the second on days 10 to 19, a kilobyte each."""
    cache = opening(alone=True)
    for day in range(20):
        _on_day(monkeypatch, day)
        cache.put(ONE if day < 10 else TWO, _items(day, size=1000))
    return cache


def _left(cache: AnswerCache) -> list[int]:
    return sorted(map(int.from_bytes, cache.keys()))


def test_a_models_answers_are_removed_and_no_others(filled: AnswerCache) -> None:
    assert filled.remove_models(["model-1", "unknown"], dry_run=True) == (10, 10 * 1032)
    assert len(filled.keys()) == 20
    assert filled.remove_models(["model-1", "unknown"], dry_run=False) == (10, 10 * 1032)
    assert _left(filled) == list(range(10, 20))
    assert [group.source for group in filled.groups()] == [TWO]
    filled.put(ONE, _items(0))  # a source that was forgotten is made anew
    assert {group.source for group in filled.groups()} == {ONE, TWO}


def test_answers_not_used_for_days_are_removed(filled: AnswerCache) -> None:
    filled.get([_items(2)[0][0]])  # on day 19
    assert filled.remove_unused_since(5, dry_run=False).entries == 13
    assert _left(filled) == [2, *range(14, 20)]


def test_the_longest_unused_answers_go_until_the_file_is_small_enough(
    filled: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.put(ONE, _items(*range(100, 400), size=2000))  # on day 19
    _on_day(monkeypatch, 20)
    filled.get([_items(2)[0][0]])
    before, limit = filled.file_bytes(), 300_000
    assert before > 600_000
    told = filled.remove_down_to(limit, dry_run=True)
    assert filled.remove_down_to(limit, dry_run=False) == told
    assert 200_000 < filled.file_bytes() <= limit
    left = _left(filled)
    assert 2 in left
    assert 0 not in left
    assert left[-1] == 399
    assert filled.remove_down_to(limit, dry_run=False).entries == 0
    assert filled.remove_down_to(1, dry_run=False).entries == len(left)


def test_all_is_removed_and_the_space_is_given_back(filled: AnswerCache) -> None:
    filled.put(ONE, _items(99, size=1_000_000))
    before = filled.file_bytes()
    assert filled.remove_all(dry_run=False).entries == 21
    assert filled.keys() == set()
    assert before > 1_000_000 > 100_000 > filled.file_bytes()


def test_a_file_in_use_is_not_opened_alone(opening: Callable[..., AnswerCache]) -> None:
    user = opening()
    with pytest.raises(
        LockedError, match=r"answer cache .*answers\.sqlite is in use by a run; wait for it, or stop it"
    ):
        opening(alone=True)
    user.close()
    opening(alone=True).close()


def test_a_copy_of_the_file_is_a_cache(opening: Callable[..., AnswerCache], tmp_path: Path) -> None:
    cache = opening()
    cache.put(ONE, _items(1))
    cache.close()
    copy = AnswerCache(Path(shutil.copy(cache.path, tmp_path / "copy.sqlite")))
    assert len(copy.keys()) == 1
    copy.close()
