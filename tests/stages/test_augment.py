"""Augment: one candidate per segment, the response unchanged, and every unusable instruction with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from humpback.engines.base import Completion, Sampling
from humpback.engines.fake import FakeEngine, fake_model
from humpback.evaluation.instructions import copies, unfit_instruction
from humpback.prompts import BACKWARD_PROMPT, Prompt, Prompts
from humpback.recipe import AugmentSettings
from humpback.records import Candidate, Rejected, Segment
from humpback.stages.augment import augment

Make = Callable[..., Segment]
RESPONSE = "Bread rises because yeast eats the sugar of the flour and gives off gas that the dough keeps in."


class Scripted(FakeEngine):
    """Gives the completions it was made with, in the order of the prompts."""

    def __init__(self, *answers: Completion) -> None:
        super().__init__(fake_model(None))
        self.answers = list(answers)
        self.prompts: list[Prompt] = []
        self.sampling: Sampling | None = None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.prompts, self.sampling = list(prompts), sampling
        return self.answers


def _augment(segments: Sequence[Segment], engine: FakeEngine, random_seed: int = 0) -> list[Candidate | Rejected]:
    prompts = Prompts(engine.tokenizer, max_tokens=4096, instruction_tokens=128)
    return list(augment(segments, engine, prompts, AugmentSettings(), random_seed=random_seed))


def _said(text: str, finish: str = "stop", error: str | None = None) -> Completion:
    return Completion(text=text, tokens=len(text), finish=finish, error=error)  # type: ignore[arg-type]


def test_segment_is_the_response_unchanged(make_segment: Make) -> None:
    text = f"  {RESPONSE}\n\n\twith odd  spaces <|end|> \n"
    (candidate,) = _augment([make_segment(text)], Scripted(_said("  Why does bread rise?\n")))
    assert isinstance(candidate, Candidate)
    assert candidate.response == text
    assert candidate.instruction == "Why does bread rise?"
    assert candidate.licence == "CC0"
    assert candidate.backward_model == fake_model(None).content_hash


def test_outcomes_stand_in_the_order_of_the_segments(make_segment: Make) -> None:
    segments = [make_segment(f"{RESPONSE} {n}") for n in range(4)]
    answers = [_said("Why?"), _said("", error="lost"), _said(""), _said("How?")]
    found = _augment(segments, Scripted(*answers))
    assert [isinstance(row, Candidate) for row in found] == [True, False, False, True]
    failed, rejected = found[1], found[2]
    assert isinstance(failed, Rejected)
    assert isinstance(rejected, Rejected)
    assert (failed.id, failed.reason, failed.detail, failed.failed) == (segments[1].id, "engine_error", "lost", True)
    assert (rejected.id, rejected.reason, rejected.failed) == (segments[2].id, "instruction_empty", False)
    assert json.loads(rejected.row)["text"] == segments[2].text


def test_draw_is_seeded_by_the_segment_and_not_by_its_place(make_segment: Make) -> None:
    segments = [make_segment(f"{RESPONSE} {n}") for n in range(3)]
    seeds = []
    for order, random_seed in ((segments, 0), (segments[::-1], 0), (segments, 1)):
        engine = Scripted(*[_said("Why?")] * 3)
        _augment(order, engine, random_seed)
        seeds.append([prompt.seed for prompt in engine.prompts])
    assert seeds[0] == seeds[1][::-1]
    assert len({*seeds[0], *seeds[2]}) == 6
    assert engine.sampling == Sampling(temperature=0.7, top_p=0.9, max_tokens=128)


def test_same_text_in_two_places_gives_two_candidates(make_segment: Make) -> None:
    segments = [make_segment(RESPONSE, "a"), make_segment(RESPONSE, "b")]
    ids = [row.id for row in _augment(segments, Scripted(_said("Why?"), _said("Why?")))]
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("Why does bread rise?", "stop", None),
        ("Why does bread rise?", "length", "instruction_cut"),
        ("", "stop", "instruction_empty"),
        ("  \n ", "length", "instruction_empty"),
        ("?!...", "stop", "instruction_empty"),
        ("为什么面包会发酵？", "stop", None),
        (BACKWARD_PROMPT[:160], "stop", "instruction_echoes_prompt"),
        ("Sure! WRITE THE ONE INSTRUCTION OR QUESTION that fits.", "stop", "instruction_echoes_prompt"),
        (RESPONSE, "stop", "instruction_copies_response"),
        ("bread rises because yeast eats", "stop", "instruction_copies_response"),
        ("Bread rises because", "stop", None),
    ],
)
def test_unusable_instruction_has_its_reason(text: str, finish: str, reason: str | None) -> None:
    assert unfit_instruction(text, RESPONSE, cut=finish == "length") == reason


@pytest.mark.parametrize(
    ("instruction", "copied"),
    [
        (RESPONSE.upper(), True),
        (f"Please explain: {RESPONSE}", True),
        ("Explain why bread rises because yeast eats the sugar of the flour and", True),
        ("Bread rises because yeast eats sugar, but why does gas stay in the dough that we keep?", False),
        ("eats the sugar of the", False),  # short, and not the beginning
        ("Bread rises because yeast", True),
        ("Tell me of the many things that one could ask and answer about how bread rises because yeast eats", False),
        ("", False),
    ],
)
def test_copy_is_half_of_the_words_in_long_runs_or_the_beginning(instruction: str, copied: bool) -> None:
    assert copies(instruction, RESPONSE) is copied


def test_response_shorter_than_a_run_can_be_copied() -> None:
    assert copies("Yes it is so", "Yes, it is so.")
    assert not copies("Is it so, and if it is, why is it so?", "Yes, it is so.")
