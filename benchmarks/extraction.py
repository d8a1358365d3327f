"""Extracted main content of real pages against gold: ours, trafilatura's and resiliparse's on the same pages.

In: the pages and gold of the test data. Out: scores by extractor. `corpus.py` writes them into its result; called by hand, this
script keeps the others' texts in `.cache`, so that only ours is done again, and shows where ours is worst.
Every extractor gets the same decoded string, decoded by resiliparse's detection: charsets are not what is compared here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import logging
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gold import (
    DATA,
    NOTHING,
    Counts,
    Text,
    boilerplate_chars,
    chrome_of,
    fragment_counts,
    have_data,
    missing_of,
    read_pages,
    read_rows,
    recipe_counts,
    shingle_counts,
)
from harness import ROOT

__all__ = ["ARCHIVES", "EXTRACTORS", "Case", "Score", "decode", "extract_all", "load", "missing_tools", "score"]

ARCHIVES = {name: f"web/{name}-pages.tar.gz" for name in ("trafilatura", "recipes", "readability")}
_CACHE = ROOT / ".cache" / "extraction"
_FORM = 1
"""Changes when what is cached does."""


class Case(NamedTuple):
    """A page and its gold."""

    name: str
    html: str
    gold: dict[str, Any]


def decode(data: bytes) -> str:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return bytes_to_str(data, detect_encoding(data))


def by_ours(html: str) -> str:
    from humpback.corpus.html import read_page

    return read_page(html).text()


def by_trafilatura(html: str, **more: Any) -> str:
    import trafilatura

    return trafilatura.extract(html, include_comments=False, **more) or ""


def by_trafilatura_recall(html: str) -> str:
    return by_trafilatura(html, favor_recall=True)


def by_resiliparse(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=True, preserve_formatting=True, alt_texts=False)


def by_nobody(html: str) -> str:
    """Return all that can be seen on the page: how much of the gold is there to be found."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=False, preserve_formatting=True, alt_texts=False, noscript=True)


EXTRACTORS: dict[str, Callable[[str], str]] = {
    "ours": by_ours,
    "trafilatura": by_trafilatura,
    "trafilatura_recall": by_trafilatura_recall,
    "resiliparse": by_resiliparse,
    "whole_page": by_nobody,
}


def missing_tools() -> list[str]:
    """Return the packages of the `bench` extra that are not installed."""
    return [name for name in ("trafilatura", "resiliparse") if importlib.util.find_spec(name) is None]


def load(kind: str, limit: int | None = None) -> list[Case]:
    """Read the pages of a kind that have gold; a page without any is left out."""
    golds = _readability() if kind == "readability" else _golds(kind)
    pages = {}
    for name, data in read_pages(ARCHIVES[kind]):
        if name in golds:
            pages[name] = data
            if len(pages) == limit:
                break
    return [Case(name, decode(data), golds[name]) for name, data in pages.items()]


def _golds(kind: str) -> dict[str, dict[str, Any]]:
    golds = {}
    for row in read_rows(f"web/{kind}-gold.jsonl.gz"):
        if kind == "trafilatura":
            gold = {"with": row.get("with") or [], "without": row.get("without") or []}
        else:
            gold = {"steps": _listed(row.get("instructions_list")), "ingredients": _listed(row.get("ingredients"))}
        if any(gold.values()):
            golds[row["page"]] = gold
    return golds


def _listed(value: Any) -> list[str]:
    """Return distinct entries that hold a word; anything but a list is a page whose gold failed."""
    return list(dict.fromkeys(one for one in value if Text(one).words[0])) if isinstance(value, list) else []


def _readability() -> dict[str, dict[str, Any]]:
    return {
        name.replace("expected.html", "source.html"): {"expected": by_nobody(decode(data))}
        for name, data in read_pages(ARCHIVES["readability"])
        if name.endswith("/expected.html")
    }


@dataclass(kw_only=True)
class Score:
    """What an extractor reached on the pages of one kind."""

    fragments: Counts = NOTHING
    """Of trafilatura's gold."""
    steps: Counts = NOTHING
    """Of the recipes' gold."""
    ingredients: Counts = NOTHING
    boilerplate: Counts = NOTHING
    """Characters of lines that the recipes' pages have only in navigation, footers, side bars and the like (`fp`)."""
    shingles: Counts = NOTHING
    """Word 4-grams of the readability pages: all pages together."""
    page_f: list[float] = field(default_factory=list)
    """F of each readability page."""
    chars: int = 0
    empty: int = 0
    """Pages without any text."""


def score(cases: Sequence[Case], texts: Mapping[str, str]) -> Score:
    """Score the texts, by page name."""
    total = Score()
    for case in cases:
        text = Text(texts[case.name])
        total.chars += len(text.raw)
        total.empty += not text.raw.strip()
        if "with" in case.gold:
            total.fragments = total.fragments.plus(fragment_counts(text, case.gold))
        elif "steps" in case.gold:
            steps, ingredients = recipe_counts(text, case.gold)
            total.steps, total.ingredients = total.steps.plus(steps), total.ingredients.plus(ingredients)
            chrome = chrome_of(case.html, case.gold)
            total.boilerplate = total.boilerplate.plus(boilerplate_chars(text, chrome))
        else:
            counts = shingle_counts(text, Text(case.gold["expected"]))
            total.shingles = total.shingles.plus(counts)
            total.page_f.append(counts.f)
    return total


