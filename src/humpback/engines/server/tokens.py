"""Tokenizers for served models. In: what the recipe names. Out: the served model's own, or one that only estimates lengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from humpback.errors import InputError
from humpback.prompts import Tokenizer

__all__ = ["ESTIMATE", "EstimatingTokenizer", "find_tokenizer", "open_tokenizer"]

ESTIMATE = "estimate"
"""`runtime.server.tokenizer` of a chat endpoint whose tokenizer is not to be had."""
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "chat_template*",
    "*.model",
    "config.json",
)
_PIECE = re.compile(r"\s?[^\W\d_]{1,5}|\s?\d{1,3}|\s+|.", re.DOTALL)
_FIRST = 256
"""Token ids below stand for nothing."""


class EstimatingTokenizer:
    """Cuts text into pieces of about the size of tokens, a few more than most tokenizers make. For lengths only.

    A token id is the piece's own bytes, so that any text can be had back and two texts never look alike.
    """

    special_tokens: Sequence[str] = ()
    end_of_turn: Sequence[int] = (0,)

    def encode(self, text: str) -> list[int]:
        pieces = _PIECE.findall(text.encode("utf-8", "replace").decode())
        return [int.from_bytes(b"\x01" + piece.encode(), "big") + _FIRST for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        numbers = [token - _FIRST for token in ids if token >= _FIRST]
        return b"".join(n.to_bytes((n.bit_length() + 7) // 8, "big")[1:] for n in numbers).decode("utf-8", "replace")

    def chat(self, user: str) -> str:
        """Return the turn with about as many tokens around it as templates put there; the endpoint has its own."""
        return f"user:\n{user}\nassistant:\n"


def open_tokenizer(reference: str | None, folder: str) -> Tokenizer:
    """Open the tokenizer of `runtime.server.tokenizer`: a folder, a hub id, `estimate`, or the model's own folder for None."""
    if reference == ESTIMATE:
        return EstimatingTokenizer()
    if reference is None and not Path(folder).is_dir():
        raise InputError(
            "the served model's tokenizer is not known; set runtime.server.tokenizer to a folder or hub id, or to "
            f"{ESTIMATE} for a chat endpoint whose tokenizer is not to be had"
        )
    from humpback.engines.hf_tokenizer import HFTokenizer

    return HFTokenizer(Path(folder) if reference is None else find_tokenizer(reference))


def find_tokenizer(reference: str) -> Path:
    """Return the folder of a tokenizer, fetched from the hub when it is none here."""
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=list(TOKENIZER_FILES)))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of the two
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"runtime.server.tokenizer={reference!r} is no folder here and cannot be fetched from the hub "
            f"({type(error).__name__}: {reason}); check the spelling, or fetch it elsewhere and give its folder"
        ) from error
