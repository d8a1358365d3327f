"""The words that corruptions are made of, and how a text is taken apart. In: `data/corruptions.yaml`. Out: lines, sentences, facts."""

from __future__ import annotations

import functools
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

__all__ = ["Bank", "Fact", "join_sentences", "load_banks", "split_sentences"]

_BORDER = re.compile(r"(?<=[.!?])[\"')\]]*[ \t]+(?=[\"'(\[]*[A-Z0-9])|\n+")
_ABBREVIATED = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|vs|No|approx|e\.g|i\.e|etc|[A-Z])\.|^\s*\d{1,2}[.)])\s*$")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}\b")
_NUMBER = re.compile(r"(?<![\w.,])\d{1,4}(?:,\d{3})*(?![\w]|[.,]\d)")
_LIST_NUMBER = re.compile(r"^\s*\d{1,2}[.):]", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A place in a text and the wrong text for it."""

    start: int
    end: int
    text: str


class Bank:
    """The words of one fold."""

    def __init__(self, data: Mapping[str, Any], number: int, banks: int) -> None:
        own: Mapping[str, Any] = data["banks"][number]
        self._templates: dict[str, list[str]] = {kind: own[kind] for kind in ("navigation", "advertising", "voice")}
        self._languages: list[list[str]] = list(own["languages"].values())
        self._slots: dict[str, list[str]] = {name: words[number::banks] for name, words in data["slots"].items()}
        self._names: list[str] = data["names"][number::banks]
        self._verbs = re.compile(rf"\b(?:{'|'.join(data['verbs'])})\b(?! not\b|n't)")
        both = [(a, b) for a, b in data["opposites"]]
        self._opposites = dict(both) | {b: a for a, b in both}

    def lines(self, kind: str, draw: random.Random) -> list[str]:
        """Return the kind's templates in a drawn order, their slots filled."""
        return [self._fill(line, draw) for line in draw.sample(self._templates[kind], len(self._templates[kind]))]

    def foreign(self, draw: random.Random) -> list[str]:
        """Return sentences of one language in a drawn order, twice over, for long texts."""
        sentences = draw.choice(self._languages)
        return draw.sample(sentences, len(sentences)) * 2

    def find_facts(self, text: str, draw: random.Random) -> list[Fact]:
        """Return the places where the text can be made wrong, none overlapping, first come first."""
        found = [*self._numbers(text, draw), *self._swapped_names(text, draw), *self._turned(text)]
        spots: list[Fact] = []
        for fact in sorted(found, key=lambda f: (f.start, f.end)):
            if not spots or fact.start >= spots[-1].end:
                spots.append(fact)
        return spots

    def _numbers(self, text: str, draw: random.Random) -> list[Fact]:
        listed = {match.start() for match in _LIST_NUMBER.finditer(text)}
        facts = []
        for match in _NUMBER.finditer(text):
            if match.start() in listed or any(match.start() - start < 4 and start <= match.start() for start in listed):
                continue
            value = int(match.group().replace(",", ""))
            other = value + draw.choice((-1, 1)) * draw.randint(1, max(2, value // 3))
            written = f"{abs(other) + (other == 0)}"
            if written != match.group():
                facts.append(Fact(start=match.start(), end=match.end(), text=written))
        return facts

    def _swapped_names(self, text: str, draw: random.Random) -> list[Fact]:
        chosen: dict[str, str] = {}
        facts = []
        for match in _NAME.finditer(text):
            name = chosen.setdefault(match.group(), draw.choice(self._names))
            facts.append(Fact(start=match.start(), end=match.end(), text=name))
        return facts

    def _turned(self, text: str) -> list[Fact]:
        facts = [Fact(start=m.end(), end=m.end(), text=" not") for m in self._verbs.finditer(text)]
        for match in re.finditer(r"\b[a-z]+\b", text):
            if match.group() in self._opposites:
                facts.append(Fact(start=match.start(), end=match.end(), text=self._opposites[match.group()]))
        return facts

    def _fill(self, template: str, draw: random.Random) -> str:
        parts = []
        used: dict[str, list[str]] = {}
        for literal, name, _, _ in string.Formatter().parse(template):
            parts.append(literal)
            if name:
                if not used.get(name):
                    used[name] = draw.sample(self._slots[name], len(self._slots[name]))
                parts.append(used[name].pop())
        return "".join(parts)


@functools.cache
def load_banks() -> tuple[Bank, ...]:
    """Return the banks, one for each fold."""
    text = resources.files("humpback").joinpath("data/corruptions.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    return tuple(Bank(data, number, len(data["banks"])) for number in range(len(data["banks"])))


def split_sentences(text: str) -> list[str]:
    """Cut a text at sentence ends and line breaks; joined by `join_sentences` the pieces are the text again.

    Each piece but the last keeps the white space behind it, so that lists stay lists.
    """
    pieces: list[str] = []
    start = 0
    for match in _BORDER.finditer(text):
        head = text[start : match.start()]
        if head.strip() and (match.group().startswith("\n") or not _ABBREVIATED.search(head)):
            pieces.append(text[start : match.end()])
            start = match.end()
    if text[start:].strip():
        pieces.append(text[start:])
    return pieces


def join_sentences(sentences: Sequence[str]) -> str:
    """Join pieces of `split_sentences`, in whatever order they are now."""
    text = ""
    for piece in sentences:
        text += (" " if text and not text[-1].isspace() else "") + piece
    return text.strip()
