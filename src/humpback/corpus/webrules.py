"""What web pages in general fail by: rules of Gopher, C4 and FineWeb, fitted to segments of 600 to 3,000 characters.

Sources: Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A.1), C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2)
and FineWeb (Penedo et al. 2024, arXiv 2406.17557). They judge whole pages; a segment is a piece of one, and is Markdown.
So all rules look at the prose only (`Text.prose`: no code, tables, addresses), a list is never a fault by being a list, and
each rule says where its number is not the published one. C4's bar on curly brackets and bad words is not here: code
is wanted, and word lists drop whole topics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from operator import mul

from humpback.corpus.analysis import Text, is_list_item
from humpback.corpus.language import find_language

__all__ = ["boilerplate", "line_ends", "repeated_lines", "stop_words", "symbols", "word_lengths"]

_STOP_WORDS = {
    "en": frozenset("the be to of and that have with".split()),
    "de": frozenset("der die das und ist nicht mit ein eine zu in den auf für".split()),
    "fr": frozenset("le la les des et est une dans pour que avec du".split()),
    "es": frozenset("el la los las que una para con por del es y".split()),
    "it": frozenset("il la che di per una con del non sono e gli".split()),
    "nl": frozenset("de het een van en is niet met voor dat op te".split()),
    "pt": frozenset("o os as que uma para com não do da em e".split()),
}
_MIN_STOP_WORDS = 2
_MIN_GUESS = 0.5
_MIN_WORDS = 20
"""A segment whose prose is shorter than this says too little about its words."""
_WORD_LENGTHS = (3.0, 10.0)
_MIN_ALPHABETIC = 0.6
_MAX_SYMBOLS = 0.1
_MAX_ELLIPSES = 0.3
_MAX_BULLETS = 0.9
_MIN_BULLET_WORDS = 3.0
_MIN_LINES = 6
"""Fewer lines say too little about how lines begin and end."""
_MIN_LINE_ENDS = 0.12
_WRAPPED = 45
"""Lines of a hard-wrapped paragraph are at least this long on average."""
_MAX_REPEATED_LINES = 0.3
_MAX_REPEATED_CHARS = 0.2
_MAX_TOP_GRAM = 0.25
_SHOWN = 80

_ELLIPSIS = re.compile(r"\.\.\.+|\u2026")
_HASH = re.compile(r"#(?!#|[\[!])")
_BULLET = re.compile(r"[-*+\u2022\u25cf\u25e6\u2023](?:\s|$)")
_TERMINAL = re.compile(
    r"[.!?\u2026:;\u3002\uff01\uff1f\uff1a\uff1b\u0964\u06d4\u061f\u0589\u1362][\"'\u201d\u2019\u00bb\u300d)\]*_`]*$"
)
_SENTENCES = re.compile(r".{60}[.!?][\"'\u201d\u2019)]?\s")
"""A long line with a sentence end inside: prose, though it may end in a name or a note mark."""
_HEADER = re.compile(r"#{1,6}\s|\*\*[^*]+\*\*:?$|__[^_]+__:?$|[=-]{3,}$")

_FILLER = "lorem ipsum dolor"
_BOILERPLATE = {
    "javascript": ("enable javascript", "javascript is disabled", "javascript enabled", "requires javascript"),
    "cookies": ("uses cookies", "use cookies", "use of cookies", "accept cookies", "all cookies", "verwendet cookies"),
    "cookie": ("cookie policy", "cookie settings", "cookie preferences", "cookie notice"),
    "privacy": ("privacy policy", "privacy notice", "privacy statement"),
    "terms": ("terms of use", "terms of service", "terms and conditions", "terms & conditions"),
    "rights": ("all rights reserved",),
    "rechte": ("alle rechte vorbehalten",),
    "datenschutzerkl\u00e4rung": ("datenschutzerkl\u00e4rung",),
    "newsletter": (
        "our newsletter",
        "newsletter sign",
        "the newsletter",
        "newsletter abonnieren",
        "newsletter anmelden",
    ),
    "subscribe": ("subscribe to", "subscribe now", "subscribe for"),
    "mailing": ("join our mailing list", "to our mailing list"),
    "click": ("click here",),
    "follow": ("follow us on", "follow me on"),
    "share": ("share this ", "share on ", "share via "),
    "tweet": ("tweet this",),
    "log": ("log in to", "please log in"),
    "sign": ("sign in to", "sign up for", "sign up to"),
    "add": ("add to cart", "add to basket", "add to wishlist"),
    "shipping": ("free shipping",),
    "buy": ("buy now",),
    "comment": ("leave a comment", "post a comment", "add a comment"),
    "reply": ("leave a reply", "cancel reply"),
    "posted": ("posted by", "posted in", "posted on"),
    "filed": ("filed under",),
    "skip": ("skip to content", "skip to main content"),
    "advertisement": ("advertisement",),
}
"""A word of the text, casefolded, to the phrases that are looked for when it is there."""
_BOILERPLATE_LINE = 120
"""Longer lines are paragraphs that speak of a thing, shorter ones are the thing."""
_MIN_BOILERPLATE_KINDS = 2
_MAX_BOILERPLATE_LINES = 3
_MAX_BOILERPLATE = 0.2


def stop_words(text: Text) -> str | None:
    """Return how many when the text holds fewer than two of its language's commonest words.

    Gopher: at least 2 of the, be, to, of, and, that, have, with. Ours: lists of six more languages. When no language is
    stated, any list may be met, and a text in a language without a list passes, as do scripts without spaces and texts that
    are mostly list items (ingredients, commands: `symbols` knows menus).
    """
    if len(text.words) < _MIN_WORDS or text.unspaced or (text.language and text.language not in _STOP_WORDS):
        return None
    lists = [_STOP_WORDS[text.language]] if text.language else _STOP_WORDS.values()
    found = 0
    for words in lists:
        found = max(found, len(words & text.vocabulary))
        if found >= _MIN_STOP_WORDS:
            return None
    if 2 * sum(map(is_list_item, text.lines)) > len(text.lines):
        return None
    if not text.language:
        guess = find_language(text.text)
        if guess.code not in _STOP_WORDS and guess.score >= _MIN_GUESS:
            return None
    return f"{found} of the commonest words of the language, below {_MIN_STOP_WORDS}"


def word_lengths(text: Text) -> str | None:
    """Return the figure when words are too short or too long on average, or too many of them are numbers.

    Gopher: a mean of 3 to 10 characters between spaces; a letter in at least 80 % of the words. Ours is 60 %: the
    words here are cut at punctuation, so "4,242,048" is three, and a list of ingredients is full of amounts. Scripts without
    spaces pass.
    """
    if len(text.words) < _MIN_WORDS or text.unspaced:
        return None
    low, high = _WORD_LENGTHS
    mean = text.prose_ink / text.tokens
    if not low <= mean <= high:
        return f"words have {mean:.1f} characters on average, outside {low:g} to {high:g}"
    share = 1 - sum(map(str.isnumeric, text.words)) / len(text.words)
    return f"{share:.0%} of the words are no numbers, below {_MIN_ALPHABETIC:.0%}" if share < _MIN_ALPHABETIC else None


def symbols(text: Text) -> str | None:
    """Return the figure when hashes, ellipses or short bullets are too many.

    Gopher: at most 0.1 hashes and 0.1 ellipses per word, at most 90 % of the lines begin with a bullet, at most 30 % end in
    an ellipsis. Ours: hashes of Markdown headers and of Rust attributes do not count; bullets do where the items are menu entries,
    under 3 words on average (lists of steps and ingredients are longer); lines are judged from 6 lines on.
    """
    words = len(text.words)
    if not words:
        return None
    ellipses = "..." in text.text or "\u2026" in text.text
    if (
        "#" in text.text
        and (found := sum(len(_HASH.findall(line.lstrip("#"))) for line in text.lines)) > _MAX_SYMBOLS * words
    ):
        return f"{found / words:.2f} hashes per word, above {_MAX_SYMBOLS:g}"
    if ellipses and (found := _count(_ELLIPSIS, text.prose)) > _MAX_SYMBOLS * words:
        return f"{found / words:.2f} ellipses per word, above {_MAX_SYMBOLS:g}"
    if len(text.lines) < _MIN_LINES:
        return None
    if ellipses:
        share = sum(line.endswith(("...", "\u2026")) for line in text.lines) / len(text.lines)
        if share > _MAX_ELLIPSES:
            return f"{share:.0%} of the lines end in an ellipsis, above {_MAX_ELLIPSES:.0%}"
    if words >= _MIN_BULLET_WORDS * len(text.lines):
        return None
    bullets = sum(1 for line in text.lines if _BULLET.match(line)) / len(text.lines)
    if bullets > _MAX_BULLETS and not text.unspaced:
        mean = words / len(text.lines)
        return f"{bullets:.0%} of the lines are bullets, of {mean:.1f} words on average, below {_MIN_BULLET_WORDS:g}"
    return None


def line_ends(text: Text) -> str | None:
    """Return the share when too few lines end as sentences do.

    FineWeb: at most 12 % of the lines end in terminal punctuation. There a line is a paragraph, so a hard-wrapped paragraph
    is one line here too. Ours: list items, headers, tables and quotes are not lines; a colon or semicolon is an end too (a
    list follows), and so is a sentence end inside a long line (a quotation, then its author); fewer than 6 lines
    pass, and so does a text in which lists and ended lines hold half of the characters (a recipe amid its labels), and a
    script without spaces (FineWeb's number is for English).
    """
    if len(text.lines) < _MIN_LINES or text.unspaced:
        return None
    lines = [line for block in text.prose for line in _paragraphs(block)]
    if len(lines) < _MIN_LINES:
        return None
    ended = sum(1 for line in lines if _ends(line))
    if ended > _MIN_LINE_ENDS * len(lines):
        return None
    others = sum(len(line) for line in text.lines if is_list_item(line) or _ends(line))
    if 2 * others >= sum(map(len, text.lines)):
        return None
    return f"{ended} of {len(lines)} lines end in punctuation, not above {_MIN_LINE_ENDS:.0%}"


def repeated_lines(text: Text) -> str | None:
    """Return the figure when lines, or one phrase of 2 to 4 words, come again and again.

    Gopher: duplicate lines are at most 30 % of the lines and 20 % of their characters; the commonest 2-, 3- and 4-gram hold
    at most 20, 18 and 16 % of the characters of words. Ours: lines without a word do not count, and 30 % of the lines must
    be 10 % of the characters; the commonest n-gram may hold 25 %, since a short text names its subject often ("temporary
    hit points"). FineWeb's 1 % for characters of duplicate lines is for whole pages: here one repeated label would reach it.
    Gopher's shares of longer n-grams are the matter of `repeated_sentences`.
    """
    if len(text.lines) >= _MIN_LINES and len(set(text.lines)) < len(text.lines):
        counts = Counter(line for line in text.lines if any(map(str.isalnum, line)))
        share = sum(count - 1 for count in counts.values()) / len(text.lines)
        ink = sum(map(len, text.lines))
        chars = sum(len(line) * (count - 1) for line, count in counts.items()) / ink
        if chars > (_MAX_REPEATED_CHARS / 2 if share > _MAX_REPEATED_LINES else _MAX_REPEATED_CHARS):
            return f"{share:.0%} of the lines and {chars:.0%} of their characters are repeats"
    if len(text.words) < _MIN_WORDS:
        return None
    sizes = list(map(mul, map(len, text.counts), text.counts.values()))
    total = sum(sizes)
    for n in (2, 3, 4):
        if max(sizes) * n <= _MAX_TOP_GRAM * total:
            continue  # an n-gram has at most n times the characters of its largest word
        gram, count = _top_gram(text.words, n)
        share = sum(map(len, gram)) * count / total
        if count > 1 and share > _MAX_TOP_GRAM:
            return f"{' '.join(gram)[:_SHOWN]!r} holds {share:.0%} of the characters, above {_MAX_TOP_GRAM:.0%}"
    return None


def boilerplate(text: Text) -> str | None:
    """Return the phrases when the furniture of web sites takes up a good part of the segment, or it is filler text.

    C4: a line that speaks of JavaScript, and one with terms of use, privacy policy, cookie policy, uses cookies, use of
    cookies or use cookies, is cut out, and a page with lorem ipsum is dropped. Segments are kept whole, and some are *about*
    cookies. So ours are short lines (under 120 characters) with such a phrase, of two kinds or more: 3 lines, or 2 with 20 % of
    the characters. The phrases on newsletters, sharing, shops and comments are ours too.
    """
    if "ipsum" in text.vocabulary and _FILLER in text.folded:
        return f"{_FILLER!r} is filler text"
    words = sorted(_BOILERPLATE.keys() & text.vocabulary)
    if len(words) < _MIN_BOILERPLATE_KINDS:
        return None
    hits = {line: kind for line in text.lines if len(line) < _BOILERPLATE_LINE and (kind := _kind(line, words))}
    share = sum(map(len, hits)) / sum(map(len, text.lines))
    kinds = sorted(set(hits.values()))
    if len(kinds) < _MIN_BOILERPLATE_KINDS or (len(hits) < _MAX_BOILERPLATE_LINES and share < _MAX_BOILERPLATE):
        return None
    return f"{len(hits)} lines, {share:.0%} of the characters, on {', '.join(kinds)}"


def _count(pattern: re.Pattern[str], blocks: Sequence[str]) -> int:
    return sum(len(pattern.findall(block)) for block in blocks)


def _paragraphs(block: str) -> list[str]:
    """Return the lines of a block that may be expected to end a sentence."""
    lines = [line for line in map(str.strip, block.split("\n")) if line]
    if any(map(is_list_item, lines)):
        return []
    if len(lines) > 1 and sum(map(len, lines)) >= _WRAPPED * len(lines):
        return lines[-1:]
    return [line for line in lines if not _HEADER.match(line)]


def _ends(line: str) -> bool:
    return bool(_TERMINAL.search(line[-8:]) or _SENTENCES.search(line))


def _top_gram(words: Sequence[str], n: int) -> tuple[tuple[str, ...], int]:
    """Return the commonest n-gram and its count; of several, the longest."""
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    most = max(counts.values())
    return max((gram for gram, count in counts.items() if count == most), key=lambda gram: sum(map(len, gram))), most


def _kind(line: str, words: Sequence[str]) -> str:
    """Return the word whose boilerplate the line holds, or the empty string."""
    folded = line.casefold()
    return next(
        (word for word in words if word in folded and any(phrase in folded for phrase in _BOILERPLATE[word])), ""
    )
