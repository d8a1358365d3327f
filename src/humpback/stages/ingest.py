"""Ingest: documents in, fit segments out. Each document stands alone; duplicates are the dedup stage's business."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from humpback.corpus.quality import judge
from humpback.corpus.segments import cut
from humpback.recipe import CorpusSettings
from humpback.records import Document, Rejected, Segment
from humpback.stages.rejecting import reject

__all__ = ["ingest"]


def ingest(documents: Iterable[Document | Rejected], settings: CorpusSettings) -> Iterator[Segment | Rejected]:
    """Cut documents into header-rooted segments and yield each, or why it is unfit. A rejected document passes through."""
    for document in documents:
        if isinstance(document, Rejected):
            yield document
            continue
        pieces = 0
        for piece in cut(document, min_chars=settings.min_chars, max_chars=settings.max_chars):
            pieces += 1
            if isinstance(piece, Rejected):
                yield piece
                continue
            verdict = judge(piece, settings)
            yield piece if verdict is None else reject(piece, verdict.reason, verdict.detail)
        if not pieces:
            yield reject(document, "no_text", f"{document.source_uri} holds no text below its headers")
