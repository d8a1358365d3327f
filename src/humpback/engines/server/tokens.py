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
_PIECE = re.compile(
    r"(?P<word> ?[A-Za-z][a-z]{2,4})| ?[A-Za-z]{1,3}| ?[0-9]{1,3}|[\u0080-\u07ff]{1,2}| {1,4}|\n{1,4}|.", re.DOTALL
)
"""Words have numbers of their own; every other piece is of four bytes at most."""
_FIRST = 256
"""Token ids below stand for nothing."""
_BASE = 246
"""No byte of UTF-8 is above 244, so four of them, each raised by one, are a number of 32 bits with room for the words."""
_WORDS = _FIRST + _BASE**4
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_HEADS = [space + letter for space in ("", " ") for letter in _LETTERS + _LETTERS.upper()]
"""How a word begins."""


class EstimatingTokenizer:
    """Cuts text into pieces of about the size of tokens, a few more than most tokenizers make. For lengths only.

    A token id is the piece itself as a number of 32 bits, so that any text can be had back and two texts never look alike.
    """

    special_tokens: Sequence[str] = ()
    end_of_turn: Sequence[int] = (0,)

    def encode(self, text: str) -> list[int]:
        pieces = _PIECE.finditer(text.encode("utf-8", "replace").decode())
        return [_number_word(piece[0]) if piece["word"] else _number_bytes(piece[0]) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(_read_piece(token) for token in ids).decode("utf-8", "replace")

    def chat(self, user: str) -> str:
        """Return the turn with about as many tokens around it as templates put there; the endpoint has its own."""
        return f"user:\n{user}\nassistant:\n"


def _number_word(word: str) -> int:
    cut = 2 if word[0] == " " else 1
    number = 0
    for letter in word[cut:]:
        number = number * 27 + _LETTERS.index(letter) + 1
    return _WORDS + number * len(_HEADS) + _HEADS.index(word[:cut])


def _number_bytes(piece: str) -> int:
    number = 0
    for byte in piece.encode():
        number = number * _BASE + byte + 1
    return _FIRST + number


def _read_piece(token: int) -> bytes:
    word, base = token >= _WORDS, 27 if token >= _WORDS else _BASE
    number, head = divmod(token - _WORDS, len(_HEADS)) if word else (max(token - _FIRST, 0), 0)
    digits = []
    while number:
        number, digit = divmod(number, base)
        digits.append(digit - 1)
    digits.reverse()
    return (_HEADS[head] + "".join(_LETTERS[digit] for digit in digits)).encode() if word else bytes(digits)


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
