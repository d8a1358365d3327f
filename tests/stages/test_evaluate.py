"""Evaluate: one model is in memory at a time, those of the stage before it included."""

from __future__ import annotations

from humpback.engines.base import ModelRef
from humpback.engines.fake import FakeEngine, fake_model
from humpback.prompts import Prompts
from humpback.recipe import EvaluateSettings
from humpback.records import Pair
from humpback.stages.evaluate import evaluate


def test_no_model_is_opened_while_another_is_in_memory() -> None:
    events: list[str] = []
    base = fake_model(None)

    def open_engine(model: ModelRef) -> FakeEngine:
        events.append("open")
        return FakeEngine(model)

    pairs = [
        Pair(id=str(n), instruction=f"Name {n}.", response="So.", split="holdout", source_uri="", licence="")
        for n in range(8)
    ]
    evaluate(
        pairs,
        {"base": base, "M_0": base},
        {"base": base, "M_yx": base},
        open_engine,
        Prompts(FakeEngine(base).tokenizer, max_tokens=4096, instruction_tokens=128),
        EvaluateSettings(resamples=100),
        random_seed=0,
        free=lambda: events.append("free"),
    )
    assert events == ["free", *["open", "free"] * 4]
