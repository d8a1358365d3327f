"""The whole recipe, and the checks of one section against another.

In: the sections. Out: `Recipe`, whose parts fit together, and `CorpusRecipe`, the part that `humpback ingest` needs. What does not fit
is refused here, before a model is loaded; what one section can tell of itself, it checks where it stands.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from humpback.recipe.comparing import lacks_room
from humpback.recipe.inputs import CorpusSettings, SeedSettings
from humpback.recipe.judging import MIN_PAIRS, CurateSettings, EvaluateSettings, ScoreSettings
from humpback.recipe.runtime import RuntimeSettings
from humpback.recipe.section import Section
from humpback.recipe.training import MixSettings, ModelSettings, TrainSettings
from humpback.recipe.writing import AugmentSettings, GateSettings, PromptSettings, RewriteSettings

__all__ = ["CorpusRecipe", "Recipe"]


class Recipe(Section):
    """A whole run."""

    random_seed: int = Field(0, ge=0)
    """All randomness derives from it, the stage and the record id."""
    iterations: int | Literal["auto"] = 2
    """T of the paper: how often candidates are scored, curated and trained on (paper: 2). auto goes on while M_t is better than
    M_(t-1) on held-out responses, the whole paired interval below zero, and not surely worse by the audited AUC of what curated;
    it keeps the best model."""
    max_iterations: int = Field(4, ge=1, le=100)
    """With `iterations: auto`, the most."""
    model: ModelSettings
    seed: SeedSettings
    corpus: CorpusSettings
    prompts: PromptSettings = PromptSettings()
    augment: AugmentSettings = AugmentSettings()
    gate: GateSettings = GateSettings()
    score: ScoreSettings = ScoreSettings()
    curate: CurateSettings = CurateSettings()
    mix: MixSettings = MixSettings()
    rewrite: RewriteSettings = RewriteSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    @field_validator("iterations")
    @classmethod
    def _iterations(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value == "auto":
            return value
        if value < 1:
            raise ValueError(f"{value} leaves nothing to curate; use 1 or more, the paper uses 2")
        if value > 100:
            raise ValueError(f"{value} is more than 100; each iteration trains a model, the paper uses 2")
        return value

    @model_validator(mode="after")
    def _agreeing(self) -> Recipe:
        chosen = self.curate.signal
        if chosen not in ("auto", "p_good") and chosen not in self.score.wanted:
            raise ValueError(f"curate.signal={chosen} is not computed; add it to score.signals={self.score.wanted}")
        if (self.model.base == "fake") != (self.runtime.engine == "fake"):
            raise ValueError(
                f"model.base={self.model.base} does not fit runtime.engine={self.runtime.engine}; "
                "the scripted model and the scripted engine go together: set both to fake, or neither"
            )
        devices, rows = self.runtime.training, self.train.batch_size
        if rows is not None and devices.processes > rows:
            raise ValueError(
                f"runtime.training.processes={devices.processes} for train.batch_size={rows}: some would have no row; use at most "
                f"{rows} processes"
            )
        if self.train.method == "qlora" and devices.sharding == "full":
            raise ValueError(
                "runtime.training.sharding=full does not split weights held in 4 bits (train.method=qlora); use sharding=none, "
                "or train.method=lora"
            )
        return self

    @model_validator(mode="after")
    def _roomy(self) -> Recipe:
        """Refuse bounds in tokens that leave one another no room."""
        if self.model.max_tokens < self.augment.max_tokens + 256:
            raise ValueError(
                f"model.max_tokens={self.model.max_tokens} leaves no room for a document beside "
                f"augment.max_tokens={self.augment.max_tokens}; use at least {self.augment.max_tokens + 256}"
            )
        if self.rewrite.enabled and self.model.max_tokens < 2 * self.rewrite.max_tokens:
            raise ValueError(
                f"model.max_tokens={self.model.max_tokens} leaves less room for a document than rewrite.max_tokens="
                f"{self.rewrite.max_tokens} for its rewrite; use at least {2 * self.rewrite.max_tokens}, or shorter rewrites"
            )
        if self.evaluate.answers and self.model.max_tokens < self.evaluate.answer_tokens + 256:
            raise ValueError(
                f"model.max_tokens={self.model.max_tokens} leaves no room for an instruction beside evaluate.answer_tokens="
                f"{self.evaluate.answer_tokens}; use at least {self.evaluate.answer_tokens + 256}, or shorter answers"
            )
        judge = self.evaluate.judge
        if judge is not None and (why := lacks_room(judge, self.model.max_tokens, "evaluate.judge")) is not None:
            raise ValueError(why)
        longest = self.runtime.vllm.max_model_len
        if self.runtime.engine == "vllm" and longest is not None and longest < self.model.max_tokens:
            raise ValueError(
                f"runtime.vllm.max_model_len={longest} is below model.max_tokens={self.model.max_tokens}: what lies between "
                "would fail, and no runtime setting may change results; lower model.max_tokens, or leave max_model_len out"
            )
        reply = self.score.reasoning_tokens
        if "sampled_rating" in self.score.wanted and self.model.max_tokens < reply + 512:
            raise ValueError(
                f"model.max_tokens={self.model.max_tokens} leaves no room for a rubric and a pair beside "
                f"score.reasoning_tokens={reply}; use at least {reply + 512}, or shorter replies"
            )
        return self

    @model_validator(mode="after")
    def _held_out(self) -> Recipe:
        if self.evaluate.answers > self.seed.holdout:
            raise ValueError(
                f"evaluate.answers={self.evaluate.answers} instructions are more than the seed.holdout={self.seed.holdout} pairs; "
                "hold out more, or ask for fewer answers"
            )
        return self

    @model_validator(mode="after")
    def _learnable(self) -> Recipe:
        """Refuse to select by what so few held-out pairs cannot teach, before a model is trained."""
        asked = [f"curate.signal={self.curate.signal}"] * (self.curate.signal in ("p_good", "probe"))
        asked += ["curate.policy=precision"] * (self.curate.policy == "precision")
        asked += ["mix.loss_weight=p_good"] * (self.mix.loss_weight == "p_good")
        asked += ["curate.labels=true, which corrects P(good),"] * self.curate.labels
        if asked and self.seed.holdout < MIN_PAIRS:
            raise ValueError(
                f"{asked[0]} is learnt from the held-out pairs, and seed.holdout={self.seed.holdout} are too few; "
                f"hold out {MIN_PAIRS} or more, or take curate.signal=auto and another policy"
            )
        return self


class CorpusRecipe(Section):
    """The part of a recipe that `humpback ingest` needs."""

    random_seed: int = Field(0, ge=0)
    """What `corpus.sample` is drawn by."""
    corpus: CorpusSettings
