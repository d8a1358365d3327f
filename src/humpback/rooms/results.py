"""The stages that say what a run has come to: evaluation, answers to read, dataset, report."""

from __future__ import annotations

from pathlib import Path

from humpback.export.dataset import write_dataset
from humpback.recipe import identity_of
from humpback.report.build import build_report
from humpback.report.page import write_report
from humpback.report.winrates import read_win_rates
from humpback.rooms.base import RoomBase, count_answered
from humpback.runner import Work, to_json
from humpback.sitting import Result
from humpback.stages.answer import WAYS, answer_pairs, first_pairs
from humpback.stages.evaluate import calls_per_pair, evaluate
from humpback.store.fingerprint import fingerprint
from humpback.store.shards import atomic_write

__all__ = ["ResultRooms"]

REPORT_VERSION = 6
"""Raised when the same run's report holds more: it alone is made anew then."""


class ResultRooms(RoomBase):
    """From models and curated pairs to what leaves the run."""

    def evaluate(self) -> None:
        forward = {"base": self.base, **{name: self.model(room) for name, room in self._forward_rooms()}}
        backward = {"base": self.base, "M_yx": self.model("backward")}
        recipe = self.recipe

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = list(self.pairs("holdout"))
            with self.answers_bar("evaluate", len(pairs) * calls_per_pair(len(forward), len(backward))):
                result, per_pair = evaluate(
                    pairs,
                    forward,
                    backward,
                    self.engine,
                    self.prompts,
                    recipe.evaluate,
                    random_seed=recipe.random_seed,
                    free=self.engines.close,
                )
            atomic_write(folder / "evaluation.json", to_json(result))
            atomic_write(folder / "likelihoods.json", to_json(per_pair))
            return Work(counts=count_answered(len(pairs), len(result["failed"]))), result

        models = {**forward, "backward": backward["M_yx"]}
        identity = {**self.statistics(), **self.prompt_prints("answer", "backward")}
        self.stage("evaluate", identity, inputs=["seed"], models=models, do=do)

    def answers(self) -> None:
        settings, best = self.recipe.evaluate, self.course.best
        if not settings.answers:
            return
        model = self.model(f"iteration-{best}")

        def do(folder: Path) -> tuple[Work, Result]:
            pairs = first_pairs(self.pairs("holdout"), settings.answers)
            total = len(pairs) * len(WAYS)
            self.console.say(f"  {total} answers of at most {settings.answer_tokens} tokens each")
            self.engines.close()  # one model is in memory at a time
            with self.answers_bar("answers", total):
                rows = answer_pairs(pairs, self.engine(model), self.prompts, max_tokens=settings.answer_tokens)
            self.engines.close()
            told = {"model": f"M_{best}", "max_tokens": settings.answer_tokens}
            atomic_write(folder / "answers.json", to_json({**told, "rows": rows}))
            failed = sum(any(answer["error"] for answer in row["answers"].values()) for row in rows)
            return Work(counts=count_answered(len(pairs), failed)), told

        asked = {"answers": settings.answers, "answer_tokens": settings.answer_tokens}
        identity = {**asked, **self.prompt_prints("answer")}
        self.stage("answers", identity, inputs=["seed"], models={"model": model}, do=do)

    def dataset(self) -> None:
        t = self.course.published

        def do(folder: Path) -> tuple[Work, Result]:
            counts = write_dataset(
                folder,
                self.pairs("train"),
                lambda: self._curated(t),
                self.recipe,
                decision=self.result(f"iteration-{t}/curate"),
            )
            return Work(counts=counts), {}

        identity = {"prompts": identity_of(self.recipe.prompts)}
        self.stage("dataset", identity, inputs=["seed", self._responses(t)], do=do)

    def report(self) -> None:
        names = [m.name for m in self.complete() if m.name != "report"]

        def do(folder: Path) -> tuple[Work, Result]:
            data = build_report(self.run_dir, self.recipe, self.complete())
            atomic_write(folder / "report.json", to_json(data))
            write_report(folder / "report.html", data)
            return Work(), {}

        compared = read_win_rates(self.run_dir.path)  # made beside the run, and told by its report
        win_rates = {"win_rates": fingerprint(compared)} if compared else {}
        self.stage("report", {"version_of_report": REPORT_VERSION, **win_rates}, inputs=names, do=do)
