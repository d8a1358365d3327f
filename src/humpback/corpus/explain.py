"""What `humpback ingest` does with one page: its header tree, with the decision and the reason at each header.

In: a page (a file, standard input, a URL, or a record of the inputs) and the corpus settings. Out: an `Explanation`, as a tree
for people or as JSON. The decisions are those of the stage itself (`stages/ingest.py`), which the caller passes in.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from humpback.corpus.segments import NOT_MAIN, Outline, outline
from humpback.corpus.tree import choose
from humpback.records import Document, Rejected, Segment, content_id

if TYPE_CHECKING:
    from humpback.corpus.dropped import Dropped

__all__ = ["Explanation", "Node", "explain", "explanation_lines", "to_json_value"]

Outcome = Segment | Rejected
Decide = Callable[[Document], Iterable[Outcome]]

_WIDTH = 98
_EXCERPT = 40
_DETAIL = 300
_MAX_DROPPED = 40


@dataclass(frozen=True, kw_only=True)
class Node:
    """One header of the page, and what became of the text below it."""

    header: str
    depth: int
    """0 for the page itself."""
    own_chars: int
    """Characters above its first lower header."""
    subtree_chars: int
    """Characters with all lower headers, or a lower bound where that is far too long."""
    decision: str
    """`segment`, or why it is none; `in the one above` below a header that was judged whole; `no text` of its own."""
    detail: str = ""
    whole: bool = False
    """Whether the decision is about the whole subtree, or about the own text."""
    id: str = ""
    """Id of the segment or of the rejected row."""
    offset: int | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A page, its tree and what was left out before there was a tree."""

    document: Document
    min_chars: int
    max_chars: int
    nodes: tuple[Node, ...]
    """In the order of the page."""
    other: tuple[Rejected, ...]
    """What became of the page as a whole, when it has no tree: a parser that gave up."""
    segments: int
    dropped: tuple[Dropped, ...]
    """Parts of an HTML page that are not its main content."""


def explain(document: Document, decide: Decide, *, min_chars: int, max_chars: int) -> Explanation:
    """Return the page's header tree with the decisions of `decide`, and what was dropped from it as boilerplate."""
    outcomes = {outcome.id: outcome for outcome in decide(document)}
    segments = sum(isinstance(outcome, Segment) for outcome in outcomes.values())
    nodes: list[Node] = []
    dropped: tuple[Dropped, ...] = ()
    if not any(isinstance(one, Rejected) and (one.failed or one.reason == "costly_page") for one in outcomes.values()):
        tree = outline(document)
        document = tree.document
        nodes = list(_nodes(tree, outcomes, max_chars))
        dropped = tree.dropped
    told = {node.id for node in nodes}
    return Explanation(
        document=document,
        min_chars=min_chars,
        max_chars=max_chars,
        nodes=tuple(nodes),
        other=tuple(
            o for o in outcomes.values() if isinstance(o, Rejected) and o.id not in told and o.reason != NOT_MAIN
        ),
        segments=segments,
        dropped=dropped,
    )


def _nodes(tree: Outline, outcomes: Mapping[str, Outcome], max_chars: int) -> Iterator[Node]:
    """Yield every header of the page with the decision about it, or about the one above that holds it."""
    document, sections, units = tree.document, tree.sections, tree.units
    if document.header_path:  # a ready segment: the input's own headers, and nothing to choose
        chars = len(document.text.strip())
        for row_id, outcome in outcomes.items():
            decision, detail = _told(outcome)
            yield Node(
                header=document.header_path,
                depth=0,
                own_chars=chars,
                subtree_chars=chars,
                decision=decision,
                detail=detail,
                id=row_id,
            )
        return
    pieces = {piece.section: piece for piece in choose(units, sections, max_chars=max_chars)}
    depths = [0] * len(sections)
    for index, section in enumerate(sections):
        depths[index] = depths[section.parent] + 1 if section.parent >= 0 else 0
        own = len(units.join(section.body, section.own_end).text)
        lower_bound = units.at_least(section.body, section.end)
        near = lower_bound <= 2 * max_chars  # joining each of many long subtrees would be quadratic
        subtree = len(units.join(section.body, section.end).text) if near else lower_bound
        piece = pieces.get(index)
        node = Node(
            header=section.title,
            depth=depths[index],
            own_chars=own,
            subtree_chars=max(subtree, own),
            decision="no text" if piece else "in the one above",
        )
        if piece and piece.text:
            row_id = content_id(document.source_uri, str(piece.offset), piece.text)
            decision, detail = _told(outcomes.get(row_id))
            node = dataclasses.replace(
                node, decision=decision, detail=detail, whole=piece.whole, id=row_id, offset=piece.offset
            )
        yield node


