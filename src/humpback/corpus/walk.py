"""One pass over a page's tree: its blocks of text as Markdown, each with the box it stands in, without the boilerplate.

In: lexbor's body. Out: `Raw` blocks and `Box`es in document order. Each node is looked at once, an element that a rule drops is
not entered, and what is measured to decide that is bounded: time is proportional to the page, and nothing recurses.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

from humpback.corpus.boilerplate import DROPPED_TAGS, VOID_TAGS, dropped_names, dropped_role, hidden_style, noise_header
from humpback.corpus.collector import ANCHOR, BREAK, DEFINITION, TERM, TEXT, Collector, ListFrame, TableFrame
from humpback.corpus.dropped import dropped_part, ink
from humpback.corpus.maincontent import Box

__all__ = ["Walk"]

_GONE, _DROP, _LINK, _BOLD, _CODE, _BREAK, _FONT, _UNNAMED = range(-1, 7)
"""What an element is to the walk. Of those up to _UNNAMED no id or class name is looked at, and those above _HEADER are blocks."""
_INLINE, _HEADER, _BOX, _TEXT, _ITEM, _LIST, _PRE, _TABLE, _ROW, _CELL, _QUOTE, _TERM, _DEFINITION = range(7, 20)
_KINDS: dict[str, int] = {
    **dict.fromkeys(DROPPED_TAGS, _DROP),
    **dict.fromkeys(("-comment", "-doctype", *VOID_TAGS), _GONE),  # these hold no text
    "a": _LINK,
    **dict.fromkeys(("b", "strong"), _BOLD),
    **dict.fromkeys(("code", "kbd", "samp", "tt"), _CODE),
    "br": _BREAK,
    "font": _FONT,
    **dict.fromkeys(
        "span em i u s strike del ins small big sub sup abbr acronym cite q mark time label wbr bdi bdo data dfn var ruby rb nobr "
        "output slot".split(),
        _INLINE,
    ),
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), _HEADER),
    "p": _TEXT,
    "li": _ITEM,
    **dict.fromkeys(("ul", "ol", "dl", "dir"), _LIST),
    **dict.fromkeys(("pre", "listing", "xmp", "plaintext"), _PRE),
    "table": _TABLE,
    "tr": _ROW,
    **dict.fromkeys(("td", "th"), _CELL),
    "blockquote": _QUOTE,
    "dt": _TERM,
    "dd": _DEFINITION,
    "hr": _TEXT,
}
_DOUBTFUL = ("form", "header")
"""Elements that wrap a whole page as often as they hold a search box or a site's name."""
_FONT_LEVELS = {"7": 1, "6": 2, "5": 3, "4": 4, "+4": 1, "+3": 2, "+2": 3, "+1": 4}
_WORDS = re.compile(r"[^\W_]+")
_TARGET = frozenset(("id", "name"))
_TELLING = frozenset(("hidden", "style", "role", "aria-hidden"))
_MAX_HEADER = 300
_MAX_NAMES = 1_000
"""Characters of ids and class names that are looked at: what was found for them is remembered."""
_MEASURES = 200
"""Elements that may be measured and then kept: each costs at most the page once more, so that time stays proportional to it."""


