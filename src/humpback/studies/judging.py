"""What a judge says of a cell's model: its answers against the baseline's (`rooms/comparing.py`).

In: the arm's model, a judge. Out: a stage of `arm/` with a row per prompt. The baseline is the same for all cells, so their rates are
compared prompt by prompt.
"""

from __future__ import annotations

from pathlib import Path

from humpback.engines.base import ModelRef
from humpback.rooms.comparing import JUDGED, Sides
from humpback.runner import Work, to_json
from humpback.sitting import Result
from humpback.store.shards import atomic_write
from humpback.studies.armdata import ArmRooms
from humpback.studies.judgefiles import refuse_changed

__all__ = ["JudgingRooms"]


class JudgingRooms(ArmRooms):
    """The stage that asks a judge."""

    def judge(self, model: ModelRef, tag: str) -> None:
        """Compare the model's answers, under the tags given, with the baseline's."""
        judge, stage = self.cell.judge, f"arm/{self.cell.judging}"
        if judge is None:
            return
        own = "the base model" if model == self.base else "the arm's model"
        sides = Sides(model=model, name=own, tag=tag, base=self.base, base_name="the base model", base_tag="")

        def do(folder: Path) -> tuple[Work, Result]:
            found = self.ask_judge(folder, sides, self.questions(judge), judge, recheck=0, bar=stage)
            rows = [one.as_row(rechecked=False) for one in found.judged]
            atomic_write(folder / JUDGED, to_json({"baseline": found.baseline, "rows": rows}))
            return found.work, {"errors": found.errors}

        identity = self.judge_identity(judge)
        if (made := self.run_dir.manifest(stage)) is not None:
            refuse_changed(made.identity["judge"], identity, {"prompts": judge.prompts, "baseline": judge.baseline})
        self.stage(
            stage,
            {"tag": tag, "judge": identity, **self.prompt_prints("answer")},
            models={"model": model, "base": self.base},
            do=do,
        )
