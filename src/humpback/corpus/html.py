"""The main content of an HTML page as a list of blocks: headers with their level, and text as Markdown.

In: a decoded page. Out: `Page`. The tree is lexbor's; it is walked once, from Python, over what is not boilerplate. Time and
memory are proportional to the page, whatever its nesting: nothing here recurses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from humpback.corpus.dropped import Dropped, block_chars, drop_blocks
from humpback.corpus.hostile import too_costly
from humpback.corpus.maincontent import keep_main, render
from humpback.corpus.walk import Walk

__all__ = ["Block", "CostlyPageError", "Dropped", "Page", "read_page"]

_MAX_TITLE = 300


class CostlyPageError(ValueError):
    """A page that would take far longer than its size: the message says why."""


class Block(NamedTuple):
    """A piece of the main content."""

    level: int
    """0 for text, 1 to 6 for a header."""
    text: str
    """Markdown of a paragraph, list, table, quote or piece of code; the words of a header."""

    def markdown(self) -> str:
        return f"{'#' * self.level} {self.text}" if self.level else self.text


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page's main content, and what its head says of it."""

    title: str
    licence: str
    """Address or name of the licence the page states (`rel=license`); empty when it does not."""
    time: str
    """Time of publication the page states, as it stands there."""
    blocks: tuple[Block, ...]
    main_chars: int
    """Characters of its main content that are no white space, as the page has them: without the marks of Markdown."""
    dropped: tuple[Dropped, ...]
    """What is not main content, and by which rule. All text of the body is here or in the blocks, but scripts and styles."""

    def text(self) -> str:
        """Return the main content as Markdown, before any length limit."""
        return "\n\n".join(block.markdown() for block in self.blocks)


def read_page(html: str) -> Page:
    """Return the page's main content; a page without any has no blocks. Raise CostlyPageError for a hostile page."""
    data = html.encode("utf-8", "replace")
    if fault := too_costly(data):
        raise CostlyPageError(fault)
    tree = LexborHTMLParser(data, scripting=True)  # else a <noscript> in the head ends it
    tree.strip_tags(["script", "style", "noscript"], recursive=True)  # else they count as text of what is measured
    head, body = tree.head, tree.body
    walk = Walk()
    if body is not None:
        walk.run(body)
    kept, refused = keep_main(walk.blocks, walk.boxes)
    return Page(
        title=_title(head),
        licence=_licence(tree) if b"license" in data else "",
        time=_time(head),
        blocks=tuple(Block(level, text) for level, text in render(kept)),
        main_chars=sum(map(block_chars, kept)),
        dropped=(*walk.dropped, *drop_blocks(refused)),
    )


def _title(head: LexborNode | None) -> str:
    node = head.css_first("title") if head is not None else None
    return " ".join(node.text().split())[:_MAX_TITLE] if node is not None else ""


def _licence(tree: LexborHTMLParser) -> str:
    node = tree.css_first('[rel~="license"]')
    return ((node.attributes.get("href") or node.text()).strip() if node is not None else "")[:300]


def _time(head: LexborNode | None) -> str:
    if head is None:
        return ""
    node = head.css_first('meta[property="article:published_time"],meta[name="date"],meta[itemprop="datePublished"]')
    return ((node.attributes.get("content") or "").strip() if node is not None else "")[:40]