class Walk(Collector):
    """One pass over a body: blocks in document order, each with the box it stands in."""

    def __init__(self) -> None:
        super().__init__()
        self._headers = 0
        self._body: LexborNode | None = None
        self._chars = -1
        self._measures = 0

    def run(self, body: LexborNode) -> None:
        self._body = body
        kinds, buffer = _KINDS, self._buffer
        stack: list[tuple[LexborNode, int]] = []
        node = body.first_child
        while True:
            if node is None:
                if not stack:
                    break
                node, kind = stack.pop()
                if kind == _LINK:
                    self._links -= 1
                elif kind > _HEADER:
                    if buffer:
                        self._flush()
                    if kind != _TEXT:
                        self._leave_block(kind)
                elif kind != _INLINE:
                    self._leave(kind)
                node = node.next
                continue
            tag = node.tag
            if tag == "-text":
                text = node.text_content
                if text and (buffer or not text.isspace()):  # white space alone begins no block
                    buffer.append(text)
                    if self._links or self._bolds or self._fonts:
                        self._measure_inline(text)
                node = node.next
                continue
            kind = kinds.get(tag, _BOX) if tag else _DROP
            if kind > _UNNAMED:
                attributes = node.attributes
                if attributes or tag in _DOUBTFUL:
                    kind = self._judge(node, tag or "", kind, attributes)
            if kind <= _DROP:
                if kind == _DROP and node.first_child is not None:
                    self._drop(node, f"<{tag}>", node.attributes)
                node = node.next
                continue
            if kind == _LINK:
                attributes = node.attributes
                if attributes.keys() <= _TARGET:
                    kind = _INLINE  # the target `<a id="x"/>` of XHTML, which as HTML stays open
                else:
                    self._links += 1
            elif kind > _HEADER and not self._headers:
                if buffer:
                    self._flush()
                if kind == _BOX:
                    self._open_box(tag or "")
                elif kind == _PRE:
                    self._pre(node)
                    node = node.next
                    continue
                elif kind != _TEXT:
                    self._enter_block(tag or "", kind)
            elif kind != _INLINE:
                kind = self._enter(node, tag or "", kind)
            child = node.first_child
            if child is None:
                if kind == _LINK:
                    self._links -= 1
                elif kind > _HEADER:
                    if buffer:
                        self._flush()
                    if kind != _TEXT:
                        self._leave_block(kind)
                elif kind != _INLINE:
                    self._leave(kind)
                node = node.next
            else:
                stack.append((node, kind))
                node = child
        self._flush()

    # -- elements --------------------------------------------------------------------------------------------------

    def _judge(self, node: LexborNode, tag: str, kind: int, attributes: dict[str, str | None]) -> int:
        """Return the element's kind in the light of its attributes: boilerplate is dropped, a header may be no `h1`."""
        measures = self._measures
        rule = self._rule(node, tag, kind, attributes)
        if rule:
            self._measures = measures  # what is dropped is never looked at again
            self._drop(node, rule, attributes)
            return _GONE
        return _HEADER if "role" in attributes and attributes["role"] == "heading" else kind

    def _rule(self, node: LexborNode, tag: str, kind: int, attributes: dict[str, str | None]) -> str | None:
        """Return the rule by which an element and all below it is dropped."""
        if tag in _DOUBTFUL and self._is_small(node, 0.25) and not node.css_first("h1,h2"):
            return f"<{tag}>"
        if not _TELLING.isdisjoint(attributes):  # few elements have any of these
            if "hidden" in attributes or hidden_style(attributes.get("style")):
                return "hidden"
            role = attributes.get("role")
            if role is not None and dropped_role(role):
                return f"role={role}"
            if attributes.get("aria-hidden") == "true" and self._is_small(node, 0.1):
                return "aria-hidden"
        names = attributes.get("class") or ""
        own = attributes.get("id")
        if own and kind not in (_HEADER, _TERM):  # theirs are made of their words
            names = f"{own} {names}"
        if names and (found := dropped_names(names[:_MAX_NAMES])):
            name, small = found
            if self._is_small(node, 0.1 if small else 0.5) and not (own and _is_section(node, own)):
                return f"named {name}"
        return None

    @property
    def _total(self) -> int:
        """Characters of text on the page; most pages of a manual never ask."""
        if self._chars < 0 and self._body is not None:
            self._chars = len(self._body.text())
        return self._chars

    def _is_small(self, node: LexborNode, share: float) -> bool:
        """Tell whether the element holds less than a share of the page's text. What is measured is bounded."""
        if self._measures >= _MEASURES:
            return False
        self._measures += 1
        return len(node.text()) <= max(share * self._total, 200)

    def _enter(self, node: LexborNode, tag: str, kind: int) -> int:
        """Take note of an element that is begun; return how it is to be left."""
        if kind == _BOLD:
            self._bolds += 1
            return kind
        if kind == _CODE:
            self._buffer.append("`")
            self._marks += 1
            return kind
        if kind == _BREAK:
            self._buffer.append(BREAK)
            return kind
        if kind == _FONT:
            self._fonts.append(_FONT_LEVELS.get((node.attributes.get("size") or "").strip(), 0))
            return kind
        if self._headers:  # a header is one line, whatever it is made of
            self._buffer.append(" ")
            return _INLINE
        self._flush()
        if not self._is_header(node):
            self._open_box(tag)
            return _BOX
        self._headers += 1
        self.level = _level_of(node, tag)
        return kind

    def _enter_block(self, tag: str, kind: int) -> None:
        if kind == _LIST:
            self._lists.append(ListFrame(tag == "ol", self._kind))
            self._kind = TEXT
            if len(self._lists) == 1:
                self._groups += 1
            self._open_box(tag)
        elif kind == _ITEM:
            self._begin_item()
        elif kind in (_TERM, _DEFINITION):
            self._kind = TERM if kind == _TERM else DEFINITION
        elif kind == _QUOTE:
            self._quotes += 1
        elif kind == _TABLE:
            self._tables.append(TableFrame(len(self.blocks)))
            self._open_box(tag)
        elif kind == _ROW:
            if self._tables:
                self._tables[-1].rows.append([])
        elif kind == _CELL and self._tables:
            self._tables[-1].start = len(self.blocks)

    def _leave(self, kind: int) -> None:
        if kind == _BOLD:
            self._bolds -= 1
        elif kind == _CODE:
            self._buffer.append("`")
            self._marks += 1
        elif kind == _FONT:
            self._fonts.pop()
        elif kind == _HEADER:
            self._headers -= 1
            self._end_header()

    def _leave_block(self, kind: int) -> None:
        if kind in (_BOX, _LIST, _TABLE):
            if kind == _LIST:
                self._kind = self._lists.pop().outer
            elif kind == _TABLE:
                self._end_table(self._tables.pop())
            self._box = self.boxes[self._box].parent
        elif kind == _QUOTE:
            self._quotes -= 1
        elif kind == _CELL and self._tables and self._tables[-1].rows:
            table = self._tables[-1]
            table.rows[-1].append((table.start, len(self.blocks)))
        elif kind in (_TERM, _DEFINITION):
            self._kind = TEXT
        elif kind == _ITEM:
            self._marker = ""

    def _open_box(self, tag: str) -> None:
        self.boxes.append(Box(parent=self._box, tag=tag))
        self._box = len(self.boxes) - 1

    def _drop(self, node: LexborNode, rule: str, attributes: dict[str, str | None]) -> None:
        words = node.text(separator=" ").split()
        if not words:
            return
        names = "".join(f".{name}" for name in (attributes.get("class") or "").split())
        own = f"#{attributes['id']}" if attributes.get("id") else ""

        def links() -> int:
            return sum(ink(link.text()) for link in node.css("a"))

        part = dropped_part(rule, f"{node.tag}{own}{names}", " ".join(words), sum(map(len, words)), links)
        self.dropped.append(part)

    def _is_header(self, node: LexborNode) -> bool:
        """Tell whether a header element holds a header: one that was never closed holds the rest of the page."""
        if self._measures >= _MEASURES:
            return False
        if len(node.text()) <= _MAX_HEADER:
            return True
        self._measures += 1
        return False


def _is_section(node: LexborNode, own: str) -> bool:
    """Tell whether an element's id is made of the words of the header it begins with, and these name no boilerplate."""
    child = node.first_child
    for _ in range(4):
        if child is None or _KINDS.get(child.tag or "") == _HEADER:
            break
        child = child.next
    if child is None or _KINDS.get(child.tag or "") != _HEADER:
        return False
    title = ANCHOR.sub("", " ".join(child.text().split()))
    return _WORDS.findall(own.lower()) == _WORDS.findall(title.lower()) and not noise_header(title)


def _level_of(node: LexborNode, tag: str) -> int:
    if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
        return int(tag[1])
    stated = (node.attributes.get("aria-level") or "").strip()
    return min(max(int(stated[-3:]), 1), 6) if stated.isdecimal() else 2
