"""Decontamination: does a text share words with an evaluation set? In: the sets, then texts. Out: what is shared, or None.

Three ways to be found, after case, spacing and punctuation are taken away:

- a run of 13 words that is in a text of a set as well (GPT-3, Brown et al. 2020, appendix C; PaLM and others since);
- a whole text of a set of 8 to 12 words, anywhere in the text. GPT-3 lets n go down to 8 where the set's texts are short, and no
  further: shorter runs of words are common property, and would throw away good text;
- `find_instruction` only: the whole text equals a text of a set, however short. Instructions are short themselves.

A set is a file of JSON lines (.jsonl) or one JSON list (.json), either also as .gz. Memory: 18 to 26 bytes per 13-gram.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from humpback.corpus.dedup import normalise_bytes, text_digest
from humpback.corpus.ngrams import UInts, Words, find_words, hash_ngrams, words_between
from humpback.errors import InputError
from humpback.recipe import EvaluationSet

__all__ = ["NGRAM", "SHORTEST", "Overlap", "set_files"]

NGRAM = 13
SHORTEST = 8
"""Shorter texts of a set are looked for as whole texts only."""


class _Short(NamedTuple):
    """A text of a set that has fewer than n words, but enough to be looked for inside others."""

    plain: bytes
    words: int
    source: int


class _Hashes(NamedTuple):
    """A set of hashes that is asked for many at once, nearly all of which it has not."""

    sorted: UInts
    table: NDArray[np.bool_]
    """True at the leading bits of each hash; turns away at least seven of eight others with one look."""
    shift: np.uint64

    @classmethod
    def of(cls, hashes: UInts) -> _Hashes:
        bits = max(10, (8 * len(hashes)).bit_length())
        table, shift = np.zeros(1 << bits, dtype=np.bool_), np.uint64(64 - bits)
        table[hashes >> shift] = True
        return cls(hashes, table, shift)

    def places(self, asked: UInts) -> Iterator[tuple[int, int]]:
        """Yield which of the hashes asked for are in the set, and where in `sorted`."""
        maybe = np.flatnonzero(self.table[asked >> self.shift])
        if len(maybe):
            at = np.searchsorted(self.sorted, asked[maybe])
            at[at == len(self.sorted)] = 0
            found = self.sorted[at] == asked[maybe]
            yield from zip(maybe[found].tolist(), at[found].tolist(), strict=True)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The texts that must not be trained on, ready for look-ups; built once per process."""

    names: tuple[str, ...]
    """The sets' files, as given."""
    ngram: int
    grams: _Hashes
    sources: NDArray[np.uint16]
    """For each of `grams` the first set that has it, as a place in `names`."""
    starts: _Hashes
    """The keys of `shorts`."""
    shorts: Mapping[int, tuple[_Short, ...]]
    """By the hash of their first 8 words."""
    wholes: Mapping[bytes, int]
    """Digest of each whole text, and its set."""

    @classmethod
    def load(cls, sets: Sequence[EvaluationSet], n: int = NGRAM) -> Overlap:
        """Read the sets; raise InputError when one cannot be read, lacks a column, or holds no text."""
        return cls.build([(given.path, _texts(given)) for given in sets], n)

    @classmethod
    def of_texts(cls, name: str, texts: Iterable[str], n: int = NGRAM) -> Overlap:
        """Return the look-up of one set that is at hand."""
        return cls.build([(name, filter(None, map(normalise_bytes, texts)))], n)

    @classmethod
    def build(cls, sets: Sequence[tuple[str, Iterable[bytes]]], n: int) -> Overlap:
        """Return the look-up of named sets of normalised texts."""
        grams: list[UInts] = []
        counts: list[int] = []
        shorts: dict[int, dict[_Short, None]] = {}
        wholes: dict[bytes, int] = {}
        for source, (_, texts) in enumerate(sets):
            found = []
            for plain in texts:
                digest = text_digest(plain)
                if digest in wholes:
                    continue
                wholes[digest] = source
                words = find_words(plain)
                if len(words.starts) >= n:
                    found.append(hash_ngrams(words, n))
                elif len(words.starts) >= SHORTEST:
                    key = int(hash_ngrams(words, SHORTEST)[0])
                    shorts.setdefault(key, {})[_Short(words.plain, len(words.starts), source)] = None
            grams += found
            counts.append(sum(map(len, found)))
        every = np.concatenate([*grams, np.empty(0, dtype=np.uint64)])
        unique, first = np.unique(every, return_index=True)
        return cls(
            names=tuple(name for name, _ in sets),
            ngram=n,
            grams=_Hashes.of(unique),
            sources=np.repeat(np.arange(len(sets)), counts)[first].astype(np.uint16),
            starts=_Hashes.of(np.array(sorted(shorts), dtype=np.uint64)),
            shorts={key: tuple(texts) for key, texts in shorts.items()},
            wholes=wholes,
        )

    def find(self, text: str) -> str | None:
        """Return which words the text shares with which set, or None."""
        return self._find(normalise_bytes(text))

    def find_instruction(self, text: str) -> str | None:
        """Return the same for an instruction, which may also be as short as it likes and equal a text of a set."""
        plain = normalise_bytes(text)
        source = self.wholes.get(text_digest(plain))
        if source is not None:
            return f'is a text of {self.names[source]}: "{_shown(plain.decode("utf-8", "surrogatepass"))}"'
        return self._find(plain)

    def _find(self, plain: bytes) -> str | None:
        words = find_words(plain)
        if len(words.starts) >= self.ngram:
            for place, at in self.grams.places(hash_ngrams(words, self.ngram)):
                return self._tell(int(self.sources[at]), words, place, self.ngram)
        if self.shorts and len(words.starts) >= SHORTEST:
            for place, at in self.starts.places(hash_ngrams(words, SHORTEST)):
                for short in self.shorts[int(self.starts.sorted[at])]:
                    if _begins(words, place, short):
                        return self._tell(short.source, words, place, short.words)
        return None

    def _tell(self, source: int, words: Words, place: int, count: int) -> str:
        return f'shares {count} words with {self.names[source]}: "{_shown(words_between(words, place, count))}"'


