"""What a comparison has cost over all its sittings. In: what an engine tells as it answers. Out: `spent.json` beside the answers.

Answers out of the cache cost nothing again, so the totals of a resumed sitting alone would say that a comparison was free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from humpback.engines.base import EngineTotals, Heard
from humpback.errors import StorageError
from humpback.store.shards import atomic_write

__all__ = ["Ledger"]


class Ledger:
    """The account of one comparison; written with every batch, so that a killed sitting has lost the one in flight at most."""

    def __init__(self, path: Path, comparison: Mapping[str, str]) -> None:
        """`comparison` names whose account it is: a folder may hold several."""
        self._path, self._comparison = path, dict(comparison)
        self._others: list[dict[str, Any]] = []
        self.totals = EngineTotals()
        """What was computed for it, answers from the cache left out."""
        self.sittings = 0
        """How often something was computed."""
        self._begun = False
        for entry in self._read():
            if entry["comparison"] == self._comparison:
                self.totals, self.sittings = EngineTotals(**entry["totals"]), int(entry["sittings"])
            else:
                self._others.append(entry)

    def hear(self, heard: Heard) -> None:
        """Add what an engine has computed, and keep it."""
        computed = heard.totals.requests - heard.totals.cache_hits
        if not computed:
            return
        self.totals.add(replace(heard.totals, requests=computed, cache_hits=0))
        self.sittings += not self._begun
        self._begun = True
        own = {"comparison": self._comparison, "sittings": self.sittings, "totals": asdict(self.totals)}
        atomic_write(self._path, (json.dumps([*self._others, own], indent=2) + "\n").encode())

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
