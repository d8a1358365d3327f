"""Which of a page's blocks are its main content: the part of the page they stand in, and what each block is like.

In: the blocks of a page in document order, each with the box (`div`, `article`, list ...) it stands in. Out: the blocks kept,
rendered, and the others with the rule that dropped them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from humpback.corpus.boilerplate import noise_header, noise_text, others_header

__all__ = ["Box", "Raw", "Refused", "keep_main", "render"]

_SENTENCE = re.compile(r"[.!?:;\u2026\u3002\uff01\uff1f](?:[\s\"'\u201d\u2019)\]]|$)")
_MAIN_SHARE = 0.3
_ARTICLE_SHARE = 0.5
_BOX_SHARE = 0.9
_MIN_PROSE = 600
"""Characters of paragraphs from which a section is content under any header but one of `others_header` (paper: shortest segment)."""
_MIN_PARAGRAPH = 100
_MAX_LINKS = 0.1


class Raw:
    """A block as the walk found it."""

    __slots__ = ("box", "group", "kind", "level", "links", "marks", "place", "prefix", "pseudo", "text")

    def __init__(self, *, text: str, level: int, links: int, box: int, kind: str, pseudo: bool = False) -> None:
        self.text = text
        self.level = level
        """0 for text, 1 to 6 for a header."""
        self.links = links
        """Characters of it that are links."""
        self.box = box
        self.kind = kind
        """text, item, table, code or header."""
        self.pseudo = pseudo
        """Whether it is a header by its looks only: a bold line, a large font."""
        self.group = 0
        """The outermost list it is an item of; 0 for none."""
        self.prefix = ""
        """What Markdown puts before it."""
        self.marks = 0
        """Characters of it that are Markdown's and not the page's."""
        self.place = 0
        """Which block of the page it is."""


class Box:
    """An element that blocks stand in."""

    __slots__ = ("parent", "score", "tag")

    def __init__(self, *, parent: int, tag: str) -> None:
        self.parent = parent
        self.tag = tag
        self.score = 0.0
        """Weight of the text in it, lower boxes included."""


class Refused(NamedTuple):
    """A block that is not main content."""

    rule: str
    raw: Raw
    place: int
    """Which block of the page it is."""


def keep_main(blocks: list[Raw], boxes: list[Box]) -> tuple[list[Raw], list[Refused]]:
    """Return the blocks of the main content, and what was refused with its rule."""
    lists = _link_lists(blocks)
    _score(blocks, boxes, lists)
    inside = _inside(boxes, _main_box(boxes, _first_levels(blocks, boxes)))
    kept: list[Raw] = []
    refused: list[Refused] = []
    for place, raw in enumerate(blocks):
        raw.place = place
        rule = "outside the main part" if not inside[raw.box] else _refuse(raw, lists)
        if rule:
            refused.append(Refused(rule, raw, place))
        else:
            kept.append(raw)
    kept = _without_noise_sections(kept, refused)
    kept = _trim(kept, refused)
    return _without_empty_headers(kept, refused), refused


def _link_lists(blocks: list[Raw]) -> set[int]:
    """Return the lists that are mostly links."""
    chars: dict[int, int] = {}
    links: dict[int, int] = {}
    for raw in blocks:
        if raw.group:
            chars[raw.group] = chars.get(raw.group, 0) + len(raw.text)
            links[raw.group] = links.get(raw.group, 0) + raw.links
    return {group for group, total in chars.items() if links[group] > 0.6 * total}


def _weight(raw: Raw, lists: set[int]) -> float:
    if raw.level or raw.group in lists:
        return 0.0
    own = len(raw.text) - 1.5 * raw.links
    if own <= 0:
        return 0.0
    if raw.kind == "text" and (len(raw.text) < 60 or not _SENTENCE.search(raw.text)):
        return 0.2 * own
    return own if raw.kind != "item" else 0.7 * own


def _score(blocks: list[Raw], boxes: list[Box], lists: set[int]) -> None:
    for raw in blocks:
        boxes[raw.box].score += _weight(raw, lists)
    for box in reversed(boxes):  # a box comes after the one it stands in
        if box.parent >= 0:
            boxes[box.parent].score += box.score


def _first_levels(blocks: list[Raw], boxes: list[Box]) -> list[int]:
    """Return the level of the header that each box begins with; 0 where it begins with text, -1 where it is empty."""
    levels = [-1] * len(boxes)
    for raw in blocks:
        index = raw.box
        while index >= 0 and levels[index] < 0:
            levels[index] = 0 if raw.pseudo else raw.level
            index = boxes[index].parent
    return levels


def _main_box(boxes: list[Box], levels: list[int]) -> int:
    """Return the box that holds the main content."""
    total = boxes[0].score
    if not total:
        return 0
    best = 0
    for index, box in enumerate(boxes):
        if box.tag == "main" and box.score >= _MAIN_SHARE * total:
            best = index
    articles = [i for i, box in enumerate(boxes) if box.tag == "article" and box.score >= _ARTICLE_SHARE * total]
    if articles:
        best = max(articles, key=lambda i: (boxes[i].score, i))
    children: dict[int, list[int]] = {}
    for index, box in enumerate(boxes[1:], start=1):
        children.setdefault(box.parent, []).append(index)
    while lower := [i for i in children.get(best, ()) if boxes[i].score >= _BOX_SHARE * boxes[best].score]:
        if boxes[lower[0]].tag in ("ul", "ol", "dl"):
            break
        level = levels[lower[0]]
        if level > 0 and any(levels[i] == level and boxes[i].score > 0 for i in children[best] if i != lower[0]):
            break  # it is one section of several
        best = lower[0]
    return best


def _inside(boxes: list[Box], main: int) -> list[bool]:
    inside = [False] * len(boxes)
    for index, box in enumerate(boxes):
        inside[index] = index == main or (box.parent >= 0 and inside[box.parent])
    return inside


def _refuse(raw: Raw, lists: set[int]) -> str | None:
    if raw.level:
        return None
    if raw.group in lists and raw.group:
        return "list of links"
    size = len(raw.text)
    if raw.links > 0.6 * size and raw.kind != "code" and not raw.group:
        return "mostly links"
    if noise_text(raw.text):
        return "phrase around the content"
    return None


def _without_noise_sections(kept: list[Raw], refused: list[Refused]) -> list[Raw]:
    """Drop what stands under the header of a part such as "Related articles": up to the next header of its level.

    Prose is kept, whatever its header: "More" may stand above more of the same. Comments are prose too, and dropped.
    """
    left: list[Raw] = []
    total = sum(len(raw.text) for raw in kept if not raw.level)
    before = 0
    level = 0
    for index, raw in enumerate(kept):
        if level and raw.level and raw.level <= level:
            level = 0
        noise = raw.level > 0 and noise_header(raw.text) and not (not level and _is_prose(kept, index))
        if noise and not level and before > _MAIN_SHARE * total:
            level = raw.level
        if level or noise:
            refused.append(Refused("section around the content", raw, raw.place))
            continue
        if not raw.level:
            before += len(raw.text)
        left.append(raw)
    return left


def _is_prose(kept: list[Raw], index: int) -> bool:
    """Tell whether a section holds prose of its own: enough for a segment, with few links, and no header between it."""
    if others_header(kept[index].text):
        return False
    most = prose = chars = links = 0
    for raw in kept[index + 1 :]:
        if raw.level and raw.level <= kept[index].level:
            break
        size = len(raw.text)
        chars, links = chars + size, links + raw.links
        if raw.level:
            prose = 0  # a teaser each
        elif size >= _MIN_PARAGRAPH and _SENTENCE.search(raw.text):
            prose += size
            most = max(most, prose)
    return most >= _MIN_PROSE and links <= _MAX_LINKS * chars


def _is_loose(raw: Raw) -> bool:
    """Tell whether a block is a short line that is no sentence: a date, a name, a caption."""
    return raw.kind == "text" and not raw.level and len(raw.text) < 60 and not _SENTENCE.search(raw.text)


def _trim(kept: list[Raw], refused: list[Refused]) -> list[Raw]:
    """Drop short lines before the first and after the last block of text."""
    solid = [index for index, raw in enumerate(kept) if not raw.level and not _is_loose(raw)]
    if not solid:
        return kept
    left: list[Raw] = []
    for index, raw in enumerate(kept):
        if (index < solid[0] or index > solid[-1]) and _is_loose(raw):
            refused.append(Refused("short line at the edge", raw, raw.place))
        else:
            left.append(raw)
    return left


def _without_empty_headers(kept: list[Raw], refused: list[Refused]) -> list[Raw]:
    """Drop headers with no text before the next header of their level or a higher one."""
    left: list[Raw] = []
    following = 1  # level of the block behind, 0 for text; the end of the page ends every section
    for raw in reversed(kept):
        if raw.level and following and raw.level >= following:
            refused.append(Refused("header without text", raw, raw.place))
        else:
            left.append(raw)
            following = raw.level
    left.reverse()
    return left


def render(kept: list[Raw]) -> list[tuple[int, str]]:
    """Return the blocks as Markdown, the items of a list as one."""
    done: list[tuple[int, str]] = []
    items: list[str] = []
    group = 0
    for raw in kept:
        if items and raw.group != group:
            done.append((0, "\n".join(items)))
            items = []
        group = raw.group
        text = raw.text
        if raw.prefix:
            indent = " " * len(raw.prefix) if raw.group else raw.prefix
            text = raw.prefix + text.replace("\n", "\n" + indent)
        if group and not raw.level:
            items.append(text)
        else:
            if items:
                done.append((0, "\n".join(items)))
                items = []
            done.append((raw.level, text))
    if items:
        done.append((0, "\n".join(items)))
    return done
