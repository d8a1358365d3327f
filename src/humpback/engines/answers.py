"""The answer cache's file. In: keys and packed answers. Out: what was kept, what the file holds, and less of it when asked.

SQLite in WAL mode: several processes may use it at once, and a kill loses the batch in flight, no more. The file names its
kind and its schema, so that another program's database is never written to. Whoever has it open holds a shared lock on
`FILE.lock` beside it; pruning needs that lock alone. (A lock on the file itself would be lost with SQLite's own.)
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from humpback.errors import LockedError, StorageError

__all__ = ["AnswerCache", "Group", "Removed", "Source", "locate_cache"]

APPLICATION = 0x68756D70
"""`hump`, where SQLite keeps the kind of a file."""
SCHEMA = 3
"""Raised when tables, keys or packed answers change; 1 had text values and no number."""
READABLE = 2
"""An older schema whose answers are still read: it kept hidden states as float32. Its file becomes one of ours."""
DAY_S = 86_400
LOOKUP = 500
"""Keys of one SELECT; SQLite's own limit was 999 for long."""
TABLES = (
    "CREATE TABLE sources (id INTEGER PRIMARY KEY, model TEXT NOT NULL, call TEXT NOT NULL, UNIQUE (model, call))",
    # days since 1970, not seconds: a date of use that changes at every question would be a write at every question
    "CREATE TABLE answers (key BLOB NOT NULL UNIQUE, source INTEGER NOT NULL, created INTEGER NOT NULL, "
    "used INTEGER NOT NULL, value BLOB NOT NULL)",
)
SIZE = "length(key) + length(value)"


class Source(NamedTuple):
    """Whose answers, to what."""

    model: str
    """Content hash."""
    call: str
    """The capability that was asked."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The answers of one source."""

    source: Source
    entries: int
    bytes: int
    """Keys and values; the file is larger by its index and its free pages."""
    oldest: int
    newest: int
    """Days since 1970 on which the first and the last of them came."""
    last_used: int


class Removed(NamedTuple):
    """What pruning took away, or would."""

    entries: int
    bytes: int


def locate_cache(named: str | None, run: Path) -> Path:
    """Return the cache's file: the run's own, the one named, or `answers.sqlite` in the folder named."""
    if not named:
        return run / "answers.sqlite"
    path = Path(named).expanduser()
    return path / "answers.sqlite" if named.endswith("/") or path.is_dir() else path


