"""How good an extracted text is, by gold data. In: a page's extracted text and its gold. Out: counts that add up over pages.

One normalisation serves every extractor and the gold itself (`Text`): Unicode NFKC, fractions spelt out (½ is 1/2), Markdown
marks, escapes and link targets taken off, white space collapsed. A text is read twice, with and without list markers, and either
reading counts. So neither Markdown nor plain output is favoured.
"""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from harness import ROOT
from selectolax.lexbor import LexborHTMLParser

__all__ = [
    "DATA",
    "NOTHING",
    "Counts",
    "Text",
    "boilerplate_chars",
    "chrome_of",
    "fragment_counts",
    "have_data",
    "missing_of",
    "read_pages",
    "read_rows",
    "recipe_counts",
    "shingle_counts",
]

DATA = ROOT.parent / "shared" / "data"

_FRACTION = re.compile("[¼-¾⅐-⅞]")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"]*\")?\)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_RULE = re.compile(r"(?m)^[ \t|:*_=+-]*[-=_*]{3}[ \t|:*_=+-]*$")
_MARK = re.compile(r"(?m)[*_`~]|^[ \t]*(?:>[ \t]?)+|^[ \t]*#{1,6}(?=[ \t])")
_MARKER = re.compile(r"(?m)^[ \t]*(?:[-+•◦▪‣·–]|\d{1,3}[.)])[ \t]+")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_GRAM = 3
_FOUND = 0.9
"""Share of a step's word 3-grams that must be in the text for the step to be in it."""
_SHINGLE = 4
_CHROME = frozenset(
    "nav navbar navigation menu submenu sidebar footer breadcrumb breadcrumbs comment comments respond cookie cookies consent gdpr "
    "newsletter subscribe related share sharing social popup modal pagination advertisement promo".split()
)
"""Words of a class or id by which a page itself says that an element is not its content."""
_CHROME_TAGS = frozenset(("nav", "footer", "aside"))
_CHROME_ROLES = frozenset(("navigation", "banner", "contentinfo", "complementary", "search"))
_NEVER_CHROME = frozenset(("html", "body", "main", "article"))


