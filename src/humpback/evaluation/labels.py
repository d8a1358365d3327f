"""Human labels of a run's candidates, ready for the audit and for calibration: the pair, whether it is good, and its weight.

In: `labels.jsonl` and the candidates of a run. Out: one `LabelledPair` per candidate. A weight says for how many candidates of the
run a label speaks: rows of its stratum over labels in it. It follows from the labels there are, so it is right however early a
labeller stops. Labels drawn by different cuts into strata are weighted apart and share the whole by their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from humpback.evaluation.labellog import FILE_NAME, Event, pair_digest, read_events, standing_events
from humpback.records import Candidate
from humpback.store.fingerprint import fingerprint
from humpback.store.shards import read_records, shard_files

__all__ = ["LabelledPair", "Labels", "read_labels", "weigh"]


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    """A candidate that people judged."""

    pair_id: str
    instruction: str
    response: str
    header_path: str
    source_uri: str
    good: bool
    """What most of its labellers say."""
    label: float | None
    """Mean of the labels 1 to 5, None when nobody gave one."""
    labellers: int
    weight: float
    """Candidates of the run it speaks for."""
    stratum: str


@dataclass(frozen=True, kw_only=True)
class Labels:
    """All labels of a run that can be used, and how many cannot."""

    pairs: tuple[LabelledPair, ...]
    """In the order of their ids."""
    gone: int
    """Labelled candidates that the run no longer holds, or holds with another text."""
    split: int
    """Candidates that as many call good as bad: no verdict."""

    def identity(self) -> dict[str, str | int]:
        """Return what a stage that uses the labels puts into its identity."""
        said = [[pair.pair_id, pair.good, pair.label, round(pair.weight, 6)] for pair in self.pairs]
        return {"pairs": len(self.pairs), "digest": fingerprint(said)}


def read_labels(run: Path) -> Labels:
    """Return the labelled pairs of a run; empty when there is no labels.jsonl."""
    by_pair: dict[str, list[Event]] = {}
    for event in standing_events(read_events(run / FILE_NAME)):
        if event.event == "label":
            by_pair.setdefault(event.pair_id, []).append(event)
    candidates = _candidates(run, by_pair) if by_pair else {}
    known = {
        pair_id: fitting
        for pair_id, events in by_pair.items()
        if pair_id in candidates and (fitting := _fitting(events, candidates[pair_id]))
    }
    verdicts = {pair_id: _verdict(events) for pair_id, events in known.items()}
    weights = weigh(known[pair_id][-1] for pair_id in known if verdicts[pair_id] is not None)
    return Labels(
        pairs=tuple(
            _labelled(candidates[pair_id], known[pair_id], good=good, weight=weights[pair_id])
            for pair_id, good in sorted(verdicts.items())
            if good is not None
        ),
        gone=len(by_pair) - len(known),
        split=sum(good is None for good in verdicts.values()),
    )


def _candidates(run: Path, wanted: Mapping[str, object]) -> dict[str, Candidate]:
    rows = read_records(shard_files(run / "augment", "candidates"), Candidate)
    return {row.id: row for row in rows if row.id in wanted}


def _fitting(events: Sequence[Event], candidate: Candidate) -> list[Event]:
    digest = pair_digest(candidate.instruction, candidate.response)
    return [event for event in events if event.digest == digest]


def _verdict(events: Sequence[Event]) -> bool | None:
    votes = Counter(bool(event.good) for event in events)
    return None if votes[True] == votes[False] else votes[True] > votes[False]


def _labelled(candidate: Candidate, events: Sequence[Event], *, good: bool, weight: float) -> LabelledPair:
    given = [event.label for event in events if event.label is not None]
    return LabelledPair(
        pair_id=candidate.id,
        instruction=candidate.instruction,
        response=candidate.response,
        header_path=candidate.header_path,
        source_uri=candidate.source_uri,
        good=good,
        label=sum(given) / len(given) if given else None,
        labellers=len(events),
        weight=weight,
        stratum=events[-1].stratum,
    )


def weigh(labels: Iterable[Event]) -> dict[str, float]:
    """Return the weight of each pair; `labels` holds one event per pair."""
    events = list(labels)
    in_stratum = Counter((event.design, event.stratum) for event in events)
    in_design = Counter(event.design for event in events)
    return {
        event.pair_id: event.stratum_rows
        / in_stratum[event.design, event.stratum]
        * in_design[event.design]
        / len(events)
        for event in events
    }