class AnswerCache:
    """A key-value file that several processes may use at once. It opens again by itself after `close`."""

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """`alone`: refuse to open what another process has open, and keep others waiting."""
        self.path = path
        self._alone = alone
        self._connection: sqlite3.Connection | None = None
        self._lock = -1
        self._sources: dict[Source, int] = {}
        self._open()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the stored values of those keys that are there."""
        found: dict[bytes, bytes] = {}
        stale: list[tuple[int, bytes]] = []
        today = _today()
        with self._clear_errors():
            for start in range(0, len(keys), LOOKUP):
                part = keys[start : start + LOOKUP]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(f"SELECT key, value, used FROM answers WHERE key IN ({marks})", part)
                for key, value, used in rows:
                    found[key] = value
                    if used != today:
                        stale.append((today, key))
            if stale:  # once a day per answer
                with self._transaction():
                    self._db.executemany("UPDATE answers SET used = ? WHERE key = ?", stale)
        return found

    def put(self, source: Source, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Store answers in one transaction; they are there when this returns. A key's first answer stays."""
        today = _today()
        with self._clear_errors(), self._transaction():
            number = self._sources.get(source) or self._number(source)
            self._db.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)",
                [(key, number, today, today, value) for key, value in items],
            )
        self._sources[source] = number

    def keys(self) -> set[bytes]:
        with self._clear_errors():
            return {key for (key,) in self._db.execute("SELECT key FROM answers")}

    def groups(self) -> list[Group]:
        """Return what the file holds, by model and call, the largest first."""
        query = (
            f"SELECT model, call, count(*), sum({SIZE}), min(created), max(created), max(used) "
            "FROM answers JOIN sources ON source = id GROUP BY source ORDER BY 4 DESC, model, call"
        )
        with self._clear_errors():
            return [
                Group(
                    source=Source(model, call),
                    entries=entries,
                    bytes=size,
                    oldest=oldest,
                    newest=newest,
                    last_used=used,
                )
                for model, call, entries, size, oldest, newest, used in self._db.execute(query)
            ]

    def file_bytes(self) -> int:
        """Return what the file and its log take on the disk."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(path.stat().st_size for path in files if path.exists())

    # -- removing --------------------------------------------------------------------------------------------------

    def remove_models(self, models: Sequence[str], *, dry_run: bool) -> Removed:
        """Remove all answers of the models whose content hashes are given."""
        marks = ",".join("?" * len(models))
        return self._remove(f"source IN (SELECT id FROM sources WHERE model IN ({marks}))", tuple(models), dry_run)

    def remove_unused_since(self, days: int, *, dry_run: bool) -> Removed:
        """Remove answers that nobody has asked for in the last `days` days."""
        return self._remove("used < ?", (_today() - days,), dry_run)

    def remove_down_to(self, limit_bytes: int, *, dry_run: bool) -> Removed:
        """Remove the answers that were not used for longest until the file takes no more than `limit_bytes`."""
        with self._clear_errors():
            (held,) = self._db.execute(f"SELECT coalesce(sum({SIZE}), 0) FROM answers").fetchone()
            pages, free, page = (
                self._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        taken = (pages - free) * page
        if taken <= limit_bytes:
            return Removed(0, 0)
        budget = held * max(limit_bytes - 8 * page, 0) // taken  # the rest is the index, and the pages of empty tables
        return self._remove(
            f"rowid IN (SELECT rowid FROM (SELECT rowid, sum({SIZE}) OVER (ORDER BY used DESC, rowid DESC) AS kept "
            "FROM answers) WHERE kept > ?)",
            (budget,),
            dry_run,
        )

    def remove_all(self, *, dry_run: bool) -> Removed:
        return self._remove("true", (), dry_run)

    def _remove(self, where: str, values: tuple[str | int, ...], dry_run: bool) -> Removed:
        with self._clear_errors():
            chosen = self._db.execute(
                f"SELECT count(*), coalesce(sum({SIZE}), 0) FROM answers WHERE {where}", values
            ).fetchone()
            if not dry_run and chosen[0]:
                with self._transaction():
                    self._db.execute(f"DELETE FROM answers WHERE {where}", values)
                    self._db.execute("DELETE FROM sources WHERE id NOT IN (SELECT source FROM answers)")
                self._sources.clear()
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Removed(*chosen)

    # -- the file --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            os.close(self._lock)
            self._sources.clear()  # a pruned file may number its sources anew

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        with self._clear_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take_lock()
                self._connection = sqlite3.connect(self.path, timeout=120, isolation_level=None)
                self._check_kind()
                self._connection.execute("PRAGMA synchronous=NORMAL")
            except BaseException:  # an interrupt too: half open, the lock would keep others waiting; it is raised again
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                os.close(self._lock)
                raise

    def _take_lock(self) -> None:
        if not self._alone:
            fcntl.flock(self._lock, fcntl.LOCK_SH)  # waits for a pruning to end
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"answer cache {self.path} is in use by a run; wait for it, or stop it, and give the command again"
            ) from None

    def _check_kind(self) -> None:
        """Make an empty file a cache; refuse, untouched, what is none or another version's."""
        if self._is_new():
            _switch_to_wal(self._db)
            with self._transaction():
                if self._is_new():  # else another process has just made it
                    for statement in TABLES:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA application_id={APPLICATION}")
                    self._db.execute(f"PRAGMA user_version={SCHEMA}")
        kind, schema = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if kind == APPLICATION and schema == READABLE:
            # what is written from here on the older version could not read: it has to refuse the file
            self._db.execute(f"PRAGMA user_version={SCHEMA}")
            return
        if kind == APPLICATION and schema == SCHEMA:
            return
        tables = [name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if kind == 0 and tables == ["answers"]:
            kind, schema = APPLICATION, 1
        if kind != APPLICATION:
            raise StorageError(
                f"answer cache {self.path} is a database of another program (tables: {', '.join(tables[:5]) or 'none'}); "
                "set runtime.cache to another file"
            )
        written = "a newer" if schema > SCHEMA else "an older"
        raise StorageError(
            f"answer cache {self.path} was written by {written} version of humpback (schema {schema}, this one has {SCHEMA}); "
            "set runtime.cache to another file, or move this one away: answers of unfinished stages are asked again"
        )

    def _is_new(self) -> bool:
        kind, tables = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "schema_version")
        )
        return bool(kind == 0 and tables == 0)  # `schema_version` is 0 before the first table of whatever kind

    def _number(self, source: Source) -> int:
        self._db.execute("INSERT OR IGNORE INTO sources (model, call) VALUES (?, ?)", source)
        (number,) = self._db.execute("SELECT id FROM sources WHERE model = ? AND call = ?", source).fetchone()
        return int(number)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:  # an interrupt too: an open transaction would lock the file; it is raised again
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"answer cache {self.path}: {error}; free space or fix permissions and run the same command again. "
                "If that is no answer cache, set runtime.cache to another file; if it is one and damaged, move it away: "
                "answers of unfinished stages are asked again."
            ) from error
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"answer cache {self.path} cannot be made: {error.strerror}; choose another place"
            ) from error


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Switch the file to a write-ahead log. SQLite does not wait here for a process that is doing the same, so we do."""
    deadline = time.monotonic() + 30
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _today() -> int:
    return int(time.time() // DAY_S)
