"""What makes a segment unfit to be a response: each rule returns what it found, or None; `judge` runs those of the recipe.

The header rules and the sentence rule are the paper's; `mostly_not_text` is ours; those of web pages in general are in
`webrules.py`. Rules are pure and see one segment, through one shared `Text`, in time proportional to its length.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from humpback.corpus import webrules
from humpback.corpus.analysis import Text, is_list_item
from humpback.corpus.segments import NO_HEADER
from humpback.recipe import CorpusSettings, Filter
from humpback.records import Segment

__all__ = [
    "NAVIGATION_HEADERS",
    "Verdict",
    "header_empty",
    "header_navigation",
    "header_upper",
    "judge",
    "mostly_not_text",
    "repeated_sentences",
]

_NAVIGATION = """
about the author|about the authors|ad|ads|advertise|advertise with us|advertisement|advertisements|advertising
all posts|bibliography|breadcrumb|breadcrumbs|comment|comments|contact|contact us|contents|cookie policy
email newsletter|external links|feedback|follow us|footer|footnotes|forum|forums|free newsletter|further reading
get the newsletter|home|in this article|in this section|join our newsletter|keep reading|latest news|latest posts
leave a comment|leave a reply|links|log in|login|main menu|main navigation|menu|more articles|more from this site
more like this|more links|more resources|most popular|most read|navigation|newsletter|newsletter signup
newsletters|notes and references|on this page|other articles|other resources|page contents|permalink
popular posts|post navigation|privacy policy|quick link|quick links|quicklinks|read more|read next
recent comments|recent posts|recommended for you|recommended reading|references|related|related articles
related content|related links|related pages|related posts|related resources|related topics|see also|share
share this|share this article|share this page|share this post|sidebar|sign in|sign up|site map|sitemap
skip to content|social media|sponsored|sponsors|subscribe|subscribe to our newsletter|table of contents|tags
terms and conditions|terms of service|terms of use|toc|top stories|trending|useful links|you may also like
you might also like
"""
NAVIGATION_HEADERS = frozenset(_NAVIGATION.strip().replace("\n", "|").split("|"))
"""Headers, casefolded, of parts that help to get around a site rather than say something."""

_MIN_WORDS = 6
"""Shorter sentences are not compared: "See the example below." may well come twice."""
_MAX_REPEATED = 0.1
"""Share of the words of sentences: one sentence twice is more than that in the shortest segments only."""
_MAX_POSTINGS = 64
"""Sentences remembered per word 3-gram: bounds the work on a text of thousands of similar sentences."""
_MIN_LETTERS = 0.5
_MIN_PROSE = 0.5
_SHOWN = 80

_WORD = re.compile(r"\w+")
_Gram = tuple[str, str, str]


class Verdict(NamedTuple):
    """Why a segment is unfit."""

    reason: str
    """Name of the rule."""
    detail: str


def judge(segment: Segment, settings: CorpusSettings) -> Verdict | None:
    """Return the first of the recipe's filters that finds the segment unfit, or None when it is fit."""
    text = Text(segment.text, segment.language)
    for name in settings.filters:
        if detail := _RULES[name](segment, text, settings):
            return Verdict(name, detail)
    return None


def header_empty(segment: Segment) -> str | None:
    """Return the header when it has no letter or digit; a title, or no header at all, is not an empty one."""
    header = _header(segment)
    if not header or segment.header_path == segment.title or any(char.isalnum() for char in header):
        return None
    return "the header is empty" if header == NO_HEADER else f"header {header[:_SHOWN]!r} has no letter or digit"


def header_upper(segment: Segment) -> str | None:
    """Return the header when it shouts: all upper case, and more than one word or 6 letters.

    The paper's rule, taken at its word: it costs pages whose headers all shout ("HOW TO BAKE BREAD"), `corpus.filters` without it
    keeps them. Names are no shouting: `HTTP`, `3.2 HTML`, `SQLITE_OK_LOAD_PERMANENTLY` pass.
    """
    header = _header(segment)
    if not header.isupper() or "_" in header:
        return None
    words = [word for word in header.split() if any(map(str.isalpha, word))]
    if len(words) == 1 and sum(map(str.isalpha, words[0])) <= 6:
        return None
    return f"header {header[:_SHOWN]!r} is all upper case"


def header_navigation(segment: Segment) -> str | None:
    """Return the header when the whole of it, apart from case and punctuation, is a navigation header."""
    header = _header(segment)
    if " ".join(_WORD.findall(header.casefold())) not in NAVIGATION_HEADERS:
        return None
    return f"header {header[:_SHOWN]!r} is one of the navigation headers"


