"""Score: which rows are kept with what they have, which are failed, and that an engine's error is never filled in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from humpback.engines.base import ChoiceLogprobs
from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.calibration import P_GOOD, fit_calibration
from humpback.evaluation.judge import Judge
from humpback.evaluation.raters import Raters
from humpback.prompts import Choice, Prompt, Prompts
from humpback.records import Candidate, Rejected, Scored, content_id
from humpback.stages.score import score


class Halting(FakeEngine):
    """Its ratings of some pairs fail or are off the menu; all else it answers."""

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        return [self._halt(prompt) for prompt in prompts]

    def _halt(self, prompt: Prompt) -> ChoiceLogprobs:
        if "HALT" in prompt.user:
            return ChoiceLogprobs(logprobs=(), mass=0.0, error="out of memory")
        mass = 0.01 if "MUMBLE" in prompt.user else 1.0
        return ChoiceLogprobs(logprobs=(math.log(mass / 5),) * 5, mass=mass)


def _score(instruction: str, signals: Sequence[str], *, learnt: Sequence[str] = ()) -> Scored | Rejected:
    """Score one candidate; `learnt` are the signals that P(good) is made of."""
    judge = None
    if learnt:
        draw = np.random.default_rng(0)
        rows = [dict(zip(learnt, draw.normal(size=len(learnt)).tolist(), strict=True)) for _ in range(40)]
        judge = Judge(probe=None, calibration=fit_calibration(rows, np.arange(40) % 2))
    engine = Halting(fake_model(None))
    prompts = Prompts(engine.tokenizer, max_tokens=4096, instruction_tokens=128)
    raters = Raters(model=engine, backward=engine, prompts=prompts, min_label_mass=0.5, judge=judge)
    candidate = Candidate(
        id=content_id(instruction),
        instruction=instruction,
        response="Bread rises because of yeast, and that takes an hour.",
        segment_id="s",
        header_path="",
        source_uri="",
        title="",
        licence="",
        backward_model="",
    )
    (row,) = score([candidate], signals, raters, iteration=1)
    return row


@pytest.mark.parametrize("signals", [("rating",), ("rating", "text"), ("rating", "text", "probe")])
def test_row_on_which_every_engine_failed_is_failed_though_its_text_can_be_read(signals: Sequence[str]) -> None:
    row = _score("HALT", signals)
    assert isinstance(row, Rejected)
    assert (row.reason, row.failed) == ("engine_error", True)


def test_row_on_which_one_of_two_engines_answered_is_kept_and_says_what_failed() -> None:
    row = _score("HALT", ("rating", "forward_lift"))
    assert isinstance(row, Scored)
    assert row.missing == {"rating": "engine_error: out of memory"}


def test_engine_error_in_a_signal_that_p_good_is_made_of_leaves_no_p_good() -> None:
    signals = ("rating", "forward_lift")
    row = _score("HALT", signals, learnt=signals)
    assert isinstance(row, Scored)
    assert P_GOOD not in row.scores
    assert row.missing[P_GOOD] == "engine_error: out of memory"


@pytest.mark.parametrize(
    ("instruction", "learnt"), [("MUMBLE", ("rating", "forward_lift")), ("HALT", ("forward_lift",))]
)
def test_no_rating_or_an_error_elsewhere_leaves_p_good_as_it_is(instruction: str, learnt: Sequence[str]) -> None:
    row = _score(instruction, ("rating", "forward_lift"), learnt=learnt)
    assert isinstance(row, Scored)
    assert "rating" in row.missing
    assert 0 < row.scores[P_GOOD] < 1
