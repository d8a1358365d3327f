"""Fingerprints: the SHA-256 of a canonical JSON payload. A value that has no one encoding is refused, never guessed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["canonical", "derive_seed", "diff", "fingerprint", "hash_file"]


def canonical(value: object, where: str = "payload") -> Any:
    """Return the value as plain JSON types; raise TypeError or ValueError naming the place of what cannot be encoded."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}={value} cannot be fingerprinted; only finite numbers can")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; a fingerprint takes string keys only")
        return {key: canonical(value[key], f"{where}.{key}") for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical(item, f"{where}.{index}") for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which has no one encoding; give plain values")


def fingerprint(value: object) -> str:
    """Return 16 hex digits that change when the value does."""
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


SHORT_LIST = 3
"""Lists up to this length are shown whole in a difference."""


def diff(old: object, new: object, where: str = "") -> Iterator[str]:
    """Yield one line per field that differs between two payloads."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from diff(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{where}.{key}" if where else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from diff(before, after, f"{where}.{index}")
    elif isinstance(old, list) and isinstance(new, list) and max(len(old), len(new)) > SHORT_LIST:
        for label, some, others in (("gone", old, new), ("new", new, old)):
            known = {_tell(item) for item in others}
            odd = [told for item in some if (told := _tell(item)) not in known]
            if odd:
                yield f"{where}: {len(odd)} {label}: {', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}"
    elif (told := _tell(old)) != _tell(new):  # as JSON: to Python, true is 1
        yield f"{where}: {told} -> {_tell(new)}"


_ABSENT = object()


def _tell(value: object) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def derive_seed(*parts: str | int) -> int:
    """Return a 63-bit seed for (recipe seed, stage, record id): the same whatever the shard, worker or order."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
