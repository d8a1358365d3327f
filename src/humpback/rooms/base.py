"""What the stages of several files share: the run's course, the rows they read, and parts of their identities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humpback.errors import StorageError
from humpback.evaluation.signals import ENGINE_ERROR
from humpback.recipe import identity_of
from humpback.records import Rewritten, Scored
from humpback.sitting import Result, Sitting
from humpback.stages.table import Course, find_course
from humpback.store.rundir import Counts
from humpback.tasks import ScoreTask

__all__ = ["RoomBase", "count_answered"]


class RoomBase(Sitting):
    """A sitting, with what more than one file of stages needs."""

    @property
    def course(self) -> Course:
        return find_course(self.recipe, self.run_dir)

    def iterations(self) -> Iterator[int]:
        """Yield 1 to T; with `iterations: auto`, each t once the stop stage of the one before it says so."""
        t = 1
        while t <= self.course.iterations:
            yield t
            t += 1

    def _scored(self, t: int) -> Iterator[Scored]:
        return self.read(f"iteration-{t}/score", "scored", Scored)

    def _responses(self, t: int) -> str:
        """Return the stage whose responses M_t learns."""
        return f"iteration-{t}/{'rewrite' if self.recipe.rewrite.enabled else 'curate'}"

    def _curated(self, t: int) -> Iterator[Scored]:
        if self.recipe.rewrite.enabled:
            return self.read(self._responses(t), "rewritten", Rewritten)
        return self.read(self._responses(t), "curated", Scored)

    def _audit_rows(self, stage: str) -> list[dict[str, Any]]:
        path = self.run_dir.folder(stage) / "audit.json"
        try:
            rows: list[dict[str, Any]] = json.loads(path.read_bytes())["rows"]
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(f"{path} cannot be read ({error}); run again with --rerun-from {stage}") from error
        return rows

    def _forward_rooms(self) -> list[tuple[str, str]]:
        rooms = [(f"M_{t}", f"iteration-{t}") for t in range(self.course.iterations + 1)]
        return [*rooms, ("control", "control")] if self.recipe.evaluate.control else rooms

    def _score_task(self, t: int, *, judge: Path | None = None) -> ScoreTask:
        return ScoreTask(
            judge=judge,
            model=self.spec(self.model(f"iteration-{t - 1}")),
            backward=self.spec(self.model("backward")),
            prompts=self.prompt_spec,
            settings=self.recipe.score,
            random_seed=self.recipe.random_seed,
            iteration=t,
            engines=self.engines,
        )

    def prompt_prints(self, *kinds: str) -> Result:
        prints = self.prompts.fingerprint()
        return {"prompts": {kind: prints[kind] for kind in kinds or prints}, "max_tokens": self.recipe.model.max_tokens}

    def scoring(self) -> Result:
        """What scores depend on; what only sampled ratings need counts where they are asked for."""
        score, prints = identity_of(self.recipe.score), self.prompt_prints()
        del prints["prompts"]["rewrite"]  # nothing is scored by it
        if "sampled_rating" in self.signals:
            return {"score": score, **prints, "random_seed": self.recipe.random_seed}
        sampled = ("samples", "sample_temperature", "reasoning_tokens")
        prompts = {kind: digest for kind, digest in prints["prompts"].items() if kind != "rate_sampled"}
        return {
            "score": {key: value for key, value in score.items() if key not in sampled},
            **prints,
            "prompts": prompts,
        }

    def statistics(self) -> Result:
        evaluate = self.recipe.evaluate
        draw = {"resamples": evaluate.resamples, "confidence": evaluate.confidence}
        return {"statistics": draw, "random_seed": self.recipe.random_seed}


def count_answered(read: int, errors: int) -> Counts:
    """Return the counts of rows of which only an engine's errors are lost."""
    return Counts(read=read, kept=read - errors, failed={ENGINE_ERROR: errors} if errors else {})
