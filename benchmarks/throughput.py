"""Pages per second, and how time grows with a page. In: pages as bytes. Out: figures by series, for `corpus.py`.

Each way frees a page before the next one. Ours starts from bytes, so that decoding is on its bill; trafilatura and resiliparse get
decoded strings, so that it is not on theirs. The bare parse is lexbor's tree of the bytes, freed at once: the floor for any extractor.
"""

from __future__ import annotations

import gc
import html
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from extraction import EXTRACTORS, decode
from harness import Repetition
from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.charset import decode_html
from humpback.corpus.minhash import NGRAM, signature
from humpback.corpus.ngrams import word_ngrams
from humpback.corpus.segments import cut
from humpback.recipe import CorpusInput, CorpusSettings
from humpback.records import Document, Segment, content_id
from humpback.stages.ingest import ingest

__all__ = ["STYLES", "Pages", "curve", "document_of", "exponent", "measure", "two_processes"]

MIN_CHARS, MAX_CHARS = 600, 3000
SAMPLE = 10
"""Trafilatura gets every tenth page: all of them would take minutes."""
TOO_LONG = 60.0
"""A larger page is left out when it would take more seconds than this, did time grow with the square of its size."""
SQUARE = 100
"""Each size is ten times the one before."""
Pages = Sequence[tuple[str, bytes]]


def document_of(name: str, text: str) -> Document:
    return Document(id=content_id(name, text), text=text, source_uri=name, location=name, format="html")


def documents(pages: Iterable[tuple[str, bytes]]) -> Iterator[Document]:
    return (document_of(name, decode_html(data)) for name, data in pages)


def by_bare(pages: Pages) -> None:
    for _, data in pages:
        LexborHTMLParser(data)


def by_visit(pages: Pages) -> None:
    """Parse, and look once at each node's tag and text from Python: what a walk costs before it decides anything."""
    for _, data in pages:
        body = LexborHTMLParser(data).body
        if body is not None:
            for node in body.traverse(include_text=True):
                _ = node.tag, node.text_content


def by_cut(pages: Pages) -> None:
    for document in documents(pages):
        for _ in cut(document, min_chars=MIN_CHARS, max_chars=MAX_CHARS):
            pass


def by_funnel(pages: Pages) -> None:
    """All that one worker does per page: parse, cut, every filter, personal data, language; then the signature for dedup."""
    settings = CorpusSettings(inputs=[CorpusInput(path="pages")], min_chars=MIN_CHARS, max_chars=MAX_CHARS)
    for record in ingest(documents(pages), settings):
        if isinstance(record, Segment):
            signature(word_ngrams(record.text, NGRAM))


def by_strings(extractor: str) -> Callable[[Sequence[str]], None]:
    extract = EXTRACTORS[extractor]

    def run(texts: Sequence[str]) -> None:
        for text in texts:
            extract(text)

    return run


def measure(repetition: Repetition, pages: Pages, texts: Sequence[str]) -> None:
    """Time each way once, in this repetition's order, and keep seconds and pages per second."""
    sample, sample_texts = pages[::SAMPLE], texts[::SAMPLE]
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "bare": (lambda: by_bare(pages), len(pages)),
        "visited": (lambda: by_visit(pages), len(pages)),
        "ours": (lambda: by_cut(pages), len(pages)),
        "funnel": (lambda: by_funnel(pages), len(pages)),
        "resiliparse": (lambda: by_strings("resiliparse")(texts), len(pages)),
        "sample_ours": (lambda: by_cut(sample), len(sample)),
        "sample_trafilatura": (lambda: by_strings("trafilatura")(sample_texts), len(sample)),
    }
    for name in repetition.order(*ways):
        run, count = ways[name]
        with repetition.time(f"{name}_s"):
            run()
        repetition.add(f"{name}_pages_per_s", count / repetition.figures[f"{name}_s"])


