"""HTML to segments: what is found and what is let through, against trafilatura and resiliparse on the same pages; speed and growth.

Needs the test data beside the project and the `bench` extra; without either it says so and ends. The quality figures are those of
`extraction.py`, the speed figures those of `throughput.py`; `segments` is ours after the limits of 600 to 3,000 characters.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from extraction import ARCHIVES, EXTRACTORS, Case, Score, decode, extract_all, load, missing_tools, score
from gold import DATA, Text, have_data, read_pages, read_rows, shingle_counts
from harness import Goal, Repetition, median, options, series_of, write_result
from throughput import MAX_CHARS, MIN_CHARS, SAMPLE, STYLES, curve, document_of, exponent, measure, two_processes

from humpback.corpus.segments import cut
from humpback.records import Segment

REPETITIONS = 3
SMALL_PAGES = 4
SMALL_SIZES = (10_000, 20_000)
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
MANUALS = "corpus/html-manuals.tar.gz"
YARDSTICK = "corpus/segments.jsonl.gz"
DIFFERENCES = 50
SAME = 0.9
NOTE = (
    "Speed: {pages} pages (recipes, trafilatura's, HTML manuals; {megabytes:.0f} MB), one process, bytes in memory; `sample_*` is "
    "every {sample}th of them, for trafilatura is slow. `bare` is lexbor's parse of the bytes and nothing else, `visited` also "
    "looks once at each node from Python and decides nothing, `ours` decodes, parses and cuts, "
    "`funnel` adds every filter, personal data, language and the MinHash signature; `command_1_s` and "
    "`command_2_s` are `humpback ingest` on the unpacked pages with one and two workers, its start and dedup included. trafilatura "
    "and resiliparse get decoded strings; comments, links and alternative texts are off for all.\n\n"
    "Quality, each extractor's default beside trafilatura's `favor_recall` and the whole visible page (what is there to be found): "
    "`gold_*` is fragments that must and must not appear ({gold} pages); `recipes_*` is the share of gold steps (nine tenths of "
    "their word 3-grams are in the text) and ingredients (their words stand together, in any order), and the share of characters in "
    "lines that the page has only in elements it marks as navigation, footer, side bar, comments and the like ({recipes} pages); "
    "`readability_*` compares word 4-grams with the expected HTML ({readability} pages; F is the mean over pages). All texts and all "
    "gold are compared after taking off Markdown marks, list markers and repeated white space. `*_segments_*` is ours after the "
    "limits of {low} to {high} characters, headers of the path counted as found. `manuals_*` asks for each of {yardstick} segments "
    "that another segmenter made of the same manuals: does one of ours share nine tenths (F of word 4-grams), with the same header "
    "too, or hold nine tenths of it and more. `growth_*` is CPU seconds of one page of about that many bytes, by what it is made of, "
    "and of the bare parse beside it; a page that would take more than a minute, did time grow with the square, is left out."
)


class Manuals(NamedTuple):
    """How our segments of the manuals stand to another segmenter's."""

    total: int
    same: int
    same_header: int
    larger: int
    different: list[str]


def main() -> None:
    asked = options(__doc__)
    wanted = [*ARCHIVES.values(), MANUALS, YARDSTICK]
    if not have_data(*wanted):
        raise SystemExit(f"the test data is not in {DATA}: nothing is measured")
    if missing_tools():
        raise SystemExit(f"{', '.join(missing_tools())} not installed: pip install '.[bench]'")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    limit = SMALL_PAGES if asked.small else None
    cases = {kind: load(kind, limit) for kind in ARCHIVES}
    scores = {name: score_all(name, cases) for name in EXTRACTORS}
    scores["segments"] = {
        kind: score(cases[kind], {case.name: segments_text(case) for case in cases[kind]}) for kind in cases
    }
    raw = quality_series(scores)
    manuals = compare_manuals(limit)
    raw |= {
        "manuals_same": [manuals.same / max(1, manuals.total)],
        "manuals_same_text_and_header": [manuals.same_header / max(1, manuals.total)],
        "manuals_inside_a_larger_one": [manuals.larger / max(1, manuals.total)],
    }
    pages = [page for name in ("recipes", "trafilatura") for page in first(ARCHIVES[name], limit)] + first(
        MANUALS, limit
    )
    texts = [decode(data) for _, data in pages]
    repetitions = [Repetition(number) for number in range(1 if asked.small else REPETITIONS)]
    for repetition in repetitions:
        measure(repetition, pages, texts)
        two_processes(repetition, pages)
    raw |= series_of(repetitions)
    exponents, bare_exponents = grow(raw, pages[0][1], SMALL_SIZES if asked.small else SIZES)
    goals = [*quality_goals(scores), *speed_goals(raw), *growth_goals(exponents, bare_exponents)]
    note = NOTE.format(
        pages=len(pages),
        megabytes=sum(len(data) for _, data in pages) / 1e6,
        sample=SAMPLE,
        gold=len(cases["trafilatura"]),
        recipes=len(cases["recipes"]),
        readability=len(cases["readability"]),
        low=MIN_CHARS,
        high=f"{MAX_CHARS:,}",
        yardstick=f"{manuals.total:,}",
    )
    write_result("corpus", raw=raw, goals=goals, note=note, folder=asked.folder)


