"""What identifies a served model. In: findings. Out: a model reference; the address is no part of it.

A server that states which local folder or file it serves is that folder or file: its answers are those of `hf` on it. Any other is
the name asked for, the name in its replies (hosted services put the revision there), what it states of the model's size, and the
tokenizer. A hosted model that changes behind the same two names cannot be told: its old answers stay in the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from humpback.engines.base import ModelRef
from humpback.engines.server.findings import Findings
from humpback.engines.server.tokens import ESTIMATE, find_tokenizer
from humpback.errors import InputError
from humpback.store.fingerprint import fingerprint

__all__ = ["check_served", "identify"]


def identify(found: Findings, tokenizer: str | None) -> ModelRef:
    """Return the reference of a served model; `tokenizer` is what the recipe names, None for the model's own folder."""
    from humpback.engines.models import hash_model

    local = _local(found)
    if local is not None and local.is_dir():
        return ModelRef(path=str(local), content_hash=hash_model(local))
    stated: dict[str, object] = {
        "model": found.model,
        "answers as": found.answers_as,
        "states": found.details,
        "tokenizer": _describe_tokenizer(tokenizer),
    }
    if local is not None:
        with local.open("rb") as file:
            stated["file"] = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelRef(path=tokenizer or "", content_hash=fingerprint({"served": stated}))


def check_served(found: Findings, model: ModelRef) -> None:
    """Refuse a server that states another local folder than the model's, with other content."""
    from humpback.engines.models import hash_model

    local = _local(found)
    if local is None or not local.is_dir() or not Path(model.path).is_dir() or local == Path(model.path).resolve():
        return
    if hash_model(local) != model.content_hash:
        raise InputError(f"{found.url} serves {local}, which is not the model {model.path}; serve that one")


def _local(found: Findings) -> Path | None:
    """Return the folder or file that the server says it serves, if it is one here."""
    if not found.folder or not found.is_here:
        return None
    path = Path(found.folder)
    return path.resolve() if path.is_absolute() and path.exists() else None


def _describe_tokenizer(reference: str | None) -> str:
    if reference in (None, ESTIMATE):
        return reference or ""
    folder = find_tokenizer(reference)
    return _hash_files(sorted(path for path in folder.glob("*token*") if path.is_file()))


def _hash_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
