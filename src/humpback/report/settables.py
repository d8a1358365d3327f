"""The statistics of sets of pairs as tables, the same for the page, a terminal and Markdown. In: `describe_sets`. Out: cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from humpback.evaluation.describing import GROUPS, MIN_EQUAL
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
        ["set", "rows>", "instruction chars>", "median>", "output chars>", "median>", "repeated>"],
        _sizes(sets),
    )
    headers = ["set", "read>", "orders>", "questions>", "neither>", "different verbs>", "question words"]
    yield Table("What is asked", headers, [_asked(row) for row in sets])
    headers = ["set", "compared>", "distinct-1>", "distinct-2>", "distinct-3>", "self-BLEU>"]
    yield Table("Variety of instructions, of equally many in each set", headers, [_variety(row) for row in sets])
    headers = ["set", "against", "the same or 13 words>", "share>", "nearest, median>", "95 %>", "alike (0.5)>"]
    yield Table("Overlap of instructions", headers, [_overlap(row, one) for row in sets for one in row["overlap"]])
    yield Table(
        "Languages and sources", ["set", "languages of outputs", "sources>", "commonest"], [_mix(row) for row in sets]
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
        "Lengths: mean ± standard deviation, in characters, of all rows. Repeated: instructions that an earlier row has, apart "
        "from case and punctuation.",
        f"Verbs, objects and languages are those of at most {data['sample']:,} rows of each set, drawn by the seed; what is asked "
        f"is told of English instructions only. On instructions read by hand the rule was right in {ACCURACY}.",
        f"Variety depends on how many are compared: it is of {equal}, distinct-n as a mean over up to {GROUPS} such groups. "
        "More distinct n-grams and a lower self-BLEU are more variety.",
        "Nearest: likeness of an instruction's words (Jaccard, by MinHash) to those of the seed's instruction most like it; of the "
        f"seed, to the others of the seed. Both are of the rows drawn, and of at most {MOST_NEAREST:,} of the seed.",
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
    spread = "" if row["sd"] is None else f" ± {figures.count(row['sd'])}"
    return [figures.count(row["value"]) + spread, figures.count(row["quartiles"][1])]


def _asked(row: Row) -> list[str]:
    asked = row["asked"]
    words = ", ".join(f"{one['name']} {one['share']:.0%}" for one in asked["question_words"][:4])
    return [
        row["name"],
        figures.count(asked["n"]) + (f" (+{asked['not_english']:,} not English)" if asked["not_english"] else ""),
        *(_share(asked[kind]) for kind in ("orders", "questions", "neither")),
        figures.count(asked["different_verbs"]),
        words,
    ]


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
    told = [", ".join(f"{one['name']} {one['share']:.0%}" for one in row["languages"][:4])]
    sources = row["sources"]
    common = ", ".join(f"{one['name']} {one['share']:.0%}" for one in sources["commonest"][:4])
    return [row["name"], *told, figures.count(sources["different"]), common]


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