def first(archive: str, limit: int | None) -> list[tuple[str, bytes]]:
    """Return an archive's pages, or as many as asked."""
    found: list[tuple[str, bytes]] = []
    for name, data in read_pages(archive):
        if name.endswith((".html", ".htm", ".testhtml")):
            found.append((name, data))
        if len(found) == limit:
            break
    return found


def score_all(extractor: str, cases: Mapping[str, Sequence[Case]]) -> dict[str, Score]:
    return {kind: score(cases[kind], extract_all(extractor, cases[kind])) for kind in cases}


def segments_of(name: str, text: str) -> Iterator[Segment]:
    pieces = cut(document_of(name, text), min_chars=MIN_CHARS, max_chars=MAX_CHARS)
    return (piece for piece in pieces if isinstance(piece, Segment))


def segments_text(case: Case) -> str:
    """Return the segments of a page one after another, each header of their paths once."""
    segments = list(segments_of(case.name, case.html))
    headers = dict.fromkeys(header for segment in segments for header in segment.header_path.split(" > "))
    return "\n\n".join([*(segment.text for segment in segments), *headers])


def quality_series(scores: Mapping[str, Mapping[str, Score]]) -> dict[str, list[float]]:
    series: dict[str, list[float]] = {}
    for name, kinds in scores.items():
        fragments, recipes, shingles = kinds["trafilatura"].fragments, kinds["recipes"], kinds["readability"].shingles
        series |= {
            f"gold_{name}_f": [fragments.f],
            f"gold_{name}_precision": [fragments.precision],
            f"gold_{name}_recall": [fragments.recall],
            f"gold_{name}_accuracy": [fragments.accuracy],
            f"recipes_{name}_steps": [recipes.steps.recall],
            f"recipes_{name}_ingredients": [recipes.ingredients.recall],
            f"recipes_{name}_not_content": [not_content(recipes)],
            f"readability_{name}_f": [mean_f(kinds["readability"])],
            f"readability_{name}_precision": [shingles.precision],
            f"readability_{name}_recall": [shingles.recall],
        }
    return series


def not_content(recipes: Score) -> float:
    return recipes.boilerplate.fp / max(1, recipes.boilerplate.tp + recipes.boilerplate.fp)


def mean_f(readability: Score) -> float:
    return sum(readability.page_f) / max(1, len(readability.page_f))


def quality_goals(scores: Mapping[str, Mapping[str, Score]]) -> list[Goal]:
    ours, trafilatura, resiliparse = (scores[name] for name in ("ours", "trafilatura", "resiliparse"))
    found = ours["trafilatura"].fragments.f
    recipes, theirs = ours["recipes"], trafilatura["recipes"]
    return [
        Goal.at_least(
            "F on trafilatura's gold; the goal is resiliparse's", found, resiliparse["trafilatura"].fragments.f
        ),
        Goal.at_least(
            "F on trafilatura's gold; the goal is trafilatura's less 2 points",
            found,
            trafilatura["trafilatura"].fragments.f - 0.02,
        ),
        Goal.at_least("recipe steps found; the goal is trafilatura's", recipes.steps.recall, theirs.steps.recall),
        Goal.at_least(
            "ingredients found; the goal is trafilatura's", recipes.ingredients.recall, theirs.ingredients.recall
        ),
        Goal(name="share of recipe text that is not content, lower is better", value=not_content(recipes)),
        Goal(name="the same of trafilatura", value=not_content(theirs)),
        Goal(name="the same of resiliparse", value=not_content(resiliparse["recipes"])),
        Goal(name="mean F on the readability pages", value=mean_f(ours["readability"])),
        Goal(name="recipe steps left after the length limits", value=scores["segments"]["recipes"].steps.recall),
        Goal(name="ingredients left after the length limits", value=scores["segments"]["recipes"].ingredients.recall),
    ]