def _told(outcome: Outcome | None) -> tuple[str, str]:
    if outcome is None:
        return "not judged", "no outcome of the stage has this id"
    if isinstance(outcome, Segment):
        return "segment", ""
    # where it is, is what the tree shows
    return outcome.reason, re.sub(r"^\S+ at character [\d,]+: ", "", outcome.detail)


def to_json_value(explained: Explanation) -> dict[str, Any]:
    """Return the explanation as plain values."""
    document = explained.document
    return {
        "source_uri": document.source_uri,
        "location": document.location,
        "format": document.format,
        "title": document.title,
        "language": document.language,
        "licence": document.licence,
        "time": document.time,
        "chars": len(document.text),
        "min_chars": explained.min_chars,
        "max_chars": explained.max_chars,
        "segments": explained.segments,
        "tree": [dataclasses.asdict(node) for node in explained.nodes],
        "other": [{"reason": row.reason, "detail": row.detail, "id": row.id} for row in explained.other],
        "dropped": [drop._asdict() for drop in explained.dropped],
    }


# -- for people --------------------------------------------------------------------------------------------------------


def explanation_lines(explained: Explanation) -> Iterator[str]:
    """Yield the explanation as lines of at most about 96 characters."""
    document = explained.document
    yield document.source_uri
    facts = [document.format, f"{len(document.text):,} characters", document.title and f"title {document.title!r}"]
    facts += [document.language and f"language {document.language}", document.licence and f"licence {document.licence}"]
    facts += [document.time, document.location if document.location != document.source_uri else ""]
    yield from textwrap.wrap(" · ".join(filter(None, facts)), _WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield ""
    yield f"{'own':>7} {'subtree':>8}  characters below each header, and what becomes of them"
    for node in explained.nodes:
        yield from _node_lines(node)
    for row in explained.other:
        yield from textwrap.wrap(f"{row.reason}: {row.detail}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
    kept = f"{explained.segments} segment{'s' * (explained.segments != 1)}"
    yield ""
    yield f"{kept} of {explained.min_chars:,} to {explained.max_chars:,} characters"
    yield from _dropped_lines(explained.dropped)


def _node_lines(node: Node) -> Iterator[str]:
    indent = "  " * min(node.depth, 12)
    decision = "SEGMENT" if node.decision == "segment" else node.decision
    if node.whole and node.subtree_chars > node.own_chars:
        decision += ", with the headers below"
    limit = max(_WIDTH - 18 - len(indent) - len(decision) - 4, 20)
    header = " ".join(node.header.split()) or "(the page)"
    header = header if len(header) <= limit else f"{header[: limit - 3]}..."
    yield f"{node.own_chars:>7,} {node.subtree_chars:>8,}  {indent}{header} -> {decision}"
    detail = f"id {node.id}" if node.decision == "segment" else " ".join(node.detail.split())[:_DETAIL]
    space = " " * 18 + indent + "  "
    yield from textwrap.wrap(detail, _WIDTH, initial_indent=space, subsequent_indent=space)


def _dropped_lines(dropped: Sequence[Dropped]) -> Iterator[str]:
    if not dropped:
        return
    yield ""
    yield f"{len(dropped)} parts with {sum(drop.chars for drop in dropped):,} characters are not main content:"
    for drop in sorted(dropped, key=lambda drop: -drop.chars)[:_MAX_DROPPED]:
        words = " ".join(drop.text.split())
        excerpt = words if len(words) <= _EXCERPT else f"{words[:_EXCERPT]} ..."
        where = f"{drop.where[:26]}: " if drop.where not in (drop.rule, "block") else ""
        yield f"{drop.chars:>7,}  {drop.rule:<22} {where}{excerpt}"
    if len(dropped) > _MAX_DROPPED:
        yield f"         and {len(dropped) - _MAX_DROPPED} shorter ones"
