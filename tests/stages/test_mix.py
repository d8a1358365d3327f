"""Mix: every row is rendered or refused by name, none is cut, and none goes missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from humpback.corpus.overlap import Overlap
from humpback.engines.fake import FakeTokenizer
from humpback.prompts import IGNORE, SEED_TAG, WEB_TAG, Prompts
from humpback.recipe import MixSettings
from humpback.records import Example, Pair, Rejected, Scored
from humpback.stages.mix import KeepOut, mix, mix_backward, unfit_to_train

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


# -- what is kept out, and how much a row counts -------------------------------------------------------------------------

LONG = "the yeast eats the sugar of the flour and breathes out the gas that lifts the dough in the warm bowl"


def _keep_out(*texts: str) -> KeepOut:
    return KeepOut(
        Overlap.of_texts("the held-out pairs", texts), Overlap.of_texts("test.jsonl", ["What is a test question?"])
    )


def test_what_is_held_out_is_not_trained_on_from_either_origin(
    prompts: Prompts, make_pair: MakePair, make_scored: MakeScored
) -> None:
    keep_out = _keep_out("How does it rise?", LONG)
    seed = [make_pair("how does it RISE", "By yeast."), make_pair("How?", "So."), make_pair("Why?", f"Thus: {LONG}.")]
    curated = [
        make_scored("c1", response=f"It rises as {LONG}"),
        make_scored("c2"),
        make_scored("c3", "What is a test question?"),
    ]
    found = list(mix(seed, curated, prompts, keep_out=keep_out))
    assert [row.reason if isinstance(row, Rejected) else "" for row in found] == [
        *("in_holdout", "", "in_holdout"),
        *("in_holdout", "", "in_evaluation_set"),
    ]
    told = [row.detail for row in found if isinstance(row, Rejected)]
    assert told[0] == 'its instruction is a text of the held-out pairs: "how does it rise"'
    assert told[1].startswith("its response shares 13 words with the held-out pairs: ")
    assert told[3].startswith("its instruction is a text of test.jsonl")
    assert not any(row.failed for row in found if isinstance(row, Rejected))
    backward = list(mix_backward(seed, prompts, keep_out))
    assert [isinstance(row, Example) for row in backward] == [False, True, False]


def test_a_candidate_is_unfit_for_what_mix_would_reject_it_for(prompts: Prompts, make_scored: MakeScored) -> None:
    keep_out, weighted = _keep_out("How does it rise?", LONG), MixSettings(loss_weight="p_good")
    rows = [make_scored("fit", p_good=0.9), make_scored("held", response=LONG, p_good=0.9), make_scored("unweighted")]
    found = [unfit_to_train(row, prompts, weighted, keep_out) for row in rows]
    assert [why and why.reason for why in found] == [None, "in_holdout", "no_p_good"]


def test_rows_carry_their_origins_sampling_weight_and_their_source(
    prompts: Prompts, make_pair: MakePair, make_scored: MakeScored
) -> None:
    settings = MixSettings(seed_weight=2, curated_weight=0.5)
    seed, web = mix([make_pair("How?", "So.")], [make_scored("c1")], prompts, settings)
    assert isinstance(seed, Example)
    assert isinstance(web, Example)
    assert (seed.sampling, seed.weight, seed.segment_id) == (2.0, 1.0, "")
    assert (web.sampling, web.weight) == (0.5, 1.0)
    assert web.segment_id
    assert web.source_uri


def test_a_curated_row_counts_by_its_p_good_and_one_without_is_refused(
    prompts: Prompts, make_pair: MakePair, make_scored: MakeScored
) -> None:
    scored = [dataclasses.replace(make_scored(f"c{i}"), scores={"p_good": p}) for i, p in enumerate((0.8, 0.0))]
    scored.append(dataclasses.replace(make_scored("c2"), scores={}, missing={"p_good": "too_long"}))
    found = list(mix([make_pair("How?", "So.")], scored, prompts, MixSettings(loss_weight="p_good")))
    assert [row.weight for row in found if isinstance(row, Example)] == [1.0, 0.8, 0.01]
    (refused,) = [row for row in found if isinstance(row, Rejected)]
    assert (refused.reason, refused.id) == ("no_p_good", "c2")
    assert refused.detail.startswith("too_long")
