"""What a set of pairs is made of: how many, how long, what they ask for, in which languages, from where, how varied, seen where else.

In: rows, streamed once, and what they must be compared with. Out: plain values for JSON, tables and plots. Counts, lengths,
duplicates, sources and overlap are of every row (`tallying.py`); what is dearer is of a sample that depends on the
rows and the seed alone, never on their order, and each figure says of how many rows it is. Distinct-n and self-BLEU depend on how
many rows there are, and are of equally many of every set; different verbs and repeated rows depend on it too, and are of all that were
read.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from humpback.corpus.language import find_language
from humpback.evaluation.agreement import exact_share
from humpback.evaluation.lexical import distinct_share, mean_over_groups, nearest_likeness, self_bleu
from humpback.evaluation.responsefaults import SURE
from humpback.evaluation.rootverbs import Asked, find_asked
from humpback.evaluation.stats import MIN_PAIRS, Interval
from humpback.evaluation.tallying import Described, Reference, Row, Tally

__all__ = ["ALIKE", "GROUPS", "MIN_EQUAL", "Measuring", "describe_sets"]

VERBS, OBJECTS = 20, 4
"""The paper's figure: the 20 commonest verbs, each with its 4 commonest objects."""
MIN_EQUAL = 20
"""Sets of fewer rows are not compared in what depends on size."""
EQUAL = 200
"""Most rows of each set that self-BLEU and distinct-n compare: self-BLEU's time grows with the square."""
GROUPS = 5
"""Disjoint groups of so many that distinct-n is a mean over."""
SHOWN = 10
BINS = 24
ALIKE = 0.5
"""Likeness of words from which an instruction is said to be like another."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How figures are taken."""

    sample: int = 1000
    """Rows of each set whose words are tagged and whose language is told."""
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


def describe_sets(sets: Iterable[Described], references: Sequence[Reference], how: Measuring) -> dict[str, Any]:
    """Return the figures of every set, in order."""
    drawn = [(given, Tally(given, references, size=how.sample, seed=how.seed)) for given in sets]
    sizes = [len(found.sample()) for _, found in drawn]
    fit = [size for size in sizes if size >= MIN_EQUAL]
    equal = min([EQUAL, *fit]) if fit else 0
    described = [_describe(given, found, references, how, equal) for given, found in drawn]
    return {"sets": described, "equal": equal, "sample": how.sample, "confidence": how.confidence, "seed": how.seed}


def _describe(
    given: Described, found: Tally, references: Sequence[Reference], how: Measuring, equal: int
) -> dict[str, Any]:
    sample = found.sample()
    languages = [_language(row.response) for row in sample]
    asked = [find_asked(row.instruction) for row in sample if _language(row.instruction) in ("en", "unsure")]
    return {
        "name": given.name,
        "rows": found.rows,
        "instruction": _lengths(found.instructions, how),
        "response": _lengths(found.responses, how),
        "repeated": _share(found.repeated(), found.rows, how),
        "sample": len(sample),
        "asked": _asked(asked, len(sample), how),
        "languages": _commonest(Counter(languages)),
        "sources": {"different": len(found.sources), "commonest": _commonest(found.sources)},
        "variety": _variety([row.instruction for row in sample], how, equal),
        "overlap": [_overlap(r, found, sample, how, own=r.name == given.own) for r in references],
    }


def _lengths(values: array[int], how: Measuring) -> dict[str, Any] | None:
    """Return mean, spread and quartiles of lengths in characters, the mean's interval, and a histogram; None of no rows."""
    if not values:
        return None
    from scipy.stats import norm

    numbers = np.sort(np.frombuffer(values, dtype=np.uint32)).astype(
        np.float64
    )  # sums must not depend on the order of rows
    mean, spread = float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    half = None
    if spread is not None and len(numbers) >= MIN_PAIRS:
        half = float(norm.ppf((1 + how.confidence) / 2)) * spread / len(numbers) ** 0.5
    most = float(np.quantile(numbers, 0.98))
    counts, _ = np.histogram(np.minimum(numbers, most), bins=BINS, range=(0, max(most, 1.0)))
    return {
        "value": mean,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
        "n": len(numbers),
        "sd": spread,
        "quartiles": [float(q) for q in np.quantile(numbers, (0.25, 0.5, 0.75))],
        "most": float(numbers.max()),
        "histogram": {"low": 0.0, "high": max(most, 1.0), "counts": [int(n) for n in counts]},
    }