def speed_goals(raw: Mapping[str, Sequence[float]]) -> list[Goal]:
    speed = {name: median(raw, f"{name}_pages_per_s") for name in ("bare", "visited", "ours", "funnel", "resiliparse")}
    sampled = median(raw, "sample_ours_pages_per_s") / median(raw, "sample_trafilatura_pages_per_s")
    return [
        Goal.at_least("times as fast as trafilatura", sampled, 10),
        Goal(name="times as fast as resiliparse", value=speed["ours"] / speed["resiliparse"]),
        Goal.at_least("share of the bare parse's pages per second", speed["ours"] / speed["bare"], 0.5),
        Goal(name="the same for looking once at each node", value=speed["visited"] / speed["bare"]),
        Goal.at_least("the same for the full funnel", speed["funnel"] / speed["bare"], 0.25),
        Goal.at_least("speed-up by two workers", median(raw, "command_1_s") / median(raw, "command_2_s"), 1.8),
    ]


def grow(raw: dict[str, list[float]], page: bytes, sizes: Sequence[int]) -> tuple[dict[str, float], dict[str, float]]:
    """Keep each style's curve and return the exponents of ours and of the bare parse."""
    exponents: dict[str, float] = {}
    bare_exponents: dict[str, float] = {}
    for style in STYLES:
        ours, bare = curve(style, page, sizes)
        for suffix, seconds in (("s", ours), ("bare_s", bare)):
            raw |= {f"growth_{style}_{size:08d}_{suffix}": [each] for size, each in zip(sizes, seconds, strict=False)}
        exponents[style], bare_exponents[style] = exponent(sizes, ours), exponent(sizes, bare)
    return exponents, bare_exponents


def growth_goals(exponents: Mapping[str, float], bare: Mapping[str, float]) -> list[Goal]:
    goals = []
    for style, value in exponents.items():
        goals.append(Goal.at_most(f"exponent of CPU seconds by page size, {style}", value, 1.15))
        goals.append(Goal(name=f"the same of the bare parse, {style}", value=bare[style]))
    return goals


def compare_manuals(limit: int | None) -> Manuals:
    """Look for each segment of the yardstick among ours of the same page, and leave a sample of differences to read."""
    golds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(YARDSTICK):
        if row["source"].startswith("debian:"):
            golds[f"{row['source'].removeprefix('debian:')}/{row['path']}"].append(row)
    counts = [0, 0, 0, 0]
    different: list[str] = []
    seen = 0
    for name, data in read_pages(MANUALS):
        if name not in golds:
            continue
        seen += 1
        ours = [(segment, Text(segment.text)) for segment in segments_of(name, decode(data))]
        for row in golds[name]:
            found = _compare(row, ours)
            counts = [count + one for count, one in zip(counts, (1, *found[:3]), strict=True)]
            if found[3]:
                different.append(f"### {name}\n{found[3]}")
        if seen == limit:
            break
    _write_differences(different)
    return Manuals(*counts, different)


def _compare(row: Mapping[str, Any], ours: Sequence[tuple[Segment, Text]]) -> tuple[bool, bool, bool, str]:
    """Return whether one of ours is the same, has the same header, or holds it and more; and what to read where none is."""
    wanted = Text(row["text"])
    rated = [(shingle_counts(text, wanted), segment) for segment, text in ours]
    best, segment = max(rated, key=lambda one: one[0].f, default=(None, None))
    same = best is not None and best.f >= SAME
    header = segment.header_path.rpartition(" > ")[2] if segment else ""
    same_header = same and Text(header).words[-1] == Text(row["header"]).words[-1]
    larger = not same and any(counts.recall >= SAME for counts, _ in rated)
    if same:
        return same, same_header, larger, ""
    shown = f"OURS {segment.header_path} ({len(segment.text)})\n{segment.text}" if segment else "OURS none"
    rate = f"F {best.f:.2f}, precision {best.precision:.2f}, recall {best.recall:.2f}" if best else "no segment"
    return (
        same,
        same_header,
        larger,
        f"{rate}\nTHEIRS {' > '.join(row['heading_path'])} ({row['chars']})\n{row['text']}\n{shown}\n",
    )


def _write_differences(different: Sequence[str]) -> None:
    sample = random.Random(0).sample(list(different), min(DIFFERENCES, len(different)))
    path = Path(tempfile.mkdtemp(prefix="humpback-differences-")) / "differences.txt"
    path.write_text("\n\n".join(sample), encoding="utf-8")
    print(f"{len(sample)} of {len(different)} segments of the manuals that ours lacks, to read: {path}")


if __name__ == "__main__":
    main()
