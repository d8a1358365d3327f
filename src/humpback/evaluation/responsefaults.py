"""What the text of a response shows: faults that its text alone betrays, each a `Reading` from 0 (none) to 1 (plain).

In: a pair, with header path and source where they are known (a held-out pair has neither). They are evidence for calibration and
not rules to reject by: each docstring says where the idea is from, and `docs/log.md` how often each is wrong on human-written text.
Word lists are English. On text that is surely in another language, the signals that need them say nothing.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from humpback.corpus.language import find_language
from humpback.corpus.quality import NAVIGATION_HEADERS

__all__ = [
    "MIN_LETTERS",
    "SURE",
    "Reading",
    "TextPair",
    "cut_end",
    "first_person",
    "links",
    "mid_sentence",
    "navigation",
    "promotion",
    "tell_foreign",
]

SURE = 0.65
"""Least probability of a language that is believed (FineWeb's limit, as `corpus.min_language_score`)."""
MIN_LETTERS = 20
"""Shorter texts have no language that a model could tell."""


class Reading(NamedTuple):
    """What one signal says of one pair."""

    value: float | None
    """0 to 1; None when nothing can be said."""
    why: str
    """What was found, or why there is no value."""


class TextPair(NamedTuple):
    """What the signals look at."""

    instruction: str
    response: str
    header_path: str = ""
    source_uri: str = ""


def tell_foreign(text: str) -> str | None:
    """Return why English word lists say nothing of a text, or None."""
    if sum(map(str.isalpha, text[:1000])) < MIN_LETTERS:
        return None
    guess = find_language(text)
    return f"in {guess.code}, and the word list is English" if guess.code != "en" and guess.score >= SURE else None


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _bare(line: str) -> str:
    return _BULLET.sub("", line).strip()


_URL = re.compile(r"\[[^\]\n]{0,200}\]\([^)\n]{1,500}\)|<?https?://[^\s>)]{1,500}|\bwww\.[^\s>)]{1,300}")
_BULLET = re.compile(r"^\s*(?:[-*+•·‣–—#>|]+|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s*")
_WORDS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCES = re.compile(r"(?<=[.!?])[\"'”’)]*\s+|\n+")


def links(pair: TextPair) -> Reading:
    """The response is a list of links: share of its lines of which half or more is an address or a Markdown link.

    Link density of a block, as in boilerplate removal (Kohlschütter et al. 2010), read from the text.
    """
    lines = _lines(pair.response)
    if not lines:
        return Reading(None, "no text")
    linked = [line for line in lines if 2 * sum(len(found) for found in _URL.findall(line)) >= len(_bare(line))]
    share = len(linked) / len(lines)
    return Reading(share, f"{len(linked)} of {len(lines)} lines")


_DANGLING = re.compile(
    r"(?:(?:and|but|or|nor|yet)\s|(?:so|also|then|thus|hence|therefore|however|moreover|furthermore|nevertheless|nonetheless|"
    r"otherwise|instead|meanwhile|similarly|likewise|consequently|accordingly|additionally|besides|afterwards?|in addition|"
    r"on the other hand|as a result|for this reason|in contrast|by contrast|"
    r"as (?:mentioned|noted|described|shown|discussed|seen) (?:above|before|earlier|previously)),)",
    re.IGNORECASE,
)
_LEANING = frozenset(
    "a an the of to in on at for from by with and or but nor as than that which who whose is are was were be been has have had will "
    "would can could should may might must it its they their them he she his her we our you your this these those because if when "
    "while where so not also then there".split()
)
_CODE_LIKE = re.compile(r"\S*[(/=\[{<:_]|\S+\s+\S*[\w\])][._(=\[{<]\w|[a-z]\.")
"""First words that are code, an address or an abbreviation rather than a sentence."""


def mid_sentence(pair: TextPair) -> Reading:
    """The response begins inside a sentence: 1 with a lower-case function word or a comma, 0.5 with another lower-case word or one
    that leans on what came before ("However,").

    Names and code that begin in lower case (iPhone, e.g. `ls`), list items and scripts without case do not count.
    """
    text = pair.response.lstrip()
    first = text.split(None, 1)[0] if text else ""
    if not first:
        return Reading(None, "no text")
    if first[0] in ",;)]}" or (
        first[0] == "." and first[1:2].isalpha() and first[1:].islower() and "." not in first[1:]
    ):
        return Reading(1.0, f"begins {first[:20]!r}")
    word = first.strip("\"'“”‘’([{*_")
    plain = _WORDS.fullmatch(word.rstrip(".,;:!?)'\"”’]}*_"))
    if plain and word[0].islower() and word == word.lower() and not _CODE_LIKE.match(text):
        line = text.split("\n", 1)[0]
        if len(_WORDS.findall(line)) >= 4:  # `git`, `doctest`: manuals begin with a command's name
            return Reading(1.0 if plain.group() in _LEANING else 0.5, f"begins {first[:20]!r}")
    if found := _DANGLING.match(text):
        return Reading(0.5, f"begins {found.group().strip()!r}")
    return Reading(0.0, "")


_OPEN_ENDS = frozenset(
    "a an the of to in on at for from by with and or but nor as than that which who whose is are was were be been has have had "
    "this these those its their your our my his her into onto upon about between if because while when where such".split()
)
_CLOSED = frozenset(".!?…:;。！？｡।؟\"'”’»)]}>|`*_~=+/\\%°©®™")
_ENDED = re.compile(r"[^\W\d_]{2}[\"'”’)]*[.!?](?:\s|$)")
_MIN_LAST = 6


def cut_end(pair: TextPair) -> Reading:
    """The response stops before its end: 1 after a comma, a hyphen or a word that needs another, 0.5 without a full stop.

    A last line under 6 words, a list item, a table row, code or a figure needs no full stop, nor does a text that has none at all
    (C4's rule that a line ends in punctuation, read for the last line only).
    """
    lines = _lines(pair.response)
    if not lines:
        return Reading(None, "no text")
    last = lines[-1].rstrip()
    words = _WORDS.findall(last)
    if last[-1] in _CLOSED:
        return Reading(0.0, "") if last[-1] != "…" else Reading(0.5, "ends in an ellipsis")
    if not words:
        return Reading(0.0, "")
    if last[-1] in ",-–—(" or (words[-1].lower() in _OPEN_ENDS and last.endswith(words[-1])):
        return Reading(1.0, f"ends {last[-30:]!r}")
    if len(words) < _MIN_LAST or _BULLET.match(lines[-1]) or not last[-1].isalnum() or not words[-1].isascii():
        return Reading(0.0, "")
    open_lines = sum(line.rstrip()[-1] not in _CLOSED for line in lines)
    if not _ENDED.search(pair.response) or (len(lines) > 2 and 2 * open_lines > len(lines)):
        return Reading(0.0, "")  # nothing in it ends with a full stop, or its lines do not: a list, a verse, a habit
    return Reading(0.5, f"ends {last[-30:]!r}")


_I = re.compile(
    r"(?:^|[^\w\s]\s*|\b[a-z']+\s+|\b(?:When|If|As|What|While|Because|Since|But|And|So|That|Then|Here|Although|Though|After|Before|Once|"
    r"Whenever|Where|How|Why|Can|May|Should|Did|Do|Am|Have|Had|Would|Could|Will|Yes|No|Now|Today|Yesterday|Maybe|Also|All|Where)\s+)"
    r"I(?:'(?:m|d|ll|ve)\b|\s+(?!(?:chords?|and|or|of)\b)[a-z]+)"
)
"""I as a speaker: not King Moshoeshoe I, not I/O, not the I chord."""
_MINE = re.compile(r"\b(?:my|me|mine|myself)\b")
_QUOTED = re.compile(r"[\"“«][^\"”»\n]{0,600}[\"”»]")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_BLOG = re.compile(
    r"\b(?:(?:this|my|our|the) (?:blog|newsletter|channel|podcast)|blog post|in (?:this|my (?:last|previous|next)) post|"
    r"(?:thanks|thank you) for (?:reading|stopping by|visiting)|(?:leave|drop) (?:me )?a comment|in the comments(?: below| section)?|"
    r"let me know (?:in|what you think)|posted (?:by|on|in)|subscribe to|follow me|my (?:readers|followers|husband|wife|kids|mom|mum)|"
    r"dear readers?|guest post|hey (?:guys|everyone)|hi everyone|lol|imho|fwiw|op\b|thread|upvote)\b",
    re.IGNORECASE,
)
_BLOG_ADDRESS = re.compile(
    r"\b(?:blogs?|forums?|wordpress|blogspot|tumblr|medium\.com|livejournal|reddit)\b", re.IGNORECASE
)


def first_person(pair: TextPair) -> Reading:
    """The response tells of its author as a blog or forum does: the rubric's "from a blog/forum/personal view".

    Twice the share of its sentences outside quotes and code that speak of I, me or my (once when it is one); each phrase of a blog
    adds half of what is left to 1, an address of a blog or forum a quarter.
    """
    if foreign := tell_foreign(pair.response):
        return Reading(None, foreign)
    text = _QUOTED.sub(" ", _CODE.sub(" ", pair.response.replace("’", "'")))
    sentences = [part for part in _SENTENCES.split(text) if len(_WORDS.findall(part)) >= 3]
    if not sentences:
        return Reading(None, "no sentence")
    own = sum(bool(_I.search(part)) for part in sentences)
    if own:  # `my` alone is a word of manuals too ("open my account")
        own = sum(bool(_I.search(part) or _MINE.search(part)) for part in sentences)
    share = min(1.0, (2 if own > 1 else 1) * own / len(sentences))
    phrases = sorted({found.lower() for found in _BLOG.findall(pair.response)}) if share else []
    left = (1 - share) * 0.5 ** len(phrases) * (0.75 if share and _BLOG_ADDRESS.search(pair.source_uri) else 1.0)
    found = [f"{own} of {len(sentences)} sentences", *phrases[:3]]
    return Reading(1 - left, ", ".join(found) if left < 1 else "")


_SELLING = re.compile(
    r"\b(?:buy (?:now|yours|it now|today)|order (?:now|yours|today|online)|shop (?:now|online|our)|add to (?:cart|basket|bag)|"
    r"(?:sign up|register|join|book|call|apply|enrol|enroll|subscribe|start)(?: us)? (?:now|today)|"
    r"free (?:trial|shipping|delivery|quote|consultation)|limited[- ]time|special offers?|"
    r"money[- ]back|satisfaction guaranteed|click here|act now|don't miss|"
    r"hurry|(?:best|lowest|unbeatable|great|low) prices?|\d+ ?% off|save (?:up to )?[$£€]?\d+ ?%?|discounts?|coupons?|promo codes?|"
    r"on sale|in stock|bestsell(?:er|ing)|award[- ]winning|world[- ]class|industry[- ]leading|state[- ]of[- ]the[- ]art|"
    r"one[- ]stop|look no further|you'll love|perfect gift|risk[- ]free)\b",
    re.IGNORECASE,
)
_OFFERING = re.compile(
    r"\b(?:contact us|call us|our (?:products?|services?|team|customers?|clients?|experts?|store|shop|company|website|newsletter|"
    r"award)|we (?:offer|provide|specialise|specialize|deliver|pride|guarantee)|visit (?:our|us)|get in touch|learn more about our|"
    r"request a (?:quote|demo)|(?:follow|find|like) us on|subscribe)\b",
    re.IGNORECASE,
)


def promotion(pair: TextPair) -> Reading:
    """The response sells something: the rubric's "promotional text". 1 - exp(-(strong + weak/3) / 2 per 100 words).

    Strong are different phrases of an advertisement (buy now, free shipping), weak those of a company about itself (contact us).
    """
    if foreign := tell_foreign(pair.response):
        return Reading(None, foreign)
    text = _CODE.sub(" ", pair.response.replace("’", "'"))
    strong = sorted({found.lower() for found in _SELLING.findall(text)})
    weak = sorted({found.lower() for found in _OFFERING.findall(text)})
    hundreds = max(1.0, len(_WORDS.findall(text)) / 100)
    value = 1 - math.exp(-(len(strong) + len(weak) / 3) / 2 / math.sqrt(hundreds))
    return Reading(value, ", ".join([*strong, *weak][:4]))


_AROUND = re.compile(
    r"\b(?:skip to (?:main )?content|back to (?:top|home)|table of contents|read more|see also|view all|load more|show more|"
    r"previous (?:page|post|article|chapter|section)?|next (?:page|post|article|chapter)|"
    r"all rights reserved|privacy policy|cookie policy|terms (?:of (?:use|service)|and conditions)|site ?map|"
    r"log ?in|sign ?(?:in|up|out)|main menu|search this site|share (?:this|on)|"
    r"contact us|about us|related (?:articles|posts|links|topics)|you are here|copyright \d{4}|home ?(?:page)?)\b|©",
    re.IGNORECASE,
)
_MENU = re.compile(r"(?:[^|›»>•·\n]{1,30}(?:\||›|»| > | • | · )){2,}")


def navigation(pair: TextPair) -> Reading:
    """The response, or its part, helps to get around a site: the rubric's "navigation text".

    Share of its words in lines that are a menu (short pieces between bars or arrows) or under 8 words with a phrase of menus and
    footers; 1 when its header is one of `corpus/quality.py: NAVIGATION_HEADERS`.
    """
    header = " ".join(_WORDS.findall(pair.header_path.rsplit(" > ", 1)[-1].casefold()))
    if header in NAVIGATION_HEADERS:
        return Reading(1.0, f"header {header!r}")
    lines = _lines(pair.response)
    words = sum(len(_WORDS.findall(line)) for line in lines)
    if not words:
        return Reading(None, "no word")
    around = [line for line in lines if _is_navigation(line)]
    share = sum(len(_WORDS.findall(line)) for line in around) / words
    return Reading(share, around[0].strip()[:40] if around else "")


def _is_navigation(line: str) -> bool:
    if line.count("|") >= 2 and line.strip().startswith("|"):
        return False  # a row of a table
    short = len(_WORDS.findall(line)) < 8 and not line.rstrip().endswith((".", "?", "!", ";"))
    return bool(_MENU.search(line)) or (short and bool(_AROUND.search(_bare(line))))
