"""Pages that would cost far more than their size: told before they are parsed.

In: a page's bytes. Out: what is wrong, or None. lexbor's time grows with the square of the elements that are open at once, of the
attributes of one tag and of the choices of one `<select>`; and where `<b 1><b 2>...` is never closed, every paragraph begins all of
them again, which makes gigabytes of a few kilobytes. Tags are counted, not parsed: the bounds are rough, linear, and far from
what pages hold (none of the 6,414 real pages of the tests comes near); small pages are let through, because they cannot cost much.
"""

from __future__ import annotations

import re
from collections import defaultdict

__all__ = ["MAX_ATTRIBUTES", "MAX_CHOICES", "MAX_OPEN", "MAX_REOPENED", "too_costly"]

MAX_OPEN = 1_000
"""Elements open at once (browsers: 512)."""
MAX_REOPENED = 4_000_000
"""Formatting elements that blocks may begin again: for each block, those that are open."""
MAX_ATTRIBUTES = 2_000
"""Attributes of one tag."""
MAX_CHOICES = 10_000
"""Options of all `<select>`s."""

_FEW_TAGS = 4_000
"""A page with fewer `<` than this is parsed in a second or two at the very worst."""
_FEW_BYTES = 400_000
"""Fewer bytes hold too few attributes to take more than a second or two."""
_LARGE_BYTES = 4_000_000
_ATTRIBUTE = rb"[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:\"[^\"]*+\"?+|'[^']*+'?+|[^\s\"'>][^\s>]*+)?+)?+"
_INSIDE = rb"(?:[\s/]++|%b)*+" % _ATTRIBUTE
_TAG = (
    re.compile(  # what only looks like a tag, in comments, scripts and attributes, is passed over as a browser does it
        rb"<(?:!--(?:-?>|.*?(?:--!?>|\Z))"
        rb"|(script|style|textarea|title|xmp|iframe|noembed|noframes)(?=[\s/>])%(i)b>?+.*?(?:</\1(?=[\s/>])|\Z)"
        rb"|(/?)([A-Za-z][^\s/>]*+)%(i)b)" % {b"i": _INSIDE},
        re.DOTALL | re.IGNORECASE,
    )
)
_MANY_ATTRIBUTES = re.compile(rb"</?[A-Za-z][^\s/>]*+(?:[\s/]*+%b){%d}+" % (_ATTRIBUTE, MAX_ATTRIBUTES))
_ENDED_ALONE = frozenset(
    b"area base br col embed hr img input link meta param source track wbr "  # void
    b"li option optgroup tr td th tbody thead tfoot colgroup caption dt dd "  # ended by the next of their kind
    b"path rect circle ellipse line polyline polygon use stop".split()  # of drawings, ended by a slash
)
_FORMATTING = frozenset(b"a b big code em font i nobr s small strike strong tt u".split())


def too_costly(page: bytes) -> str | None:
    """Return why a page is not to be parsed, or None."""
    if page.count(b"<") > _FEW_TAGS and (fault := _open_at_once(page)):
        return fault
    if len(page) > _FEW_BYTES and _MANY_ATTRIBUTES.search(page):
        return f"a tag has {MAX_ATTRIBUTES:,} attributes or more"
    return None


def _open_at_once(page: bytes) -> str | None:
    opened: defaultdict[bytes, int] = defaultdict(int)
    depth = formatting = reopened = choices = 0
    large = len(page) > _LARGE_BYTES  # a list of all its tags would be many times its size
    for _, closing, raw in (found.groups(b"") for found in _TAG.finditer(page)) if large else _TAG.findall(page):
        name = raw.lower()
        if not name:
            continue
        if name == b"p":  # ended by the next block: begun for itself, and begins again what is open
            reopened += formatting
        elif name in _ENDED_ALONE:
            choices += name == b"option"
        elif not closing:
            opened[name] += 1
            depth += 1
            if name in _FORMATTING:
                formatting += 1
            else:
                reopened += formatting
            if depth > MAX_OPEN:
                return f"more than {MAX_OPEN:,} elements are open at once"
        elif opened[name]:
            opened[name] -= 1
            depth -= 1
            formatting -= name in _FORMATTING
    if reopened > MAX_REOPENED:
        return f"elements that are not closed are begun again more than {MAX_REOPENED:,} times"
    return f"its lists have more than {MAX_CHOICES:,} choices" if choices > MAX_CHOICES else None