def extract_all(extractor: str, cases: Iterable[Case]) -> dict[str, str]:
    """Extract every page; a page on which the extractor raises has no text."""
    extract, texts = EXTRACTORS[extractor], {}
    for case in cases:
        try:
            texts[case.name] = extract(case.html)
        except ImportError:
            raise
        except Exception as problem:
            print(f"{extractor}: {case.name}: {type(problem).__name__}: {problem}", file=sys.stderr)
            texts[case.name] = ""
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dev", action="store_true", help="keep the other extractors' texts; the only way to call it")
    parser.add_argument("--kind", choices=sorted(ARCHIVES), action="append", help="only this kind of page; repeatable")
    parser.add_argument("--misses", type=int, default=0, metavar="N", help="show the N pages on which ours is worst")
    parser.add_argument("--page", metavar="NAME", help="print our text of the pages whose name contains this")
    parser.add_argument(
        "--extractor", choices=sorted(EXTRACTORS), default="ours", help="whose text --page, --misses show"
    )
    asked = parser.parse_args()
    if missing_tools():
        raise SystemExit(f"{', '.join(missing_tools())} not installed: pip install '.[bench]'")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    for kind in asked.kind or ARCHIVES:
        if have_data(ARCHIVES[kind]):
            _develop(kind, asked)
        else:
            print(f"{DATA / ARCHIVES[kind]} is not there; {kind} is left out")


def _develop(kind: str, asked: argparse.Namespace) -> None:
    cases = _cached(f"{kind}-pages", lambda: load(kind))
    if asked.page:
        for case in (case for case in cases if asked.page in case.name):
            text = EXTRACTORS[asked.extractor](case.html)
            print(f"=== {case.name}\n{text}\n--- missing, and there against the gold: {_wrong(case, text)}")
        return
    started = time.process_time()
    try:
        ours = extract_all("ours", cases)
    except ImportError as problem:
        print(f"ours cannot be imported yet: {problem}")
        ours = {}
    print(f"\n{kind}: {len(cases)} pages, ours in {time.process_time() - started:.2f} s")
    shown = {}
    for name in EXTRACTORS:
        if name == "ours" and not ours:
            continue
        texts = ours if name == "ours" else _cached(f"{kind}-{name}", lambda name=name: extract_all(name, cases))
        make = lambda texts=texts: score(cases, texts)  # noqa: E731
        shown[name] = make() if name == "ours" else _cached(f"{kind}-{name}-score-{_form()}", make)
        print(f"  {name:20}{_line(shown[name])}")
        if name == asked.extractor and asked.misses:
            worst = texts
    if asked.misses:
        _show_misses(cases, worst, asked.misses)


def _form() -> int:
    return int((ROOT / "benchmarks" / "gold.py").stat().st_mtime)


def _cached(name: str, make: Callable[[], Any]) -> Any:
    """Return what was made under this name by these versions, or make it."""
    versions = "-".join(importlib.metadata.version(package) for package in ("trafilatura", "resiliparse"))
    path = _CACHE / f"{name}-{versions}-{_FORM}.pickle"
    if path.is_file():
        return pickle.loads(path.read_bytes())
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(made))
    return made


def _line(total: Score) -> str:
    """Return a kind's figures in one line, in percent."""
    parts = []
    if sum(total.fragments):
        found = total.fragments
        parts.append(
            f"F {found.f:6.2%}  precision {found.precision:6.2%}  recall {found.recall:6.2%}  accuracy {found.accuracy:6.2%}  "
            f"missed {found.fn}  wrong {found.fp}"
        )
    if sum(total.steps):
        parts.append(
            f"steps {total.steps.recall:6.2%}  ingredients {total.ingredients.recall:6.2%}  "
            f"not content {1 - total.boilerplate.precision:6.2%}"
        )
    if total.page_f:
        mean = sum(total.page_f) / len(total.page_f)
        shingles = total.shingles
        parts.append(f"mean F {mean:6.2%}  all: precision {shingles.precision:6.2%}  recall {shingles.recall:6.2%}")
    return "  ".join([*parts, f"{total.chars:,} characters, {total.empty} empty"])


def _show_misses(cases: Sequence[Case], texts: Mapping[str, str], number: int) -> None:
    ranked = sorted(cases, key=lambda case: _badness(case, texts[case.name]), reverse=True)
    for case in ranked[:number]:
        missing, wrong = _wrong(case, texts[case.name])
        print(f"\n{case.name} ({len(texts[case.name]):,} characters)")
        for sign, parts in (("missing", missing), ("against", wrong)):
            print("".join(f"  {sign}: {' '.join(part.split())[:80]}\n" for part in parts[:12]), end="")


def _badness(case: Case, text: str) -> float:
    if "expected" in case.gold:
        return 1 - shingle_counts(Text(text), Text(case.gold["expected"])).f
    missing, wrong = _wrong(case, text)
    asked = sum(len(part) for part in case.gold.values())
    return (len(missing) + len(wrong)) / asked if "steps" in case.gold else len(missing) + len(wrong)


def _wrong(case: Case, text: str) -> tuple[list[str], list[str]]:
    """Return what is missing of the gold and what is there against it."""
    if "expected" not in case.gold:
        return missing_of(Text(text), case.gold)
    expected, got = (Text(each) for each in (case.gold["expected"], text))
    missing = [line for line in case.gold["expected"].splitlines() if line.strip() and not got.has_step(line)]
    return missing, [line for line in text.splitlines() if line.strip() and not expected.has_step(line)]


if __name__ == "__main__":
    main()
