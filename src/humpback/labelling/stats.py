"""What the labels say: how precise the curation is, how good the candidates are, and how far labellers agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback.evaluation.agreement import cohen_kappa, weighted_share
from humpback.evaluation.labellog import FILE_NAME, Event, read_events, standing_events
from humpback.evaluation.labels import LabelledPair, read_labels
from humpback.evaluation.stats import Interval
from humpback.labelling.sample import Population

__all__ = ["measure", "stat_lines"]

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two labellers say the same of the pairs both labelled."""

    labellers: tuple[str, str]
    pairs: int
    same: float
    """Share on which both say good, or both bad."""
    kappa: float | None
    """Cohen's, of good and bad; None when both say one and the same of every pair."""
    graded: int
    """Pairs to which both gave 1 to 5."""
    kappa_graded: float | None
    """Cohen's with quadratic weights, of the labels 1 to 5."""


def measure(population: Population) -> dict[str, Any]:
    """Return everything `--stats` prints, as plain values."""
    labels = read_labels(population.run)
    events = standing_events(read_events(population.run / FILE_NAME))
    pairs = labels.pairs
    curated = [pair for pair in pairs if pair.pair_id in population.curated]
    good = [pair for pair in pairs if pair.good]
    return {
        "run": str(population.run),
        "pairs": len(pairs),
        "gone": labels.gone,
        "split": labels.split,
        "candidates": sum(map(len, population.strata.values())),
        "iteration": population.iteration,
        "decision": dict(population.decision) if population.decision else None,
        "corrected": population.corrected,
        "labellers": _labellers(events),
        "good": _share(pairs, lambda pair: pair.good),
        "precision": _share(curated, lambda pair: pair.good) if population.decision else None,
        "recall": _share(good, lambda pair: pair.pair_id in population.curated) if population.decision else None,
        "strata": _strata(population, pairs),
        "agreement": [asdict(agreement) for agreement in _agreements(events)],
    }


def _labellers(events: Sequence[Event]) -> list[dict[str, Any]]:
    names = dict.fromkeys(event.labeller for event in events)
    return [
        {
            "labeller": name,
            "labelled": sum(e.labeller == name and e.event == "label" for e in events),
            "skipped": sum(e.labeller == name and e.event == "skip" for e in events),
        }
        for name in names
    ]


def _share(pairs: Sequence[LabelledPair], hit: Any) -> dict[str, Any] | None:
    if not pairs:
        return None
    interval: Interval = weighted_share([hit(p) for p in pairs], [p.weight for p in pairs], confidence=CONFIDENCE)
    return asdict(interval)


def _strata(population: Population, pairs: Sequence[LabelledPair]) -> list[dict[str, Any]]:
    now = population.stratum_of()
    rows = []
    for name, ids in population.strata.items():
        inside = [pair for pair in pairs if now.get(pair.pair_id) == name]
        rows.append(
            {
                "stratum": name,
                "candidates": len(ids),
                "labelled": len(inside),
                "good": sum(pair.good for pair in inside),
            }
        )
    return rows


def _agreements(events: Sequence[Event]) -> list[Agreement]:
    said: dict[str, dict[str, Event]] = {}
    for event in events:
        if event.event == "label":
            said.setdefault(event.labeller, {})[event.pair_id] = event
    found = []
    for one, other in itertools.combinations(said, 2):
        both = sorted(said[one].keys() & said[other].keys())
        if both:
            found.append(_agreement((one, other), [(said[one][i], said[other][i]) for i in both]))
    return found


def _agreement(names: tuple[str, str], both: Sequence[tuple[Event, Event]]) -> Agreement:
    graded = [(a.label, b.label) for a, b in both if a.label is not None and b.label is not None]
    return Agreement(
        labellers=names,
        pairs=len(both),
        same=sum(a.good == b.good for a, b in both) / len(both),
        kappa=cohen_kappa([a.good for a, _ in both], [b.good for _, b in both]),
        graded=len(graded),
        kappa_graded=cohen_kappa([a for a, _ in graded], [b for _, b in graded], ordinal=True) if graded else None,
    )


def stat_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the same in words."""
    lines = [f"{found['pairs']} of {found['candidates']} candidates are labelled"]
    for row in found["labellers"]:
        lines.append(f"  by {row['labeller']}: {row['labelled']} labelled, {row['skipped']} skipped")
    if found["split"]:
        lines.append(f"  {found['split']} more have as many labels good as bad, and count for neither")
    if found["gone"]:
        lines.append(f"  {found['gone']} more were labelled and are no longer in this run")
    if found["good"]:
        lines.append(f"good among all candidates: {_tell(found['good'])}")
    if decision := found["decision"]:
        how = f"{decision['signal']}, {decision['policy']} {decision['value']:g}"
        lines.append(f"curation of iteration {found['iteration']} ({how}):")
        for word, what in (("precision", "good among the curated"), ("recall", "curated among the good")):
            lines.append(f"  {word}, {what}: " + (_tell(found[word]) if found[word] else "no such pair is labelled"))
        if found["corrected"]:
            lines.append(
                "  labels corrected the scores of this curation (curate.labels), so by the same labels it looks better than it is; "
                "the report tells its precision by labels that no correction saw"
            )
    if found["pairs"]:
        lines.append("by stratum: good / labelled / candidates")
        for row in found["strata"]:
            lines.append(f"  {row['stratum']}: {row['good']} / {row['labelled']} / {row['candidates']}")
        unseen = sum(row["candidates"] for row in found["strata"] if not row["labelled"])
        if unseen:
            share = unseen / found["candidates"]
            lines.append(
                f"  {share:.0%} of the candidates lie in strata without a label: the figures above leave them out"
            )
    for row in found["agreement"]:
        one, other = row["labellers"]
        kappa = "undefined (both always say the same)" if row["kappa"] is None else f"{row['kappa']:.2f}"
        line = f"{one} and {other} on {row['pairs']} pairs: {row['same']:.0%} the same, kappa {kappa}"
        if row["kappa_graded"] is not None:
            line += f"; on {row['graded']} labels 1 to 5 quadratic kappa {row['kappa_graded']:.2f}"
        lines.append(line)
    return lines


def _tell(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.2f} ({CONFIDENCE:.0%} interval {row['low']:.2f} to {row['high']:.2f}, {row['n']} labelled)"