def mostly_not_text(text: Text) -> str | None:
    """Return the shares when letters are under half of the text, or prose (`Text.prose`) is. Whitespace counts nowhere."""
    if not text.ink:
        return "no text"
    letters = text.letters / text.ink
    if letters < _MIN_LETTERS:
        return f"letters are {letters:.0%} of the characters, below {_MIN_LETTERS:.0%}"
    prose = text.prose_ink / text.ink
    return f"prose is {prose:.0%} of the characters, below {_MIN_PROSE:.0%}" if prose < _MIN_PROSE else None


def repeated_sentences(text: Text, *, limit: float) -> str | None:
    """Return two sentences that are alike when such sentences hold more than a tenth of the words.

    Paper: segments with repetitive sentences, by the Jaccard similarity of n-grams between pairs of sentences. Two are alike when that
    of their word 3-grams is above the limit. Sentences have 6 words or more, and an item of a list that does not end as a sentence
    is none ("Sea salt and black pepper to taste" may stand in both lists of ingredients). Of two alike the later one counts.
    Exact for texts in which no 3-gram is in more than 64 sentences; beyond that the last 64 are compared, so that the
    work stays in proportion to the text. Scripts without spaces between words have no sentences of 6 words.
    """
    numbers = [number for number, words in enumerate(text.sentences) if len(words) >= _MIN_WORDS]
    pairs = _like_pairs([text.sentences[number] for number in numbers], limit)
    first = next(pairs, None)
    if first is None:
        return None
    written = text.written_sentences
    total = sum(len(text.sentences[number]) for number in numbers)
    repeated, told = 0, ""
    for one, other, similarity in itertools.chain([first], pairs):
        both = written[numbers[one]], written[numbers[other]]
        if not any(map(_is_fragment, both)):
            told = told or f"{similarity:.2f} above {limit:g}: {' / '.join(map(_shown, both))}"
            repeated += len(text.sentences[numbers[other]])
    if repeated <= _MAX_REPEATED * total:
        return None
    return f"{repeated / total:.0%} of the words are in sentences like others; {told}"


def _like_pairs(sentences: list[list[str]], limit: float) -> Iterator[tuple[int, int, float]]:
    """Yield each sentence that is like an earlier one: the earlier one, itself, and how alike they are."""
    grams = [set(zip(words, words[1:], words[2:], strict=False)) for words in sentences]
    seen: set[_Gram] = set()
    repeated: set[_Gram] = set()
    for own in grams:
        repeated |= own & seen
        seen |= own
    if not repeated:
        return
    kept: dict[_Gram, deque[int]] = defaultdict(lambda: deque(maxlen=_MAX_POSTINGS))
    for number, own in enumerate(grams):
        common = own & repeated
        if len(common) <= limit * len(own):
            continue  # were another sentence made of all that is common, it would still be too unlike this one
        shared = Counter(other for gram in common for other in kept[gram])
        for other, count in sorted(shared.items()):
            similarity = count / (len(own) + len(grams[other]) - count)
            if similarity > limit:
                yield other, number, similarity
                break
        for gram in common:
            kept[gram].append(number)


def _is_fragment(sentence: str) -> bool:
    """Tell whether a sentence is a header, or an item of a list that does not end as sentences do."""
    plain = sentence.strip()
    return plain.startswith("#") or (is_list_item(plain) and not plain.endswith((".", "!", "?", "\u2026")))


def _header(segment: Segment) -> str:
    return segment.header_path.rsplit(" > ", 1)[-1].strip()


def _shown(sentence: str) -> str:
    return repr(" ".join(sentence.split())[:_SHOWN])


_RULES: dict[Filter, Callable[[Segment, Text, CorpusSettings], str | None]] = {
    "header_empty": lambda segment, text, settings: header_empty(segment),
    "header_upper": lambda segment, text, settings: header_upper(segment),
    "header_navigation": lambda segment, text, settings: header_navigation(segment),
    "mostly_not_text": lambda segment, text, settings: mostly_not_text(text),
    "repeated_sentences": lambda segment, text, settings: repeated_sentences(text, limit=settings.max_repetition),
    "stop_words": lambda segment, text, settings: webrules.stop_words(text),
    "word_lengths": lambda segment, text, settings: webrules.word_lengths(text),
    "symbols": lambda segment, text, settings: webrules.symbols(text),
    "line_ends": lambda segment, text, settings: webrules.line_ends(text),
    "repeated_lines": lambda segment, text, settings: webrules.repeated_lines(text),
    "boilerplate": lambda segment, text, settings: webrules.boilerplate(text),
}
