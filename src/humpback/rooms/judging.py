"""The stages that judge: an audit of each model by pairs known to be good and bad, by people, and the scores it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from humpback.evaluation.candidates import compare_models, describe_scores
from humpback.evaluation.labels import read_labels
from humpback.evaluation.rating import count_replies
from humpback.evaluation.signals import ENGINE_ERROR, count_calls
from humpback.records import Candidate, Scored
from humpback.rooms.base import RoomBase, count_answered
from humpback.runner import Output, Work, to_json
from humpback.sitting import Result
from humpback.stages.audit import audit
from humpback.stages.human import audit_by_people
from humpback.store.shards import atomic_write

__all__ = ["JudgingRooms"]

AUDIT_VERSION = 2
"""Raised when probe or calibration are fitted otherwise: audits and what follows are made anew then, of the answers kept."""
JUDGE = "judge.npz"
"""In an audit's folder: its probe and calibration, which the next score stage applies."""


class JudgingRooms(RoomBase):
    """From a model to what it says of candidates, and what that is worth."""

    def audit(self, t: int) -> None:
        name, recipe = f"iteration-{t}/audit", self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            holdout = list(self.pairs("holdout"))
            calls = count_calls(self.signals, samples=recipe.score.samples)
            with self.answers_bar(name, (1 + len(recipe.evaluate.corruptions)) * len(holdout) * calls):
                done = audit(
                    holdout,
                    self.signals,
                    self._score_task(t + 1).raters(),
                    recipe.evaluate,
                    model_name=f"M_{t}",
                    random_seed=recipe.random_seed,
                )
            atomic_write(folder / "audit.json", to_json({**done.verdict, "rows": done.rows}))
            if done.judge:
                atomic_write(folder / JUDGE, done.judge.to_bytes())
            work = Work(counts=count_answered(len(holdout), len(_pairs_with_errors(done.rows))))
            return work, {**done.verdict, **self._replies(row["scores"] for row in done.rows)}

        models = {"model": self.model(f"iteration-{t}"), "backward": self.model("backward")}
        identity = {
            "version_of_audit": AUDIT_VERSION,
            **self.scoring(),
            **self.statistics(),
            "corruptions": sorted(recipe.evaluate.corruptions),
        }
        self.stage(name, identity, inputs=["seed"], models=models, do=do)
        for note in self.result(name)["notes"]:
            self.console.say(f"  audit of {note}")

    def human(self) -> None:
        recipe, audits = self.recipe, [f"iteration-{t}/audit" for t in range(self.course.iterations + 1)]
        if not recipe.evaluate.labels:
            return
        labels = read_labels(self.run_dir.path)

        def do(folder: Path) -> tuple[Work, Result]:
            found, rows = [], []
            calls = count_calls(self.signals, samples=recipe.score.samples)
            with self.answers_bar("human", len(labels.pairs) * len(audits) * calls):
                for t, audited in enumerate(audits):
                    done = audit_by_people(
                        labels,
                        self.signals,
                        self._score_task(t + 1, judge=self._judge_of(audited)).raters(),
                        recipe.evaluate,
                        model_name=f"M_{t}",
                        random_seed=recipe.random_seed,
                    )
                    found.append(done.verdict)
                    rows += done.rows
                    self.engines.close()  # one M_t is in memory at a time
            atomic_write(folder / "human.json", to_json({"models": found, "rows": rows}))
            work = Work(counts=count_answered(len(labels.pairs), len(_pairs_with_errors(rows))))
            return work, {"models": found, **self._replies(row["scores"] for row in rows)}

        models = {f"M_{t}": self.model(f"iteration-{t}") for t in range(len(audits))}
        identity = {**self.scoring(), **self.statistics(), "labels": labels.identity()}
        self.stage(
            "human",
            identity,
            inputs=["augment", *audits],
            models={**models, "backward": self.model("backward")},
            do=do,
        )
        for found in self.result("human")["models"]:
            for note in found["notes"]:
                self.console.say(f"  audit of {note}")

    def score(self, t: int) -> None:
        name, audited, recipe = f"iteration-{t}/score", f"iteration-{t - 1}/audit", self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            calls = count_calls(self.signals, samples=recipe.score.samples)
            candidates = ("augment", "candidates", Candidate)
            task = self._score_task(t, judge=self._judge_of(audited))
            work = self.map(name, task, candidates, Output(folder, "scored", Scored), calls)
            scores = describe_scores(lambda: self._scored(t), self.signals, self._audit_rows(audited))
            before = compare_models(self._scored(t - 1), self._scored(t), self.signals) if t > 1 else {}
            replies = self._replies(row.scores for row in self._scored(t))
            return work, {"scores": scores, "agreement": before, **replies}

        models = {"model": self.model(f"iteration-{t - 1}"), "backward": self.model("backward")}
        # what was learnt from the audit bears on the scores
        self.stage(name, self.scoring(), inputs=["augment", audited], models=models, do=do)
        for signal, entropy in self.result(name)["scores"]["entropy"].items():
            if entropy["collapsed"]:
                self.console.say(
                    f"  warning: {signal} gives nearly all candidates scores that are one tenth of the audit's: "
                    "it hardly tells them apart"
                )

    def _judge_of(self, stage: str) -> Path | None:
        """Return the file of what an audit has learnt, None where it was too small to learn anything."""
        return self.run_dir.folder(stage) / JUDGE if self.result(stage)["calibration"] else None

    def _replies(self, scores: Iterable[Mapping[str, float]]) -> Result:
        """Return what came of the sampled ratings among these scores; nothing, and nothing read, where none were drawn."""
        return {"replies": count_replies(scores)} if "sampled_rating" in self.signals else {}


def _pairs_with_errors(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the pairs of an audit on which an engine failed."""
    return {row["pair_id"] for row in rows if any(why.startswith(ENGINE_ERROR) for why in row["missing"].values())}
