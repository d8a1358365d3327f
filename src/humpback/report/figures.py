"""A finished run's figures: reads report.json, and rounds alike for the page, a terminal and Markdown.

Figures are plain ASCII: a sign that a terminal cannot show would be a wrong figure.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from humpback.errors import InputError, StorageError
from humpback.evaluation.corruptions import KINDS
from humpback.evaluation.signs import MIN_GAIN
from humpback.progress import format_seconds
from humpback.store.rundir import check_run

__all__ = [
    "SIGNAL_WORDS",
    "agreement",
    "auc",
    "clean",
    "count",
    "count_with_reasons",
    "cutoffs",
    "difference",
    "duration",
    "headline",
    "interval",
    "judgement",
    "kinds",
    "load_report",
    "nll",
    "percent",
    "plain",
    "promise",
    "promise_by_people",
    "rate",
    "reasons",
    "replies",
    "score",
    "shorten",
    "weakest",
]

NOTHING = "-"
"""Shown where a figure is unknown: never 0, never NaN."""

SIGNAL_WORDS: Mapping[str, str] = {
    "rating": "the model's own rating of the pair, 1 to 5, as the expected value of its probabilities",
    "sampled_rating": "the mean score, 1 to 5, of several replies of the model that reason first, the paper's way",
    "rating_label_mass": "how much probability fell on the five ratings: how far the model answered on the menu",
    "ifd": "how much of the response's surprise the instruction leaves, log p(y given x) / log p(y); lower is better",
    "probe": "log-odds of a true pair, read by a linear model from the scoring model's hidden states",
    "p_good": "all signals combined: the probability of a true pair where half of the pairs are true, as in the audit",
    "backward_lift": "how much likelier the response makes the instruction, nats per token, under the backward model",
    "forward_lift": "how much likelier the instruction makes the response, nats per token, under the scoring model",
    "text": "how free the pair is of faults that its text alone shows (a list of links, a cut end, a blog's voice), 0 to 1",
}

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
Row = Mapping[str, Any]


def load_report(run: Path) -> dict[str, Any]:
    """Return report.json of a complete run."""
    path = run / "report" / "report.json"
    if not run.is_dir():
        check_run(run)
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"run folder {run} holds no report ({path}); `humpback status {run}` shows how far it is, "
            "and `humpback run` with its recipe completes it"
        ) from None
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}); run again with --rerun-from report") from error
    if "written" not in data:
        raise InputError(f"{path} is of an earlier version; `humpback run` with --rerun-from report writes it anew")
    return data


def count(value: float | None) -> str:
    """12345 -> 12,345."""
    return NOTHING if value is None else f"{round(value):,}"


def auc(value: float | None) -> str:
    """Two decimals, a third where two would claim a perfect 0 or 1."""
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value in (0, 1) or 0.005 <= value < 0.995 else f"{value:.3f}"


def nll(value: float | None) -> str:
    """Nats per token."""
    return NOTHING if value is None else f"{value:.3f}"


def difference(value: float | None) -> str:
    """Nats per token, with its sign unless it rounds to zero."""
    return NOTHING if value is None else f"{value:+.4f}" if abs(value) >= 5e-5 else "0.0000"


def percent(value: float | None) -> str:
    """One decimal; the column says of what."""
    return NOTHING if value is None else f"{value:.1f} %"


def plain(value: float) -> str:
    """One decimal, where the unit has been told."""
    return f"{value:.1f}"


def score(value: float | None) -> str:
    """A signal's value, three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def rate(value: float | None) -> str:
    """Rows per second."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """0.2 s, 42 s, 3:05, 1:02:03."""
    if seconds is None:
        return NOTHING
    if seconds < 0.05:
        return "<0.1 s"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s" if seconds < 59.5 else format_seconds(seconds)


def kinds(audits: Sequence[Row]) -> list[str]:
    """The corruptions that some signal has a figure for, in the audit's order, and their mean, `all`."""
    found = {kind for audit in audits for entry in audit["signals"] for kind in entry["auc"]}
    return [kind for kind in (*KINDS, "all") if kind in found]


def weakest(entry: Row, count: int = 3) -> str:
    """`echo 0.24, cut_end 0.36`: what a signal sees least of."""
    values = sorted((row["value"], kind) for kind, row in entry["auc"].items() if kind != "all")
    return ", ".join(f"{kind} {auc(value)}" for value, kind in values[:count]) or NOTHING


def promise(calibration: Row, prevalence: float = 0.5) -> list[list[str]]:
    """For each cut-off of P(good): the cut-off, true pairs kept, corrupted ones passed, precision and its lower bound."""
    rows = []
    for point in calibration["points"]:
        shares = [
            _precision(kept, passed, prevalence)
            for kept, passed in ((point["kept"], point["passed"]), (point["kept_low"], point["passed_high"]))
        ]
        rows.append([score(value) for value in (point["threshold"], point["kept"], point["passed"], *shares)])
    return rows


def cutoffs(cuts: Sequence[Row]) -> list[list[str]]:
    """Return one row per signal: its cut-off, recall, precision over all corruptions, and the corruptions it keeps out least."""
    return [
        [
            entry["signal"],
            score(entry["cut"]),
            "no value"
            if entry["recall"] is None
            else f"{auc(entry['recall']['value'])} ({interval(entry['recall'], auc)})",
            f"{auc(whole['value'])} ({interval(whole, auc)})"
            if (whole := entry["precision"].get("all"))
            else "nothing passes",
            ", ".join(
                f"{kind} {auc(row['value'])}"
                for kind, row in sorted(entry["precision"].items(), key=lambda item: item[1]["value"])[:3]
                if kind != "all"
            ),
        ]
        for entry in cuts
    ]


