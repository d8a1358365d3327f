"""`humpback cache`: what an answer cache holds, and less of it. In: a run folder or a cache's file. Out: tables or JSON.

A run's models are named as the run names them (M_0, M_yx). Nothing is removed while a run works on the folder or has the file
open: it may be about to write a shard from what would be taken away.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from humpback.engines.answers import AnswerCache, Group, Removed, locate_cache
from humpback.errors import InputError
from humpback.recipe import load_recipe
from humpback.stages.table import stage_names
from humpback.store.rundir import RunDir, check_run

__all__ = ["Pruning", "name_models", "parse_bytes", "print_cache", "prune_cache"]

SQLITE = b"SQLite format 3\0"
"""How a database begins."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Which answers go; exactly one of these is given."""

    model: str | None = None
    """A content hash, its beginning, or the run's name for the model."""
    older_than: int | None = None
    """Days since the last use."""
    max_size: str | None = None
    """What the file may take afterwards: 500MB, 2GB."""
    unused: bool = False
    """Answers of models that the run does not have any more."""
    all: bool = False


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A cache, and the run it was named by."""

    file: Path
    run: Path | None
    names: Mapping[str, str]
    """The run's name by content hash."""


def print_cache(place: Path, *, as_json: bool) -> None:
    """Print what a cache holds, by model and call."""
    found = _find(place)
    cache = AnswerCache(found.file)
    try:
        groups, size = cache.groups(), cache.file_bytes()
    finally:
        cache.close()
    if as_json:
        told = {"file": str(found.file), "entries": sum(g.entries for g in groups), "file_bytes": size}
        print(json.dumps({**told, "groups": [_row(group, found.names) for group in groups]}, indent=2))
        return
    from humpback.report import figures
    from humpback.report.terminal import print_table

    headers = ["model", "call", "answers>", "bytes>", "oldest", "newest", "last used"]
    cells = [
        [
            found.names.get(group.source.model, group.source.model[:16]),
            group.source.call,
            figures.count(group.entries),
            tell_bytes(group.bytes),
            *map(_date, (group.oldest, group.newest, group.last_used)),
        ]
        for group in groups
    ]
    print_table(str(found.file), headers, cells)
    print(f"{sum(group.entries for group in groups):,} answers; the file takes {tell_bytes(size)}")


def prune_cache(place: Path, pruning: Pruning, *, dry_run: bool) -> None:
    """Remove answers and say which; give the space back."""
    given = [name for name, value in vars(pruning).items() if value is not None and value is not False]
    if len(given) != 1:
        options = "--model, --older-than, --max-size, --unused and --all"
        raise InputError(f"give one of {options}, not {len(given)}; --dry-run tells what it would remove")
    found = _find(place)
    with contextlib.ExitStack() as held:
        if found.run:
            held.enter_context(RunDir(found.run))  # refuses when the run is being worked on
        cache = AnswerCache(found.file, alone=True)
        held.callback(cache.close)
        before = cache.file_bytes()
        removed = _remove(cache, found, pruning, dry_run=dry_run)
        after = cache.file_bytes()
    told = f"{removed.entries:,} answers ({tell_bytes(removed.bytes)})"
    if dry_run:
        print(f"would remove {told} of {found.file}; nothing is changed")
    else:
        print(f"removed {told} of {found.file}; it took {tell_bytes(before)} and takes {tell_bytes(after)}")


def name_models(run: Path) -> dict[str, str]:
    """Return the run's names by content hash; a model that several stages share has all of their names."""
    run_dir, names = RunDir(run), dict[str, list[str]]()
    for stage, _ in stage_names(load_recipe(run / "recipe.yaml")):
        manifest = run_dir.manifest(stage)
        if manifest is None:
            continue
        if base := dict(manifest.identity.get("models") or {}).get("base"):
            names[str(base)] = ["base"]
        if (room := stage.removesuffix("/finetune")) != stage:
            name = "M_yx" if room == "backward" else room.replace("iteration-", "M_")
            names.setdefault(str(manifest.result["content_hash"]), []).append(name)
    return {content_hash: ", ".join(own) for content_hash, own in names.items()}


def parse_bytes(text: str) -> int:
    """Read 2GB, 500 MB, 1.5G or a plain number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), flags=re.IGNORECASE)
    if match is None:
        raise InputError(f"--max-size {text!r} is no size; write it as 2GB or 500MB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def tell_bytes(number: int) -> str:
    """Return 999 B, 12.3 kB, 4.5 GB."""
    size, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _find(place: Path) -> _Place:
    run, file = place.parent, place
    if place.is_dir():
        check_run(place)
        run, file = place, locate_cache(load_recipe(place / "recipe.yaml").runtime.cache, place)
    is_run = (run / "recipe.yaml").exists()
    if not file.is_file():
        raise InputError(f"there is no answer cache at {file}; give a run's folder or a cache's file")
    if not _is_database(file):  # to open it would leave a lock file beside what is not ours
        raise InputError(
            f"{file} is no answer cache; give a run's folder or a cache's file, such as {place.parent / 'answers.sqlite'}"
        )
    return _Place(file=file, run=run if is_run else None, names=name_models(run) if is_run else {})


def _is_database(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(len(SQLITE))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}; check its permissions") from error
    return head in (SQLITE, b"")  # SQLite makes an empty file first


def _row(group: Group, names: Mapping[str, str]) -> dict[str, str | int | None]:
    return {
        "model": group.source.model,
        "name": names.get(group.source.model),
        "call": group.source.call,
        "entries": group.entries,
        "bytes": group.bytes,
        "oldest": _date(group.oldest),
        "newest": _date(group.newest),
        "last_used": _date(group.last_used),
    }


def _date(day: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


def _remove(cache: AnswerCache, found: _Place, pruning: Pruning, *, dry_run: bool) -> Removed:
    held = list(dict.fromkeys(group.source.model for group in cache.groups()))
    if pruning.model is not None:
        return cache.remove_models([_one_model(held, found.names, pruning.model)], dry_run=dry_run)
    if pruning.older_than is not None:
        return cache.remove_unused_since(pruning.older_than, dry_run=dry_run)
    if pruning.max_size is not None:
        return cache.remove_down_to(parse_bytes(pruning.max_size), dry_run=dry_run)
    if pruning.all:
        return cache.remove_all(dry_run=dry_run)
    if not found.run:
        raise InputError(f"--unused keeps the models of a run, and {found.file} lies in none; give a run's folder")
    return cache.remove_models([model for model in held if model not in found.names], dry_run=dry_run)


def _one_model(held: Sequence[str], names: Mapping[str, str], wanted: str) -> str:
    fits = [model for model in held if model.startswith(wanted) or wanted in names.get(model, "").split(", ")]
    if len(fits) != 1:
        known = ", ".join(names.get(model) or model[:16] for model in held) or "none"
        what = "no model" if not fits else f"{len(fits)} models"
        raise InputError(f"--model {wanted} fits {what} of the cache; it has answers of: {known}")
    return fits[0]