def set_files(sets: Sequence[EvaluationSet]) -> list[Path]:
    """Return the sets' files, whose content belongs to the identity of what is made with them."""
    return [Path(given.path).expanduser() for given in sets]


def _begins(words: Words, place: int, short: _Short) -> bool:
    last = place + short.words - 1
    return last < len(words.ends) and words.plain[words.starts[place] : words.ends[last]] == short.plain


def _shown(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def _texts(given: EvaluationSet) -> Iterator[bytes]:
    """Yield the normalised texts of a set."""
    some, missing = False, set(given.columns)
    columns: dict[str, None] = {}
    for record in _records(given.path):
        if given.columns and isinstance(record, dict):
            columns |= dict.fromkeys(record)
            missing -= record.keys()
            record = [record.get(column) for column in given.columns]
        for text in _strings(record):
            if plain := normalise_bytes(text):
                some = True
                yield plain
    if missing:
        there = ", ".join(list(columns)[:20]) or "none: its records are no objects"
        raise InputError(
            f"evaluation set {given.path} has no column {', '.join(sorted(missing))}; set corpus.decontaminate.columns "
            f"to some of: {there}; or leave it out to protect every string"
        )
    if not some:
        raise InputError(f"evaluation set {given.path} holds no text to protect; give its real file, or take it out")


def _strings(value: object) -> Iterator[str]:
    """Yield every string in a JSON value, keys of objects apart; not by recursion, as records may be nested deeply."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting += reversed(list(item.values()))
        elif isinstance(item, list):
            waiting += reversed(item)


def _records(name: str) -> list[object]:
    """Return the records of a file: its lines, or the items of the one list that it is."""
    path = Path(name).expanduser()
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"evaluation set {name} is not there; correct corpus.decontaminate.path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"evaluation set {name} is damaged: {error}; fetch or compress it again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"evaluation set {name} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"evaluation set {name} cannot be read: {error.strerror or error}; give a file") from error
    if text.lstrip().startswith("["):
        try:
            records: object = json.loads(text)
        except (ValueError, RecursionError):
            return [_parse(line, name, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return records if isinstance(records, list) else [records]
    return [_parse(line, name, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse(line: str, name: str, number: int) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"evaluation set {name}:{number} is not JSON: {error}; write one object per line, or one list of them"
        ) from None
