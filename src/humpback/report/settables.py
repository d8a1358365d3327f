"""The statistics of sets of pairs as tables, the same for the page, a terminal and Markdown. In: `describe_sets`. Out: cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from humpback.evaluation.describing import ALIKE, GROUPS, MIN_EQUAL
from humpback.evaluation.rootverbs import ACCURACY
from humpback.evaluation.stats import MIN_PAIRS
from humpback.report import figures
from humpback.report.runsets import MOST_NEAREST

__all__ = ["Table", "notes", "set_tables", "verb_lines"]

Row = Mapping[str, Any]


class Table(NamedTuple):
    """One table; a header that ends in `>` is of a right-aligned column."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


def set_tables(data: Row) -> Iterator[Table]:
    """Yield every table of the statistics, the paper's first."""
    sets = data["sets"]
    yield Table(
        "Sets of pairs",
        ["set", "rows>", "instruction chars>", "median>", "response chars>", "median>", "repeated>"],
        _sizes(sets),
    )
    headers = ["set", "read>", "orders>", "questions>", "neither>", "different verbs>"]
    yield Table("What is asked", headers, [_asked(row) for row in sets])
    yield Table(
        "Question words, and what was not read", ["set", "questions", "not English>"], [_questions(row) for row in sets]
    )
    headers = ["set", "compared>", "distinct-1>", "distinct-2>", "distinct-3>", "self-BLEU>"]
    yield Table("Variety of instructions, of equally many in each set", headers, [_variety(row) for row in sets])
    headers = ["set", "against", "found>", "share>", "nearest>", "95 %>", "alike>"]
    if found := [_overlap(row, one) for row in sets for one in row["overlap"]]:
        yield Table("Overlap of instructions", headers, found)
    yield Table(
        "Languages and sources", ["set", "languages of responses", "sources>", "commonest"], [_mix(row) for row in sets]
    )


def verb_lines(row: Row) -> list[list[str]]:
    """Return the commonest verbs of a set, each with its share of the instructions read and its commonest objects."""
    return [
        [
            verb["verb"],
            figures.count(verb["n"]),
            f"{verb['share']:.1%}",
            ", ".join(f"{one['object']} {one['n']:,}" for one in verb["objects"])
            + (f"; others {verb['other_objects']:,}" if verb["other_objects"] else ""),
        ]
        for verb in row["asked"]["verbs"]
    ]


def notes(data: Row) -> list[str]:
    """Return what must be known to read the tables."""
    equal = f"{data['equal']:,} instructions of each set that has {MIN_EQUAL}" if data["equal"] else "none here"
    told = [
        "Lengths: mean and standard deviation, in characters, of all rows. Repeated: instructions that an earlier row has, apart "
        "from case and punctuation.",
        f"Verbs, objects and languages are those of at most {data['sample']:,} different rows of each set, drawn by the seed; what is "
        f"asked is told of English instructions only. On instructions read by hand the rule was right in {ACCURACY}.",
        f"Variety depends on how many are compared: it is of {equal}, distinct-n as a mean over up to {GROUPS} such groups. "
        "More distinct n-grams and a lower self-BLEU are more variety.",
        "Found: instructions that are one of those named, or share 13 words with one. Nearest: likeness of an instruction's "
        "words (Jaccard, by MinHash) to those of the seed's instruction most like it, median and 95th percentile, and how many are "
        f"alike ({ALIKE:g} or more); of the seed, to its own others. Both are of the rows drawn, and of at most "
        f"{MOST_NEAREST:,} of the seed.",
        f"Intervals are at {100 * data['confidence']:g} %; below {MIN_PAIRS} rows none is given.",
    ]
    for row in data["sets"]:
        for one in row["overlap"]:
            told += [f"{row['name']}, {one['with']}: {example}" for example in one["examples"][:1]]
    return told


def _sizes(sets: Sequence[Row]) -> list[list[str]]:
    whole = next((row["rows"] for row in sets if row["name"] == "candidates"), None)
    cells = []
    for row in sets:
        of = f" ({row['rows'] / whole:.1%})" if whole and row["name"].startswith(("curated", "rewritten")) else ""
        cells.append(
            [
                row["name"],
                figures.count(row["rows"]) + of,
                *_length(row["instruction"]),
                *_length(row["response"]),
                _share(row["repeated"]),
            ]
        )
    return cells


def _length(row: Row | None) -> list[str]:
    if row is None:
        return [figures.NOTHING, figures.NOTHING]
    spread = "" if row["sd"] is None else f" (sd {figures.count(row['sd'])})"
    return [figures.count(row["value"]) + spread, figures.count(row["quartiles"][1])]


def _asked(row: Row) -> list[str]:
    asked = row["asked"]
    return [
        row["name"],
        figures.count(asked["n"]),
        *(_share(asked[kind]) for kind in ("orders", "questions", "neither")),
        figures.count(asked["different_verbs"]),
    ]


def _questions(row: Row) -> list[str]:
    words = ", ".join(f"{one['name']} {_percent(one['share'])}" for one in row["asked"]["question_words"][:6])
    return [row["name"], words or figures.NOTHING, figures.count(row["asked"]["not_english"])]


def _variety(row: Row) -> list[str]:
    variety = row["variety"]
    if variety["why"]:
        return [row["name"], variety["why"], *[figures.NOTHING] * 4]
    distinct = [_estimate(variety["distinct"][n]) for n in ("1", "2", "3")]
    return [row["name"], figures.count(variety["n"]), *distinct, _estimate(variety["self_bleu"])]


def _overlap(row: Row, one: Row) -> list[str]:
    near = one["nearest"]
    nearest = (
        ["", "", ""] if near is None else [figures.auc(near["median"]), figures.auc(near["q95"]), _share(near["alike"])]
    )
    if one["itself"]:
        return [row["name"], "the others of it", "", "", *nearest]
    return [row["name"], one["with"], figures.count(one["rows"]), _share(one["shared"]), *nearest]


def _mix(row: Row) -> list[str]:
    told = [", ".join(f"{one['name']} {_percent(one['share'])}" for one in row["languages"][:4])]
    sources = row["sources"]
    common = ", ".join(f"{one['name']} {_percent(one['share'])}" for one in sources["commonest"][:4])
    return [row["name"], *told, figures.count(sources["different"]), common]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _share(row: Row | None) -> str:
    """`12.0% (10.1 to 14.2)`; without bounds where the rows are too few for any."""
    if row is None:
        return figures.NOTHING
    bounds = "too few rows" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    return f"{row['value']:.1%} ({bounds})"


def _estimate(row: Row | None) -> str:
    if row is None:
        return figures.NOTHING
    bounds = "" if row["low"] is None else f" ({figures.score(row['low'])} to {figures.score(row['high'])})"
    return figures.score(row["value"]) + bounds
