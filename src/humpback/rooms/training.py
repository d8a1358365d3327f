"""The stages that make a model: what it is trained on, and its training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from humpback.corpus.overlap import Overlap, set_files
from humpback.engines import find_contract, find_model
from humpback.engines.base import ModelRef
from humpback.errors import GateError
from humpback.opening import forget_precision
from humpback.progress import tell_reasons
from humpback.recipe import TrainSettings, identity_of
from humpback.records import Example, Rejected, Scored
from humpback.rooms.base import RoomBase
from humpback.runner import Output, Work
from humpback.sitting import Result
from humpback.stages.control import draw_control
from humpback.stages.finetune import finetune, take_twin, train_spec
from humpback.stages.mix import KeepOut, mix, mix_backward, unfit_to_train
from humpback.store.fingerprint import hash_file
from humpback.store.rundir import Counts
from humpback.store.shards import shard_files
from humpback.training.plan import count_data, follow_steps, tell_plan
from humpback.training.sampling import rounded_rows
from humpback.training.spec import PRECISION, TrainResult, TrainSpec, TrainStep

__all__ = ["TrainingRooms"]


class TrainingRooms(RoomBase):
    """From pairs and candidates to models."""

    def mix_backward(self) -> None:
        def do(folder: Path) -> tuple[Work, Result]:
            rows = mix_backward(self.pairs("train"), self.prompts, self._keep_out)
            return self.stream("backward/mix", rows, Output(folder, "mix", Example)), {}

        instruction_tokens = self.recipe.augment.max_tokens
        identity = {**self.prompt_prints("backward"), **self._kept_out(), "instruction_tokens": instruction_tokens}
        self.stage("backward/mix", identity, inputs=["seed"], models={"base": self.base}, do=do)

    def mix(self, t: int) -> None:
        name, curated = f"iteration-{t}/mix", [self._responses(t)] if t else []

        def do(folder: Path) -> tuple[Work, Result]:
            web = self._curated(t) if t else iter(())
            rows = mix(self.pairs("train"), web, self.prompts, self.recipe.mix, self._keep_out)
            work = self.stream(name, rows, Output(folder, "mix", Example))
            if t and not any(row.origin == "web" for row in self.read(name, "mix", Example)):
                raise GateError(
                    f"{name}: none of the curated pairs can be trained on ({tell_reasons(work.counts)}); "
                    "raise model.max_tokens or lower corpus.max_chars"
                )
            return work, {}

        self.stage(name, self._mixing(), inputs=["seed", *curated], models={"base": self.base}, do=do)

    def draw_control(self) -> None:
        t = self.course.published
        last = f"iteration-{t}"

        def do(folder: Path) -> tuple[Work, Result]:
            count = sum(row.origin == "web" for row in self.read(f"{last}/mix", "mix", Example))
            seed = self.recipe.random_seed
            rows = draw_control(lambda: self._scored(t), count, random_seed=seed, unfit=self._unfit)
            return self.stream("control/draw", rows, Output(folder, "drawn", Scored)), {}

        identity = {"random_seed": self.recipe.random_seed, **self._mixing()}
        sources = ["seed", f"{last}/score", f"{last}/mix"]
        self.stage("control/draw", identity, inputs=sources, models={"base": self.base}, do=do)

    def mix_control(self) -> None:
        def do(folder: Path) -> tuple[Work, Result]:
            drawn = self.read("control/draw", "drawn", Scored)
            rows = mix(self.pairs("train"), drawn, self.prompts, self.recipe.mix, self._keep_out)
            return self.stream("control/mix", rows, Output(folder, "mix", Example)), {}

        self.stage("control/mix", self._mixing(), inputs=["seed", "control/draw"], models={"base": self.base}, do=do)

    def finetune(
        self,
        room: str,
        *,
        settings: TrainSettings | None = None,
        start: ModelRef | None = None,
        random_seed: int | None = None,
    ) -> None:
        """Train a room's model on its mix: from the base model, as the recipe says, unless a study asks for another way."""
        name, recipe, start = f"{room}/finetune", self.recipe, start or self.base
        settings, random_seed = settings or recipe.train, recipe.random_seed if random_seed is None else random_seed

        def do(folder: Path) -> tuple[Work, Result]:
            data = tuple(shard_files(self.run_dir.folder(f"{room}/mix"), "mix"))
            rows, contract = count_data(data), find_contract(Path(start.path))
            spec = train_spec(
                name,
                folder,
                data,
                rounded_rows(rows.draws) if rows.examples else 0,
                start,
                settings,
                recipe.runtime,
                random_seed=random_seed,
                precision_file=self.decisions / PRECISION,
                **(dataclasses.asdict(contract) if contract else {}),
            )
            counts = Counts(read=rows.examples, kept=rows.examples)
            for other in self._trained_rooms(room):
                if take_twin(spec, self.run_dir.folder(f"{other}/finetune")):
                    self.console.say(f"  the same rows and training as {other}: its model is taken, not trained again")
                    return Work(counts=counts), {**self.result(f"{other}/finetune"), "same_as": other}
            forget_precision(self.decisions)
            self.engines.close()  # the trainer needs the memory
            for line in tell_plan(spec, rows):
                self.console.say(f"  {line}")
            with self.console.bar(name, spec.steps, "steps") as bar:
                result = finetune(spec, self._trainer(), follow_steps(bar, self.console))
            model = find_model(spec.output)
            work = Work(counts=counts, seconds=result.seconds)
            return work, {"content_hash": model.content_hash, "training": dataclasses.asdict(result), "same_as": None}

        values = {key: value for key, value in identity_of(settings).items() if key != "preset"}  # a name for values
        identity = {"train": values, "random_seed": random_seed}
        self.stage(name, identity, inputs=[f"{room}/mix"], models={"base": start}, do=do)

    @functools.cached_property
    def _keep_out(self) -> KeepOut:
        """What no model may be trained on, loaded when the first mix is made."""
        sets = self.recipe.corpus.decontaminate
        texts = (text for pair in self.pairs("holdout") for text in (pair.instruction, pair.response))
        return KeepOut(Overlap.of_texts("the held-out pairs", texts), Overlap.load(sets) if sets else None)

    def _unfit(self, row: Scored) -> Rejected | None:
        return unfit_to_train(row, self.prompts, self.recipe.mix, self._keep_out)

    def _kept_out(self) -> Result:
        files = set_files(self.recipe.corpus.decontaminate)
        return {"evaluation_sets": [[path.name, hash_file(path)] for path in files]} if files else {}

    def _mixing(self) -> Result:
        return {**self.prompt_prints("answer"), **self._kept_out(), "mix": identity_of(self.recipe.mix)}

    def _trained_rooms(self, room: str) -> list[str]:
        others = (other for _, other in self._forward_rooms() if other != room)
        return [other for other in others if self.run_dir.manifest(f"{other}/finetune")]

    def _trainer(self) -> Callable[[TrainSpec, Callable[[TrainStep], None] | None], TrainResult]:
        if self.recipe.runtime.engine == "fake":
            from humpback.training.fake import train_fake

            return lambda spec, on_step: train_fake(spec)
        if command := self.recipe.train.command:
            from humpback.training.own import train_by_command

            return lambda spec, on_step: train_by_command(spec, command, on_step=on_step)
        from humpback.training.launch import train

        return lambda spec, on_step: train(spec, on_step=on_step, tell=lambda note: self.console.say(f"  {note}"))