class Counts(NamedTuple):
    """Fragments that must (`tp`, `fn`) and must not (`fp`, `tn`) be there; they add up."""

    tp: float = 0
    fn: float = 0
    fp: float = 0
    tn: float = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(one + another for one, another in zip(self, other, strict=True)))

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0

    @property
    def f(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0

    @property
    def accuracy(self) -> float:
        return (self.tp + self.tn) / max(1, sum(self))


NOTHING = Counts()


def have_data(*names: str) -> bool:
    """Tell whether the test data is beside the project."""
    return all((DATA / name).is_file() for name in names)


def read_pages(archive: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive of the test data, in its own order."""
    with tarfile.open(DATA / archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def read_rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def _plain(text: str) -> str:
    """Take Markdown off: links keep their words, tables their cells, escapes their character; rules and marks go."""
    text = _FRACTION.sub(lambda found: f" {found.group()}", text)
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("\u00ad", "").replace("\u200b", "")
    text = _LINK.sub(r"\1", _RULE.sub(" ", text)).replace("|", " ")
    return _MARK.sub("", _ESCAPE.sub(r"\1", text))


def _readings(text: str) -> tuple[str, ...]:
    """Return the text as one line with its list markers and, where that differs, without."""
    plain = _plain(text)
    return tuple(dict.fromkeys(" ".join(form.split()) for form in (plain, _MARKER.sub("", plain))))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))


class Text:
    """A text, normalised once for all the questions asked of it."""

    def __init__(self, text: str) -> None:
        self.raw = text
        self.readings = _readings(text)
        self.words = [_words(reading) for reading in self.readings]
        self.joined = [f" {' '.join(words)} " for words in self.words]
        self.grams = {gram for words in self.words for gram in _grams(words, _GRAM)}

    def has_fragment(self, fragment: str) -> bool:
        """Tell whether the fragment stands in the text, letter by letter."""
        forms = _readings(fragment)
        return any(form in reading for form in forms for reading in self.readings)

    def has_step(self, step: str) -> bool:
        """Tell whether nine tenths of the step's word 3-grams are in the text; a shorter one must stand there whole."""
        return any(self._has_words(_words(form)) for form in _readings(step))

    def _has_words(self, words: Sequence[str]) -> bool:
        grams = _grams(words, _GRAM)
        if not grams:
            return not words or any(f" {' '.join(words)} " in joined for joined in self.joined)
        return sum(gram in self.grams for gram in grams) >= _FOUND * len(grams)

    def has_ingredient(self, ingredient: str) -> bool:
        """Tell whether the ingredient's words stand together, in any order: amount and name may be two cells or lines."""
        return any(self._has_near(_words(form)) for form in _readings(ingredient))

    def _has_near(self, wanted: Sequence[str]) -> bool:
        if not wanted or any(f" {' '.join(wanted)} " in joined for joined in self.joined):
            return True
        need, reach = set(wanted), len(wanted) + 4
        for words in self.words:
            if not need <= set(words):
                continue
            rarest = min(need, key=words.count)
            places = (place for place, word in enumerate(words) if word == rarest)
            if any(need <= set(words[max(0, place - reach) : place + reach + 1]) for place in places):
                return True
        return False


def fragment_counts(text: Text, gold: dict[str, Any]) -> Counts:
    must, must_not = ([text.has_fragment(fragment) for fragment in gold[key]] for key in ("with", "without"))
    return Counts(tp=sum(must), fn=len(must) - sum(must), fp=sum(must_not), tn=len(must_not) - sum(must_not))


def recipe_counts(text: Text, gold: dict[str, Any]) -> tuple[Counts, Counts]:
    """Return found and missing instruction steps, and ingredients."""
    steps = [text.has_step(step) for step in gold["steps"]]
    ingredients = [text.has_ingredient(ingredient) for ingredient in gold["ingredients"]]
    return (
        Counts(tp=sum(steps), fn=len(steps) - sum(steps)),
        Counts(tp=sum(ingredients), fn=len(ingredients) - sum(ingredients)),
    )


def missing_of(text: Text, gold: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the gold that is not in the text, and what is there and must not be."""
    if "with" in gold:
        missing = [fragment for fragment in gold["with"] if not text.has_fragment(fragment)]
        return missing, [fragment for fragment in gold["without"] if text.has_fragment(fragment)]
    missing = [step for step in gold["steps"] if not text.has_step(step)]
    return missing + [one for one in gold["ingredients"] if not text.has_ingredient(one)], []


def shingle_counts(text: Text, expected: Text) -> Counts:
    """Compare the word 4-grams of a text with the expected one's, repeats counted; list markers are left out."""
    ours, theirs = (Counter(_grams(each.words[-1], _SHINGLE)) for each in (text, expected))
    common = (ours & theirs).total()
    return Counts(tp=common, fn=theirs.total() - common, fp=ours.total() - common)


class Chrome(NamedTuple):
    """Word 3-grams, and whole lines, that a page has in elements it marks as something other than content, and elsewhere."""

    inside: frozenset[tuple[str, ...]]
    outside: frozenset[tuple[str, ...]]


def chrome_of(html: str, gold: dict[str, Any]) -> Chrome:
    """Split the page's words by its own marks (tag, role, class, id); an element that holds a gold step is content."""
    tree = LexborHTMLParser(html)
    for node in tree.css("script, style, noscript, template"):
        node.decompose()
    body = tree.body
    inside: list[str] = []
    if body is None:
        return Chrome(frozenset(), frozenset())
    steps = [_words(reading) for step in gold["steps"] for reading in _readings(step)]
    needles = {f" {' '.join(words[:6])} " for words in steps if len(words) >= 4}
    for node in body.css("nav, footer, aside, [role], [class], [id]"):
        if not _is_chrome(node) or node.parent is None:
            continue
        words = " ".join(_words(_plain(node.text(separator=" "))))
        if not any(needle in f" {words} " for needle in needles):
            inside.append(words)
            node.decompose()
    outside = _words(_plain(body.text(separator=" ")))
    return Chrome(frozenset(_pieces([words.split() for words in inside])), frozenset(_pieces([outside])))


def _is_chrome(node: Any) -> bool:
    if node.tag in _NEVER_CHROME:
        return False
    given = node.attributes
    if node.tag in _CHROME_TAGS or (given.get("role") or "").lower() in _CHROME_ROLES:
        return True
    said = f"{given.get('class') or ''} {given.get('id') or ''}".lower()
    return not _CHROME.isdisjoint(re.split(r"[^a-z]+", said))


def _pieces(parts: Sequence[Sequence[str]]) -> set[tuple[str, ...]]:
    return {gram for words in parts for n in (1, 2, _GRAM) for gram in _grams(words, n)}


def boilerplate_chars(text: Text, chrome: Chrome) -> Counts:
    """Count characters of the text's lines that the page has only in chrome (`fp`), and of all other lines (`tp`)."""
    counts = [0, 0]
    for line in text.raw.splitlines():
        words = _words(_MARKER.sub("", _plain(line)))
        grams = _grams(words, min(_GRAM, len(words))) if words else []
        if grams:
            only = sum(gram in chrome.inside and gram not in chrome.outside for gram in grams)
            counts[only > len(grams) / 2] += len(line)
    return Counts(tp=counts[0], fp=counts[1])