def two_processes(repetition: Repetition, pages: Pages) -> None:
    """Time the command itself on the unpacked pages with one worker and with two; start, dedup and writing included."""
    with tempfile.TemporaryDirectory(prefix="humpback-pages-") as name:
        folder = Path(name)
        for number, (_, data) in enumerate(pages):
            place = folder / "pages" / f"{number // 1000:03d}" / f"{number:06d}.html"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        for workers in repetition.order("1", "2"):
            command = [sys.executable, "-m", "humpback", "ingest", str(folder / "pages")]
            with repetition.time(f"command_{workers}_s"):
                done = subprocess.run(
                    [*command, "-o", str(folder / f"out-{workers}"), "--workers", workers],
                    capture_output=True,
                    text=True,
                )
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip() or done.stdout.strip()}")


def words_of(page: bytes) -> list[str]:
    """Return a real page's longer sentences, for pages of any size."""
    tree = LexborHTMLParser(page)
    for node in tree.css("script, style, noscript, nav, footer, header"):
        node.decompose()
    text = tree.body.text(separator=" ") if tree.body else ""
    parts = [" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s+", text)]
    return [html.escape(part) for part in parts if 40 < len(part) < 400] or ["Stir the batter until it is smooth."]


def _bodies(page: bytes) -> str:
    found = re.search(r"(?is)<body[^>]*>(.*)</body", decode(page))
    return found.group(1) if found else decode(page)


def _filled(size: int, part: Callable[[int], str]) -> str:
    parts, length, number = [], 0, 0
    while length < size:
        parts.append(part(number))
        length += len(parts[-1])
        number += 1
    return "".join(parts)


Style = Callable[[bytes, list[str], int], str]
STYLES: dict[str, Style] = {
    "body": lambda page, words, size: _filled(size, lambda number: _bodies(page)[:size]),
    "deep": lambda page, words, size: _filled(size, lambda number: f"<div><p>{words[number % len(words)]}</p>"),
    "only_div": lambda page, words, size: "<div>" * (size // 5),
    "only_br": lambda page, words, size: "<br>" * (size // 4),
    "headers": lambda page, words, size: _filled(
        size, lambda number: f"<h{2 + number % 4}>Part {number}</h{2 + number % 4}><p>{words[number % len(words)]}</p>"
    ),
    "paragraph": lambda page, words, size: f"<p>{_filled(size, lambda number: words[number % len(words)] + ' ')}</p>",
    "inline": lambda page, words, size: (
        f"<p>{_filled(size, lambda number: f'<b>Part {number}</b> {words[number % len(words)]} ')}</p>"
    ),
    "list": lambda page, words, size: (
        f"<ul>{_filled(size, lambda number: f'<li>{words[number % len(words)]}</li>')}</ul>"
    ),
    "table": lambda page, words, size: (
        f"<table>{_filled(size, lambda number: f'<tr><td>{number}</td><td>{words[number % len(words)]}</td></tr>')}</table>"
    ),
}
"""How a page of a size is made from a real one."""


def curve(style: str, page: bytes, sizes: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return CPU seconds of ours and of the bare parse for a style's pages of these sizes, as far as each gets."""
    ours: list[float] = []
    bare: list[float] = []
    words = words_of(page)
    for size in sizes:
        text = STYLES[style](page, words, size)
        whole = f"<html><head><title>Grown</title></head><body><h1>Grown</h1>{text}</body></html>".encode()
        for seconds, way in ((bare, by_bare), (ours, by_cut)):
            if not seconds or (len(seconds) == sizes.index(size) and seconds[-1] * SQUARE <= TOO_LONG):
                seconds.append(_cpu(lambda way=way, whole=whole: way([("page", whole)]), 3 if size <= 100_000 else 1))
    return ours, bare


def _cpu(run: Callable[[], None], times: int) -> float:
    """Return the least CPU seconds of a few runs."""
    seconds = []
    for _ in range(times):
        gc.collect()
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return max(min(seconds), 1e-6)


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Fit seconds = constant x bytes ** exponent by least squares of the logarithms."""
    logs = [(math.log(size), math.log(each)) for size, each in zip(sizes, seconds, strict=False)]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
