"""What deduplication costs in memory and time as the corpus grows to a million segments, and whether it finds what was planted.

Each size is measured in a process of its own, reading shards and writing shards as a run does. The result is kept after each size, and
a size that it holds already is not measured again: a long run can be ended and taken up. Remove the file to begin anew.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import ROOT, Goal, options, write_result

if TYPE_CHECKING:  # the process that starts the others stays small, and imports nothing of the package
    from humpback.records import Rejected, Segment

SIZES = (10_000, 100_000, 300_000, 1_000_000)
SOURCE = ROOT / ".." / "shared" / "data" / "corpus" / "segments.jsonl.gz"
SHARD_ROWS = 512
NEAR = 0.75
CHANGED = 3
"""Words changed in a planted near duplicate."""
RENEWED = 0.15
"""Share of words replaced wherever a source text comes again, on top of shuffled sentences."""
MIB = 2**20
NOTE = (
    "Segments of the manuals and handbooks corpus (about 1,700 characters), repeated with their sentences shuffled and 15 % of "
    "the words replaced until there are enough; of every ten rows one is then an exact repeat of an earlier row, and one a "
    "repeat with three words changed. Series end in the number of segments. `rss_mib` is the peak of the whole process, Python "
    "and libraries included, which reads Parquet shards, removes exact and near duplicates (threshold 0.75) and writes Parquet "
    "shards. `scratch_mib` is the disk it takes meanwhile. Recall is the share of planted repeats of which only one of the two "
    "rows stays. Three words are much in a short text: `near_recall` counts all planted pairs, some of which are below the "
    "threshold; `near_recall_from_80` those with a true Jaccard similarity of at least 0.8. `unplanted_dropped` is the number of "
    "rows dropped though nothing was planted; the corpus has a few near duplicates of its own that differ too little to be parted."
)


def main() -> None:
    asked = options(__doc__)
    if not SOURCE.exists():
        raise SystemExit(f"{SOURCE} is not there: this benchmark needs the corpus beside the project")
    sizes = (500, 1_000) if asked.small else SIZES
    raw = kept(asked.folder / "dedup_memory.json")
    for size in sizes:
        if f"rss_mib_{size}" not in raw:
            raw |= {f"{name}_{size}": [value] for name, value in measure(size).items()}
            write_result("dedup_memory", raw=raw, goals=goals(raw, sizes), note=NOTE, folder=asked.folder)


def kept(path: Path) -> dict[str, list[float]]:
    """Return what an earlier run has measured."""
    return json.loads(path.read_bytes())["raw"] if path.exists() else {}


def goals(raw: dict[str, list[float]], sizes: tuple[int, ...]) -> list[Goal]:
    done = [size for size in sizes if f"rss_mib_{size}" in raw]
    found = []
    if {100_000, 1_000_000} <= set(done):
        found = [
            Goal.at_most("peak MiB for 1,000,000 segments, lower is better", raw["rss_mib_1000000"][0], 1536),
            Goal(
                name="MiB that the peak grows from 100,000 to 1,000,000 segments, lower is better",
                value=raw["rss_mib_1000000"][0] - raw["rss_mib_100000"][0],
            ),
        ]
    last = done[-1]
    return [
        *found,
        Goal(
            name=f"microseconds per segment, {last:,} segments, lower is better",
            value=raw[f"seconds_{last}"][0] * 1e6 / last,
        ),
        Goal(
            name="share of near duplicates from 0.8 on found, higher is better",
            value=raw[f"near_recall_from_80_{last}"][0],
        ),
    ]


def measure(size: int) -> dict[str, float]:
    """Write the segments in one new process and remove their duplicates in another."""
    with tempfile.TemporaryDirectory(prefix="humpback-dedup-") as name:
        start = multiprocessing.get_context("spawn")
        for task in (write_segments, remove_duplicates):
            process = start.Process(target=task, args=(Path(name), size))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{task.__name__} for {size} segments ended with {process.exitcode}")
        figures: dict[str, float] = json.loads((Path(name) / "figures.json").read_bytes())
    print(f"{size:,} segments: {figures}", flush=True)
    return figures


# -- segments ----------------------------------------------------------------------------------------------------------


def write_segments(folder: Path, size: int) -> None:
    from itertools import islice

    from humpback.records import Segment
    from humpback.store.shards import write_records

    rows, shard, similar = make_segments(size), 0, []
    recent = [""] * 5
    while batch := list(islice(rows, SHARD_ROWS)):
        write_records(folder / "input" / f"segments-{shard:05d}.parquet", Segment, batch)
        shard += 1
        for segment in batch:
            row = int(segment.source_uri.split("#")[1])
            if segment.source_uri.startswith("near"):
                similar.append(similarity(segment.text, recent[row % 5]))
            recent[row % 5] = segment.text
    (folder / "similar.json").write_text(json.dumps(similar), encoding="utf-8")


def similarity(one: str, other: str) -> float:
    """Return the true Jaccard similarity of the sets of word 5-grams."""
    import numpy as np

    from humpback.corpus.ngrams import word_ngrams

    sets = [word_ngrams(text, 5) for text in (one, other)]
    return len(np.intersect1d(*sets)) / len(np.union1d(*sets))


def make_segments(size: int) -> Iterator[Segment]:
    """Yield segments whose address says what they are: `new#ROW`, `exact#ROW#OF` or `near#ROW#OF`."""
    from humpback.records import Segment, content_id

    draw, recent = random.Random(0), ["", "", "", "", ""]
    for row, text in zip(range(size), fresh_texts(draw), strict=False):
        place = row % 10
        if place in (5, 8):  # each repeats a row of its own, five before
            text, kind = recent[row % 5], "exact" if place == 5 else "near"
            if kind == "near":
                text = change_words(text, draw)
            address = f"{kind}#{row}#{row - 5}"
        else:
            address = f"new#{row}"
        recent[row % 5] = text
        yield Segment(
            id=content_id(address, text),
            text=text,
            header_path="Manual > Part",
            source_uri=address,
            offset=0,
            title="Manual",
            licence="CC0-1.0",
            language="en",
            document_id=content_id(address),
        )


def fresh_texts(draw: random.Random) -> Iterator[str]:
    """Yield the texts of the corpus over and over, never the same twice."""
    while True:
        with gzip.open(SOURCE, "rt", encoding="utf-8") as file:
            for line in file:
                sentences = re.split(r"(?<=[.!?])\s+", json.loads(line)["text"])
                draw.shuffle(sentences)
                words = " ".join(sentences).split(" ")
                yield " ".join(new_word(draw) if draw.random() < RENEWED else word for word in words)


def change_words(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    for place in draw.sample(range(len(words)), min(CHANGED, len(words))):
        words[place] = new_word(draw)
    return " ".join(words)


def new_word(draw: random.Random) -> str:
    return f"{draw.randrange(36**4):05x}"


# -- duplicates --------------------------------------------------------------------------------------------------------


def remove_duplicates(folder: Path, size: int) -> None:
    from humpback.records import Rejected, Segment
    from humpback.runner import Output
    from humpback.stages.dedup import dedup
    from humpback.store.shards import read_records, shard_files
    from humpback.streaming import run_stream

    files, dropped, scratch_bytes = shard_files(folder / "input", "segments"), bytearray(size), 0

    def watched() -> Iterator[Segment | Rejected]:
        nonlocal scratch_bytes
        rows = dedup(
            lambda: read_records(files, Segment), near=NEAR, sample=None, random_seed=0, scratch=folder / "scratch"
        )
        for row, outcome in enumerate(rows):
            scratch_bytes = scratch_bytes or sum(path.stat().st_size for path in (folder / "scratch").iterdir())
            dropped[row] = isinstance(outcome, Rejected)
            yield outcome

    started = time.monotonic()
    run_stream(watched(), Output(folder / "output", "segments", Segment), shard_rows=SHARD_ROWS)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
    found = [dropped[row] or dropped[row - 5] for row in range(5, size)]
    exact, near = found[0::10], found[3::10]
    similar = json.loads((folder / "similar.json").read_bytes())
    clear = [hit for hit, true in zip(near, similar, strict=True) if true >= 0.8]
    figures: dict[str, Any] = {
        "rss_mib": peak,
        "seconds": seconds,
        "scratch_mib": scratch_bytes / MIB,
        "exact_recall": sum(exact) / len(exact),
        "near_recall": sum(near) / len(near),
        "near_recall_from_80": sum(clear) / len(clear),
        "unplanted_dropped": sum(dropped[row] for row in range(size) if row % 10 not in (0, 3, 5, 8)),
    }
    (folder / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
