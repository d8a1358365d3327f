"""The stages that decide by what was judged: what people correct, which candidates are kept, and when to stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humpback.errors import GateError
from humpback.evaluation.auditchange import AuditChange, compare_audits
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.cutoffs import choose_cuts, measure_cuts
from humpback.evaluation.deciding import advise_on_none, direct_score
from humpback.evaluation.labels import read_labels
from humpback.evaluation.stats import Interval
from humpback.progress import tell_reasons
from humpback.records import Scored
from humpback.rooms.base import RoomBase, count_answered
from humpback.runner import Output, Work, to_json
from humpback.sitting import Result
from humpback.stages.correct import apply_correction, correct, correct_scores
from humpback.stages.curate import curate, decide
from humpback.stages.stop import Preferred, judge_iteration
from humpback.stages.table import compares
from humpback.store.fingerprint import derive_seed
from humpback.store.rundir import Counts
from humpback.store.shards import atomic_write

__all__ = ["DecidingRooms"]


class DecidingRooms(RoomBase):
    """From scores and audits to decisions."""

    def correct(self, t: int) -> None:
        name, source, recipe = f"iteration-{t}/correct", f"iteration-{t}/score", self.recipe
        if not recipe.curate.labels:
            return
        labels = read_labels(self.run_dir.path)

        def do(folder: Path) -> tuple[Work, Result]:
            result = correct(labels, lambda: self._scored(t), recipe.evaluate, random_seed=recipe.random_seed)
            atomic_write(folder / "correction.json", to_json(result))
            count = len(labels.pairs)
            unused = {"no_p_good": result["unscored"]} if result["unscored"] else {}
            return Work(counts=Counts(read=count, kept=result["labels"], rejected=unused)), result

        self.stage(name, {**self.statistics(), "labels": labels.identity()}, inputs=[source], do=do)
        self.console.say(f"  {self.result(name)['told']}")

    def curate(self, t: int) -> None:
        name, source = f"iteration-{t}/curate", f"iteration-{t}/score"
        corrected = [f"iteration-{t}/correct"] if self.recipe.curate.labels else []
        people = self.result(corrected[0]) if corrected else None
        try:
            audited, scores = self.result(f"iteration-{t - 1}/audit"), self.result(source)["scores"]
            decision = decide(self.recipe.curate, audited, scores, people)
        except GateError as error:
            if self.run_dir.state(name) == "done":  # before any discard: what a refused recipe cannot replace is kept
                raise GateError(
                    f"{error}. Nothing was discarded: {name} is complete in {self.run_dir.path} by an earlier decision, and stays "
                    f"with all that came of it. Mend the recipe and run again with --rerun-from {name}, which makes both anew"
                ) from error
            self.run_dir.refuse(name, str(error))
            raise

        def do(folder: Path) -> tuple[Work, Result]:
            rows = curate(lambda: self._corrected(t, people), decision)
            work = self.stream(name, rows, Output(folder, "curated", Scored))
            if not work.counts.kept:
                raise GateError(
                    f"{name}: no candidate passes ({tell_reasons(work.counts)}) with signal {decision.signal}, "
                    f"{decision.policy}={decision.value:g}; {advise_on_none(decision, {**work.counts.rejected, **work.counts.failed})}"
                )
            changed = self._count_changed(t) if t > 1 else None
            return work, {
                **dataclasses.asdict(decision),
                "changed": changed,
                "cuts": self._measure_cuts(t, people, decision.signal),
            }

        kept = ("signal", "policy", "value", "max_per_source", "alike")
        self.stage(
            name,
            {"decision": {field: getattr(decision, field) for field in kept}},
            inputs=[source, *corrected],  # of the audit only the decision bears on the rows
            do=do,
        )
        self.console.say(f"  curated by {decision.signal} ({decision.policy} {decision.value:g}): {decision.why}")
        for warning in decision.warnings:
            self.console.say(f"  warning: {warning}")

    def stop(self, t: int) -> None:
        name, recipe = f"iteration-{t}/stop", self.recipe
        if recipe.iterations != "auto":
            return
        models = {f"M_{s}": self.model(f"iteration-{s}") for s in (t - 1, t)}
        audits = [f"iteration-{s}/audit" for s in (t - 1, t)]
        compared = [f"iteration-{s}/compare" for s in (t - 1, t) if compares(recipe, s)]
        signal = self.result(f"iteration-{t}/curate")["signal"]

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = list(self.pairs("holdout"))
            with self.answers_bar(name, 2 * len(pairs)):
                result = judge_iteration(
                    pairs,
                    models,
                    self._compare_audits(audits, signal),
                    self.engine,
                    self.prompts,
                    recipe.evaluate,
                    random_seed=recipe.random_seed,
                    free=self.engines.close,
                    preferred=self._read_preferred(compared, t),
                )
            return Work(counts=count_answered(len(pairs), len(result["failed"]))), result

        identity = {**self.statistics(), **self.prompt_prints("answer"), "signal": signal}
        self.stage(name, identity, inputs=["seed", *audits, *compared], models=models, do=do)
        course = self.course
        ending = f"; M_{course.best} is kept" if course.settled else "; on to the next iteration"
        self.console.say(f"  {self.result(name)['why']}{ending}")

    def _read_preferred(self, compared: list[str], t: int) -> Preferred | None:
        """Return what the judge says of M_t and M_(t-1): believed only where it could tell the answers of both from the baseline's."""
        if not compared:
            return None
        found = [self.result(stage) for stage in compared]
        row = next(row for row in found[-1]["changes"] if row["against"] == f"M_{t - 1}")
        interval = {key: row[key] for key in ("value", "low", "high", "n")}
        doubted = next((one for one in reversed(found) if one["doubt"]), None)
        return Preferred(
            judge=found[-1]["by"],
            change=None if row["value"] is None else Interval(**interval),
            doubt=doubted and doubted["doubt"],
            doubted=doubted and doubted["model"],
        )

    def _corrected(self, t: int, people: Mapping[str, Any] | None) -> Iterator[Scored]:
        """Yield the scored candidates, their P(good) corrected where human labels were enough."""
        rows = self._scored(t)
        return apply_correction(rows, people["correction"]) if people and people["correction"] else rows

    def _measure_cuts(self, t: int, people: Mapping[str, Any] | None, signal: str) -> list[dict[str, Any]]:
        """Return precision and recall of every signal on the audit's rows, where iteration t cuts it."""
        name, evaluate = f"iteration-{t}/curate", self.recipe.evaluate
        kept = [direct_score(signal, row.scores[signal]) for row in self.read(name, "curated", Scored)]
        cuts = choose_cuts(
            (row.scores for row in self._corrected(t, people)),
            [*self.signals, P_GOOD],
            len(kept) / sum(1 for _ in self._scored(t)),
            decided=(signal, direct_score(signal, min(kept))),
            threshold=self.recipe.curate.threshold,
        )
        rows = self._audit_rows(f"iteration-{t - 1}/audit")
        if people and people["correction"]:
            rows = correct_scores(rows, people["correction"])
        seed = derive_seed(self.recipe.random_seed, "audit-bootstrap")
        return measure_cuts(rows, cuts, resamples=evaluate.resamples, confidence=evaluate.confidence, seed=seed)

    def _count_changed(self, t: int) -> Result:
        """Return how many candidates changed sides between the last curation and this one."""
        before, now = ({row.id for row in self.read(f"iteration-{i}/curate", "curated", Scored)} for i in (t - 1, t))
        return {"left": len(before - now), "joined": len(now - before), "stayed": len(before & now)}

    def _compare_audits(self, stages: list[str], signal: str) -> AuditChange:
        before, now = (self._audit_rows(stage) for stage in stages)
        evaluate = self.recipe.evaluate
        return compare_audits(
            before,
            now,
            signal,
            resamples=evaluate.resamples,
            confidence=evaluate.confidence,
            seed=derive_seed(self.recipe.random_seed, "audit-bootstrap"),
        )
