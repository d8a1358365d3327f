"""Who compares what models answer: the section `judge` of a study, and `evaluate.judge` of a recipe.

In: plain values. Out: which judge is asked what, of which prompts. One section for both, so that a judge that a study has can be named
in a run as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from humpback.recipe.section import Section

__all__ = ["Judge", "RunJudge", "identify_judge", "lacks_room"]


class Judge(Section):
    """Who compares what the cells' models answer, in both orders, with the same baseline."""

    model: str
    """A model's folder, hub id, file or package, or a server's address."""
    prompts: str
    """A file of prompts (a study looks for it beside its own file too), or a set in the folder that HUMPBACK_PROMPTS names."""
    sample: int | None = Field(None, ge=1)
    """Prompts drawn; null takes all."""
    baseline: str | None = None
    """A file of outputs to these prompts; null takes what the base model answers, asked without tags."""
    verdicts: Literal["reply", "probability"] = "reply"
    """reply: the judge reasons and gives a number. probability: its probabilities of the five numbers are read."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    """Of the models' answers; the judge's replies are greedy."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest answer of a model."""
    reply_tokens: int = Field(512, ge=1)
    """Longest reply of the judge."""
    max_tokens: int = Field(4096, ge=64)
    """Longest prompt of the judge, both answers and its reply together."""
    name: str | None = None
    """A served judge's name."""
    api_key_env: str | None = None
    """Environment variable of a served judge's key."""
    tokenizer: str | None = None
    """A served judge's tokenizer: a folder, a hub id or `estimate`."""

    @model_validator(mode="after")
    def _roomy(self) -> Self:
        if self.verdicts == "reply" and self.max_tokens <= self.reply_tokens:
            raise ValueError(
                f"judge.max_tokens={self.max_tokens} leaves no room for the answers beside judge.reply_tokens="
                f"{self.reply_tokens}; use more than both answers and the reply take (default 4096), or shorter replies"
            )
        return self


class RunJudge(Judge):
    """Who compares what M_1, M_2 ... answer with what M_0 does, on development prompts. None of them may be trained on, so name their
    file under corpus.decontaminate too."""

    baseline: str | None = None
    """A file of outputs to these prompts, which M_0 is compared with too; null takes what M_0 answers."""
    sample: int | None = Field(None, ge=8)
    """Prompts drawn; null takes all. On fewer than 8 no judge can be believed."""
    recheck: int = Field(20, ge=8)
    """Prompts of each model on which a judge that replies is asked again, for its self-consistency; all where there are fewer."""


def lacks_room(judge: Judge, max_tokens: int, named: str) -> str | None:
    """Return why models cannot answer its prompts within model.max_tokens; `named` is what the judge's section is called."""
    least = judge.max_new_tokens + 256
    if max_tokens >= least:
        return None
    return (
        f"model.max_tokens={max_tokens} leaves no room for a prompt beside {named}.max_new_tokens={judge.max_new_tokens}; "
        f"use at least {least}, or shorter answers"
    )


def identify_judge(judge: Judge) -> Mapping[str, Any]:
    """Return what a judge is asked, without keys that change nothing: where its probabilities are read, it writes no reply."""
    without = {"api_key_env"} if judge.verdicts == "reply" else {"api_key_env", "reply_tokens", "recheck"}
    return judge.model_dump(mode="json", exclude=without)
