"""A text as the filter rules look at it: its prose blocks, sentences, lines and words, each worked out once.

Markdown, plain text or text out of HTML comes in. Several rules need the same view of it, and finding that view is most
of their work, so they share one `Text`. Every view takes time in proportion to the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, KeysView
from functools import cached_property
from typing import NamedTuple

__all__ = ["Text", "is_list_item"]

_MAX_SYMBOLS = 0.15
_MAX_UNSPACED = 0.2

_ASCII_SPACES = bytes(code for code in range(128) if chr(code).isspace())
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_NO_WORDS = re.compile(r"\W")
_MAX_MARKS = 32
"""Above so many kinds of marks, one pass over the text is quicker than one for each."""
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_NO_WORD = "".join(char for char in map(chr, range(128)) if not char.isalnum() and char != "_")
_TO_SPACE = str.maketrans(_NO_WORD, " " * len(_NO_WORD))
_BYTES_TO_SPACE = bytes.maketrans(_NO_WORD.encode(), b" " * len(_NO_WORD))
_SENTENCE_END = re.compile(
    # One character class in front lets the engine skip to it; what follows decides by which character it was.
    r"[.!?\u2026\n\u3002\uff01\uff1f](?:"
    r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+"
    r"|(?<=\n)(?=[ \t]*(?:[-*+\u2022|>]|\d+[.)])\s)"  # a list item begins
    r"|(?<=[\u3002\uff01\uff1f]))"  # Chinese and Japanese: no space follows
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)
_CODE_START = re.compile(r"\s*(?:>>> |\.\.\. |\$ |\(Pdb\)|[|+][ :|+=-]|\w+ +::=)")
_UNSEEN = re.compile(r"</?[A-Za-z!][^<>]*>|(?<=\])\([^()\s]*\)|https?://[^\s<>()]*")
_SYMBOLS = b"(){}[]<>=_;\\/|*&%$#@+^~`"
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_LIST_ITEM = re.compile(r"(?:[-*+\u2022\u25cf\u25e6\u2023\u2013|>]|\(?(?:\d{1,3}|[A-Za-z])[.)])(?:\s|$)")


class _Block(NamedTuple):
    text: str
    ink: int
    tokens: int


class Text:
    """A text and its views. `language` is an ISO 639-1 code, or empty when nobody stated one."""

    def __init__(self, text: str, language: str = "") -> None:
        self.text = text
        self.language = language

    @cached_property
    def ink(self) -> int:
        """Characters that are no whitespace."""
        return len(self._ascii.translate(None, _ASCII_SPACES)) + len("".join(self._foreign.split()))

    @cached_property
    def letters(self) -> int:
        """Characters of the Unicode letter categories."""
        return len(self._ascii.translate(None, _NO_LETTERS)) + sum(map(str.isalpha, self._foreign))

    @cached_property
    def _ascii(self) -> bytes:
        return self.text.encode("ascii", "ignore")

    @cached_property
    def _foreign(self) -> str:
        return "" if self.text.isascii() else "".join(_FOREIGN.findall(self.text))

    @cached_property
    def _blocks(self) -> list[_Block]:
        text = _FENCED.sub("\n\n", self.text) if "```" in self.text or "~~~" in self.text else self.text
        return [block for raw in _BLANK_LINE.split(text) if (block := _prose_block(raw))]

    @cached_property
    def prose(self) -> list[str]:
        """Return the blocks (between blank lines) of prose, without tags and link addresses.

        No prose are fenced code, tables, prompts and grammars, and blocks in which brackets and operators are above 15 %
        of the characters.
        """
        return [block.text for block in self._blocks]

    @cached_property
    def prose_ink(self) -> int:
        """Characters of the prose that are no whitespace."""
        return sum(block.ink for block in self._blocks)

    @cached_property
    def tokens(self) -> int:
        """Runs of the prose between whitespace, punctuation included."""
        return sum(block.tokens for block in self._blocks)

    @cached_property
    def sentences(self) -> list[list[str]]:
        """Return the words of each sentence of the prose, casefolded, without punctuation; a list item is a sentence."""
        return [words for block in self.prose for words in _sentences(block)]

    @cached_property
    def written_sentences(self) -> list[str]:
        """Return the sentences as they are written."""
        return [block[start:end] for block in self.prose for start, end in _spans(block)]

    @cached_property
    def words(self) -> list[str]:
        """Return the words of all sentences."""
        return [word for words in self.sentences for word in words]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each of the words occurs."""
        return Counter(self.words)

    @property
    def vocabulary(self) -> KeysView[str]:
        """The distinct words."""
        return self.counts.keys()

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines of the prose that are not blank, stripped."""
        return [line for block in self.prose for line in map(str.strip, block.split("\n")) if line]

    @cached_property
    def folded(self) -> str:
        """Return the prose as one casefolded text."""
        return "\n\n".join(self.prose).casefold()

    @cached_property
    def unspaced(self) -> bool:
        """Whether its script puts no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese)."""
        if self.text.isascii():
            return False
        return len(_UNSPACED.findall(self.text)) > _MAX_UNSPACED * self.ink


def is_list_item(line: str) -> bool:
    """Whether a stripped line begins with a bullet, a number or a letter of a list, a table cell or a quote mark."""
    return _LIST_ITEM.match(line) is not None


def _seen(block: str) -> str:
    return _UNSEEN.sub(" ", block) if "<" in block or "](" in block or "http" in block else block


def _sentences(block: str) -> Iterator[list[str]]:
    spaced = _spaced(block.casefold())
    if len(spaced) != len(block):  # a character that folds to two: positions differ
        return (_spaced(block[start:end].casefold()).split() for start, end in _spans(block))
    return (spaced[start:end].split() for start, end in _spans(block))


def _spans(block: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in _SENTENCE_END.finditer(block):
        at = end.start()
        yield start, at if block[at] == "\n" else at + 1
        start = end.end()
    yield start, len(block)


def _spaced(text: str) -> str:
    """Return the text with a space for each character that is not of a word (`\\w`): to split it is to find its words.

    The same as searching for the words, and twice as fast: ASCII goes through a table, and few other characters differ.
    """
    if text.isascii():
        return text.translate(_TO_SPACE)
    marks = {char for char in set("".join(_FOREIGN.findall(text))) if not char.isalnum()}
    if len(marks) > _MAX_MARKS:
        return _NO_WORDS.sub(" ", text)  # keeps the length: the match is one character
    for char in marks:
        text = text.replace(char, " ")
    return text.encode("utf-8", "surrogatepass").translate(_BYTES_TO_SPACE).decode("utf-8", "surrogatepass")


def _prose_block(raw: str) -> _Block | None:
    text = _seen(raw)
    tokens = text.split()
    ink = len("".join(tokens))
    if not ink or _CODE_START.match(text):
        return None
    plain = text.encode("ascii", "ignore")
    if len(plain) - len(plain.translate(None, _SYMBOLS)) > _MAX_SYMBOLS * ink:
        return None
    return _Block(text, ink, len(tokens))
