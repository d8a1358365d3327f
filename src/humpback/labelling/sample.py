"""Which candidates are labelled, and in which order: a stratified sample that grows as far as the labeller goes.

Strata are curated or rejected, by the band of the score that decided. Each gets the same number of labels, so that the few curated
pairs and the borderline are known as well as the rest; weights undo that. Within a stratum candidates lie in the order of their
sources and are visited as evenly as a growing sample can (bit reversal from a random start), so every beginning of the order is
spread over the sources and each candidate has the same chance. The order depends on the run's seed alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from humpback.errors import InputError
from humpback.recipe import load_recipe
from humpback.records import Candidate, Scored
from humpback.store.fingerprint import derive_seed, fingerprint
from humpback.store.rundir import RunDir, check_run
from humpback.store.shards import read_columns, read_records, shard_files

__all__ = ["Place", "Population", "Shown", "draw", "load_population"]

BANDS = ("low", "middle", "high")


class Place(NamedTuple):
    """Where a candidate stands in the sample."""

    pair_id: str
    stratum: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A candidate as the labeller may see it."""

    pair_id: str
    instruction: str
    response: str
    header_path: str
    source_uri: str
    scores: Mapping[str, float]


def _shown(row: Candidate | Scored, scores: Mapping[str, float]) -> Shown:
    return Shown(
        pair_id=row.id,
        instruction=row.instruction,
        response=row.response,
        header_path=row.header_path,
        source_uri=row.source_uri,
        scores=scores,
    )


@dataclass(frozen=True, kw_only=True)
class Population:
    """All candidates of a run, cut into strata."""

    run: Path
    random_seed: int
    iteration: int | None
    """Whose scores and curation the strata are of; None before anything is scored."""
    signal: str | None
    """The score whose bands they are."""
    decision: Mapping[str, Any] | None
    """How the iteration curated; None before it has."""
    strata: Mapping[str, tuple[str, ...]]
    """Candidate ids by stratum, in the order of their sources."""
    curated: frozenset[str]
    corrected: bool
    """Whether labels corrected the scores that the iteration curated by."""
    design: str
    """Fingerprint of the cut: labels of one design are weighted together."""

    def stratum_of(self) -> dict[str, str]:
        return {pair_id: stratum for stratum, ids in self.strata.items() for pair_id in ids}

    def read(self, wanted: Collection[str]) -> dict[str, Shown]:
        """Return the texts, sources and scores of some candidates."""
        if self.iteration is None:
            written = read_records(shard_files(self.run / "augment", "candidates"), Candidate)
            return {row.id: _shown(row, {}) for row in written if row.id in wanted}
        scored = read_records(shard_files(self.run / f"iteration-{self.iteration}/score", "scored"), Scored)
        return {row.id: _shown(row, row.scores) for row in scored if row.id in wanted}


def load_population(run: Path) -> Population:
    """Read ids, sources, scores and verdicts of a run's candidates: the last iteration that is scored, else augment's."""
    check_run(run)
    run_dir, recipe = RunDir(run), load_recipe(run / "recipe.yaml")
    numbers = (int(path.name[10:]) for path in run.glob("iteration-*") if path.name[10:].isdecimal())
    scored = [t for t in numbers if run_dir.manifest(f"iteration-{t}/score")]
    t = max(scored, default=None)
    if t is None:
        if run_dir.manifest("augment") is None:
            raise InputError(f"run folder {run} holds no candidates yet; `humpback status {run}` shows how far it is")
        rows = list(read_columns(shard_files(run / "augment", "candidates"), ("id", "source_uri")))
        return _populate(run, recipe.random_seed, rows, None, None, frozenset(), None, corrected=False)
    rows = list(read_columns(shard_files(run / f"iteration-{t}/score", "scored"), ("id", "source_uri", "scores")))
    curate = run_dir.manifest(f"iteration-{t}/curate")
    kept = read_columns(shard_files(run / f"iteration-{t}/curate", "curated"), ("id",)) if curate else iter(())
    curated = frozenset(str(row["id"]) for row in kept)
    decision = curate.result if curate else None
    correct = run_dir.manifest(f"iteration-{t}/correct")
    corrected = bool(correct and correct.result["correction"])
    return _populate(run, recipe.random_seed, rows, t, decision, curated, recipe.score.wanted[0], corrected=corrected)


def _populate(
    run: Path,
    random_seed: int,
    rows: Sequence[Mapping[str, Any]],
    iteration: int | None,
    decision: Mapping[str, Any] | None,
    curated: frozenset[str],
    first_signal: str | None,
    *,
    corrected: bool,
) -> Population:
    signal = str(decision["signal"]) if decision else first_signal
    values = {row["id"]: row["scores"][signal] for row in rows if signal in row["scores"]} if signal else {}
    edges = _band_edges(list(values.values()))
    strata: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: (row["source_uri"], row["id"])):
        pair_id = str(row["id"])
        parts = [("curated" if pair_id in curated else "rejected") if decision else "", ""]
        if signal:
            value = values.get(pair_id)
            parts[1] = "no value" if value is None else BANDS[sum(value > edge for edge in edges)]
        strata.setdefault(", ".join(filter(None, parts)) or "all", []).append(pair_id)
    cut = {"iteration": iteration, "signal": signal, "edges": list(edges), "rows": len(rows), "curated": len(curated)}
    digest = fingerprint({**cut, "strata": {name: fingerprint(ids) for name, ids in strata.items()}})
    return Population(
        run=run,
        random_seed=random_seed,
        iteration=iteration,
        signal=signal,
        decision=decision,
        strata={name: tuple(strata[name]) for name in sorted(strata)},
        curated=curated,
        corrected=corrected,
        design=digest,
    )


def _band_edges(values: Sequence[float]) -> tuple[float, ...]:
    """Return the two values that cut a list into thirds."""
    ordered = sorted(values)
    return tuple(ordered[len(ordered) * part // 3] for part in (1, 2)) if ordered else ()


def draw(population: Population) -> Iterator[Place]:
    """Yield every candidate in the order it is to be labelled: one of each stratum per round, in a hashed order.

    The hashed order keeps the labeller blind: a fixed one would tell which pair is curated.
    """
    orders = {name: _spread(ids, population.random_seed, name) for name, ids in population.strata.items()}
    while orders:
        found = {name: next(order, None) for name, order in orders.items()}
        orders = {name: order for name, order in orders.items() if found[name] is not None}
        places = [Place(pair_id, name) for name, pair_id in found.items() if pair_id is not None]
        yield from sorted(places, key=lambda place: derive_seed(population.random_seed, "label", place.pair_id))


def _spread(ids: Sequence[str], random_seed: int, stratum: str) -> Iterator[str]:
    bits = max(len(ids) - 1, 0).bit_length()
    start = derive_seed(random_seed, "label-start", stratum) % len(ids)
    for step in range(1 << bits):
        place = int(format(step, f"0{bits}b")[::-1], 2) if bits else 0
        if place < len(ids):
            yield ids[(place + start) % len(ids)]
