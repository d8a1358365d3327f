"""One labeller's way through the sample: which pair is next, and what an answer, a skip or an undo writes. Knows no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from humpback.evaluation.labellog import (
    FILE_NAME,
    append_events,
    make_event,
    pair_digest,
    read_events,
    standing_events,
)
from humpback.labelling.sample import Place, Population, Shown, draw

__all__ = ["Session"]

READ_AT_ONCE = 64
"""Pairs whose texts are read together: the files are read through for each such read."""


class Session:
    """Answers are in `labels.jsonl` when the method returns; a new session goes on where the last one stopped."""

    def __init__(self, population: Population, labeller: str, count: int) -> None:
        """`count` is how many pairs this labeller is to label, earlier sessions included."""
        self.population, self.labeller, self.count = population, labeller, count
        self.path: Path = population.run / FILE_NAME
        mine = [event for event in standing_events(read_events(self.path)) if event.labeller == labeller]
        self._mine = mine
        self._answered = {event.pair_id for event in mine}
        self._order: Iterator[Place] = draw(population)
        self._strata = population.stratum_of()
        self._texts: dict[str, Shown] = {}
        self._back: list[str] = []
        """Pairs whose answer was taken back, to be shown again."""
        self.current: Shown | None = None
        self.advance()

    @property
    def labelled(self) -> int:
        return sum(event.event == "label" for event in self._mine)

    @property
    def skipped(self) -> int:
        return len(self._mine) - self.labelled

    @property
    def last(self) -> str:
        """What the labeller said last, in a word."""
        if not self._mine:
            return ""
        event = self._mine[-1]
        if event.event == "skip":
            return "skipped"
        return f"{event.label} ({'good' if event.good else 'bad'})" if event.label else "good" if event.good else "bad"

    def stratum(self) -> str:
        """Return the stratum of the current pair."""
        return self._strata[self.current.pair_id] if self.current else ""

    def answer(self, *, label: int | None = None, good: bool | None = None, note: str = "") -> None:
        """Label the current pair and go on to the next."""
        self._write("label", label=label, good=good, note=note)

    def skip(self, *, note: str = "") -> None:
        """Leave the current pair out; another of its stratum comes later in its place."""
        self._write("skip", note=note)

    def undo(self) -> bool:
        """Take back this labeller's last answer and show its pair again; return False when there is none."""
        if not self._mine:
            return False
        last = self._mine.pop()
        append_events(
            self.path,
            [make_event("undo", pair_id=last.pair_id, digest=last.digest, labeller=self.labeller)],
        )
        # an earlier answer on the same pair (from an import) stands again
        again = [e for e in standing_events(read_events(self.path)) if e.labeller == self.labeller]
        self._mine = again
        self._answered = {event.pair_id for event in again}
        if self.current:
            self._back.append(self.current.pair_id)
        if last.pair_id in self._strata and last.pair_id not in self._answered:
            self._back.append(last.pair_id)
        self.advance()
        return True

    def advance(self) -> None:
        """Take the next pair; `current` is None when enough are labelled or none is left."""
        self.current = None
        if self.labelled >= self.count:
            return
        while self._back:
            pair_id = self._back.pop()
            if pair_id not in self._answered:
                self.current = self._read(pair_id)
                return
        place = next((place for place in self._order if place.pair_id not in self._answered), None)
        self.current = self._read(place.pair_id) if place else None

    def _write(self, event: str, *, label: int | None = None, good: bool | None = None, note: str = "") -> None:
        assert self.current is not None
        stratum = self.stratum()
        written = make_event(
            "label" if event == "label" else "skip",
            pair_id=self.current.pair_id,
            digest=pair_digest(self.current.instruction, self.current.response),
            labeller=self.labeller,
            label=label,
            good=good,
            note=note,
            design=self.population.design,
            stratum=stratum,
            stratum_rows=len(self.population.strata[stratum]),
        )
        append_events(self.path, [written])
        self._mine.append(written)
        self._answered.add(written.pair_id)
        self.advance()

    def _read(self, pair_id: str) -> Shown:
        if pair_id not in self._texts:
            coming = (p.pair_id for p in draw(self.population) if p.pair_id not in self._answered)
            self._texts |= self.population.read({pair_id, *islice(coming, READ_AT_ONCE)})
        return self._texts[pair_id]