def promise_by_people(worth: Row) -> list[list[str]]:
    """Return one row per share of the candidates: from which corrected P(good), labels in it, precision, and its lower bound."""
    return [
        [
            f"{point['share']:.0%}",
            score(point["threshold"]),
            count(point["labels"]),
            score(point["precision"]),
            score(point["precision_low"]),
        ]
        for point in worth["points"]
    ]


def _precision(kept: float, passed: float, prevalence: float) -> float | None:
    good, bad = prevalence * kept, (1 - prevalence) * passed
    return good / (good + bad) if good + bad else None


def agreement(row: Row) -> str:
    """`p_good: kappa 0.81, rank correlation 0.90`, per signal."""
    return "; ".join(
        f"{name}: kappa {score(both['kappa'])}, rank correlation {score(both['spearman'])}"
        for name, both in row.items()
    )


def interval(row: Row, how: Any) -> str:
    """The bounds of an estimate; says so where the pairs are too few to give any."""
    return "too few pairs" if row["low"] is None else f"{how(row['low'])} to {how(row['high'])}"


def reasons(by_reason: Mapping[str, int] | None) -> str:
    """`below_top 12, no_rating 3`, the commonest first."""
    ordered = sorted((by_reason or {}).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count(number)}" for reason, number in ordered)


def count_with_reasons(by_reason: Mapping[str, int] | None) -> str:
    """Return how many rows, and of which reasons."""
    if by_reason is None:
        return NOTHING
    return f"{count(sum(by_reason.values()))} ({reasons(by_reason)})" if by_reason else "0"


def replies(counts: Mapping[str, int]) -> str:
    """Tell what came of a stage's sampled ratings; empty when it drew none."""
    if not counts:
        return ""
    without = {
        name.replace("_", " "): counts[name] for name in ("truncated", "unparsed", "out_of_range") if counts[name]
    }
    again = {name: counts[name] for name in ("constrained", "resampled") if counts[name]}
    told = f"{count(counts['replies'])} sampled replies for {count(counts['pairs'])} pairs: {count(counts['parsed'])} parsed"
    if without:
        told += f", {count(counts['retried'])} retried ({reasons(without)}) and then {reasons(again) or 'none of them'} read"
    return told + (f", {count(counts['failed'])} failed" if counts["failed"] else "")


def judgement(row: Row) -> str:
    """What a paired difference of NLL says of its first model; below zero is better."""
    if row["low"] is None:
        return "too few pairs"
    return "better" if row["high"] < 0 else "worse" if row["low"] > 0 else "not told apart"


def clean(text: str) -> str:
    """Drop what text from the web must not do in a terminal: escape sequences, control and direction characters."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    return "".join(c for c in text if c == "\n" or not (c in _BIDI or unicodedata.category(c) in ("Cc", "Cs")))


def shorten(text: str, limit: int) -> str:
    """Cut at a word's end and mark the cut."""
    if len(text) <= limit:
        return text
    head = text[:limit]
    return (head.rsplit(None, 1)[0] if " " in head else head) + " ..."


def headline(data: Row) -> list[str]:
    """The answers to the three questions of a run, from the paired differences only."""
    last, pairs = data["iterations"]["published"], count(data["evaluation"]["pairs"])
    answer = data["evaluation"]["response_nll"]["both tags"]
    steps = {row["stage"]: row["steps"] for row in data["training"]}
    compared = f"({steps[f'iteration-{last}/finetune']} training steps against {steps['iteration-0/finetune']})"
    ruled_out = f"(one of {MIN_GAIN} nats per token is ruled out, {pairs} held-out pairs)."
    told = [
        _tell(
            data["evaluation"]["instruction_nll"],
            ("M_yx", "base"),
            better="The backward model writes the held-out instructions better than the base model.",
            worse="The backward model is worse than the base model at writing the held-out instructions.",
            unclear=f"Whether the backward model learnt anything cannot be told from {pairs} held-out pairs.",
            flat=f"The backward model learnt nothing worth having {ruled_out}",
        ),
        _tell(
            answer,
            (f"M_{last}", "M_0"),
            better=f"The curated pairs helped: M_{last} beats M_0, the model trained on the seed alone {compared}.",
            worse=f"The curated pairs did harm: M_{last} is worse than M_0, the model trained on the seed alone {compared}.",
            unclear=f"Whether the curated pairs helped (M_{last} against M_0, the seed alone) "
            f"cannot be told from {pairs} held-out pairs.",
            flat=f"The curated pairs brought M_{last} no gain worth having over M_0, the seed alone {ruled_out}",
        ),
        _tell(
            answer,
            ("control", f"M_{last}"),
            better=f"Curation did harm: the control, trained on as many uncurated pairs, beats M_{last}.",
            worse=f"Curation helped: the control, trained on as many uncurated pairs, is worse than M_{last}.",
            unclear=f"Whether curation helped (the control with as many uncurated pairs against M_{last}) "
            f"cannot be told from {pairs} held-out pairs.",
            flat=f"Curation brought M_{last} no gain worth having over the control, as many uncurated pairs {ruled_out}",
            gains_above=True,
        ),
    ]
    return [line for line in told if line]


def _tell(
    table: Row, models: tuple[str, str], *, better: str, worse: str, unclear: str, flat: str, gains_above: bool = False
) -> str | None:
    """Say which it is; `flat` where the interval holds zero and no gain worth having, by the limit of the signs of failure."""
    row = next((d for d in table["differences"] if (d["model"], d["against"]) == models), None)
    if row is None:
        return None
    found = judgement(row)
    if found == "not told apart" and (row["high"] if gains_above else -row["low"]) < MIN_GAIN:
        return flat
    return {"better": better, "worse": worse}.get(found, unclear)
