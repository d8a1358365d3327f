"""Mix: every row is rendered or refused by name, none is cut, and none goes missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from humpback.engines.fake import FakeTokenizer
from humpback.prompts import IGNORE, SEED_TAG, WEB_TAG, Prompts
from humpback.records import Example, Pair, Rejected, Scored
from humpback.stages.mix import mix, mix_backward

MakePair = Callable[..., Pair]
MakeScored = Callable[..., Scored]


@pytest.fixture
def prompts() -> Prompts:
    return Prompts(FakeTokenizer(), max_tokens=700, instruction_tokens=40)


def _said(row: Example) -> tuple[str, str]:
    """Return the prompt and the target of a training row."""
    tokens = FakeTokenizer()
    prompt = [i for i, label in zip(row.input_ids, row.labels, strict=True) if label == IGNORE]
    return tokens.decode(prompt), tokens.decode(row.input_ids[len(prompt) :])


def test_seed_comes_first_and_each_row_has_its_own_tag(
    prompts: Prompts, make_pair: MakePair, make_scored: MakeScored
) -> None:
    seed, web = [make_pair("How?", "So."), make_pair("Why?", "Thus.")], [make_scored("c1"), make_scored("c2")]
    rows = [row for row in mix(seed, web, prompts) if isinstance(row, Example)]
    assert [(row.origin, row.tag, row.parent_id) for row in rows] == [
        ("seed", SEED_TAG, seed[0].id),
        ("seed", SEED_TAG, seed[1].id),
        ("web", WEB_TAG, "c1"),
        ("web", WEB_TAG, "c2"),
    ]
    assert _said(rows[0]) == (f"How?\n\n{SEED_TAG}", "So.")
    assert _said(rows[2]) == (f"What is c1?\n\n{WEB_TAG}", "So.")
    assert len({row.id for row in rows}) == 4


def test_same_pair_as_seed_and_as_web_gives_two_rows(
    prompts: Prompts, make_pair: MakePair, make_scored: MakeScored
) -> None:
    pair = make_pair("How?", "So.")
    one, other = mix([pair], [make_scored(pair.id, "How?", "So.")], prompts)
    assert one.id != other.id


def test_backward_row_learns_the_instruction_from_the_response(prompts: Prompts, make_pair: MakePair) -> None:
    (row,) = mix_backward([make_pair("How does it rise?", "By yeast.")], prompts)
    assert isinstance(row, Example)
    prompt, target = _said(row)
    assert target == "How does it rise?"
    assert prompt.endswith("Text:\nBy yeast.")
    assert (row.tag, row.origin) == ("", "seed")


def test_backward_row_cuts_the_document_and_never_the_instruction(prompts: Prompts, make_pair: MakePair) -> None:
    (row,) = mix_backward([make_pair("How does it rise?", "By yeast. " * 200)], prompts)
    assert isinstance(row, Example)
    assert _said(row)[1] == "How does it rise?"
    assert len(row.input_ids) <= 700
    assert row.response == "By yeast. " * 200  # the record keeps what the tokens lack


@pytest.mark.parametrize(("letters", "kept"), [(39, True), (40, False)])
def test_instruction_longer_than_the_backward_model_may_write_is_refused(
    prompts: Prompts, make_pair: MakePair, letters: int, kept: bool
) -> None:
    (row,) = mix_backward([make_pair("x" * letters, "So.")], prompts)  # and one token ends the turn
    assert isinstance(row, Example) is kept
    if isinstance(row, Rejected):
        assert row.reason == "target_cut"
        assert "has 41 tokens" in row.detail


def test_response_that_does_not_fit_whole_is_refused_and_its_neighbours_stay(
    prompts: Prompts, make_pair: MakePair, make_scored: MakeScored
) -> None:
    seed = [make_pair("How?", "So."), make_pair("Why?", "Thus. " * 200), make_pair("When?", "Now.")]
    found = list(mix(seed, [make_scored("c", response="x" * 800), make_scored("d", response=" ")], prompts))
    assert [row.reason if isinstance(row, Rejected) else "" for row in found] == [
        "",
        "target_cut",
        "",
        "target_cut",
        "target_empty",
    ]
    assert [row.id for row in found if isinstance(row, Rejected)] == [seed[1].id, "c", "d"]
    assert not any(row.failed for row in found if isinstance(row, Rejected))


def test_empty_seed_and_no_candidates_give_an_empty_mix(prompts: Prompts) -> None:
    assert list(mix([], [], prompts)) == []
    assert list(mix_backward([], prompts)) == []