def _share(hits: int, n: int, how: Measuring) -> dict[str, Any] | None:
    """Return a share with Clopper and Pearson's interval; bounds are refused below a few rows, and there is no share of none."""
    if not n:
        return None
    if n < MIN_PAIRS:
        return asdict(Interval(value=hits / n, low=None, high=None, n=n))
    return asdict(exact_share(hits, n, confidence=how.confidence))


def _language(text: str) -> str:
    guess = find_language(text)
    return guess.code if guess.score >= SURE else "unsure"


def _commonest(counts: Counter[str]) -> list[dict[str, Any]]:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "n": number, "share": number / total} for name, number in ordered[:SHOWN]]


def _asked(asked: Sequence[Asked], sample: int, how: Measuring) -> dict[str, Any]:
    """Return what the English instructions of the sample ask for."""
    n, kinds = len(asked), Counter(one.kind for one in asked)
    orders = Counter(one.verb for one in asked if one.kind == "order")
    pairs = Counter((one.verb, one.object) for one in asked if one.kind == "order" and one.object)
    verbs = []
    for verb, number in sorted(orders.items(), key=lambda item: (-item[1], item[0]))[:VERBS]:
        own = sorted(((-count, noun) for (of, noun), count in pairs.items() if of == verb))
        verbs.append(
            {
                "verb": verb,
                "n": number,
                "share": number / n,
                "objects": [{"object": noun, "n": -count} for count, noun in own[:OBJECTS]],
                "other_objects": sum(-count for count, _ in own[OBJECTS:]),
            }
        )
    return {
        "n": n,
        "not_english": sample - n,
        "orders": _share(kinds["order"], n, how),
        "questions": _share(kinds["question"], n, how),
        "neither": _share(kinds["neither"], n, how),
        "with_object": sum(pairs.values()),
        "different_verbs": len(orders),
        "different_pairs": len(pairs),
        "verbs": verbs,
        "question_words": _commonest(Counter(one.verb for one in asked if one.kind == "question")),
    }


def _variety(texts: Sequence[str], how: Measuring, equal: int) -> dict[str, Any]:
    """Return distinct-n and self-BLEU of as many instructions as every set has."""
    if len(texts) < MIN_EQUAL:
        return {"n": 0, "why": f"{len(texts)} rows are fewer than {MIN_EQUAL}", "distinct": {}, "self_bleu": None}
    groups = [texts[start : start + equal] for start in range(0, len(texts) - equal + 1, equal)][:GROUPS]
    distinct = {}
    for n in (1, 2, 3):
        values = [share for group in groups if (share := distinct_share(group, n)) is not None]
        mean = mean_over_groups(values, equal, confidence=how.confidence)
        distinct[str(n)] = None if mean is None else {**asdict(mean), "groups": len(values)}
    bleu = self_bleu(groups[0], resamples=how.resamples, confidence=how.confidence, seed=how.seed)
    return {"n": equal, "why": "", "distinct": distinct, "self_bleu": None if bleu is None else asdict(bleu)}


def _overlap(reference: Reference, found: Tally, sample: Sequence[Row], how: Measuring, *, own: bool) -> dict[str, Any]:
    """Return how many of the set's instructions a reference has, and how alike the nearest of it are."""
    shared = None if own else _share(found.shares[reference.name], found.rows, how)
    near: Mapping[str, Any] | None = None
    texts = [row.instruction for row in sample]
    if own:
        near = _nearest(nearest_likeness(texts, texts, same=True), how) if len(texts) > 1 else None
    elif reference.texts and texts:
        near = _nearest(nearest_likeness(texts, reference.texts), how)
    return {
        "with": reference.name,
        "itself": own,
        "shared": shared,
        "rows": None if own else found.shares[reference.name],
        "examples": [] if own else found.shared[reference.name],
        "nearest": near,
    }


def _nearest(likeness: Any, how: Measuring) -> dict[str, Any]:
    median, most = (float(q) for q in np.quantile(likeness, (0.5, 0.95)))
    alike = _share(int((likeness >= ALIKE).sum()), len(likeness), how)
    return {"n": len(likeness), "median": median, "q95": most, "alike": alike}
