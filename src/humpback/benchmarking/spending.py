"""What a comparison has cost over all its sittings. In: what an engine tells as it answers. Out: `spent.json` beside the answers.

Answers out of the cache cost nothing again, so the totals of a resumed sitting alone would say that a comparison was free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from humpback.engines.base import EngineTotals, Heard
from humpback.errors import StorageError
from humpback.store.shards import atomic_write, storage_errors

__all__ = ["Ledger"]


class Ledger:
    """The account of one comparison; written with every batch, so that a killed sitting has lost the one in flight at most.

    Several commands may write to one folder at once: each batch is added, under a lock, to what the file then holds.
    """

    def __init__(self, path: Path, comparison: Mapping[str, str]) -> None:
        """`comparison` names whose account it is: a folder may hold several."""
        self._path, self._comparison = path, dict(comparison)
        self.totals = EngineTotals()
        """What was computed for it, answers from the cache left out."""
        self.sittings = 0
        """How often something was computed."""
        self._begun = False
        self._load()

    def hear(self, heard: Heard) -> None:
        """Add what an engine has computed, and keep it."""
        computed = heard.totals.requests - heard.totals.cache_hits
        if not computed:
            return
        with self._alone():
            others = self._load()
            self.totals.add(replace(heard.totals, requests=computed, cache_hits=0))
            self.sittings += not self._begun
            own = {"comparison": self._comparison, "sittings": self.sittings, "totals": asdict(self.totals)}
            atomic_write(self._path, (json.dumps([*others, own], indent=2) + "\n").encode())
        self._begun = True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the account's lock, which a crash releases; the account itself is renamed into place, so it can be no lock."""
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with storage_errors(self._path):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _load(self) -> list[dict[str, Any]]:
        """Take this comparison's account from the file; return those of others."""
        others = []
        for entry in self._read():
            if entry["comparison"] == self._comparison:
                self.totals, self.sittings = EngineTotals(**entry["totals"]), int(entry["sittings"])
            else:
                others.append(entry)
        return others

    def _read(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = json.loads(self._path.read_bytes())
            [(dict(entry["comparison"]), EngineTotals(**entry["totals"]), int(entry["sittings"])) for entry in found]
            return found
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(
                f"{self._path} is damaged ({error}); delete it, and what the comparison has cost so far is not told"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be read: {error.strerror or error}; check its permissions"
            ) from error
