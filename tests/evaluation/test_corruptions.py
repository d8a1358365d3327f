"""Corruptions: each is what it says, none gives itself away by length, and no words of one fold stand in another."""

from __future__ import annotations

import itertools
import random
import statistics
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.evaluation.corruptions import KINDS, CorruptedPair, Fold, corrupt_pairs
from humpback.evaluation.folds import SAME, make_folds
from humpback.evaluation.wordbank import join_sentences, load_banks, split_sentences
from humpback.recipe import Corruption
from humpback.records import Pair, content_id

NOUNS = ("bread", "river", "engine", "garden", "violin", "bridge", "candle", "market", "planet", "window")
VERBS = ("rises", "works", "grows", "ages", "turns", "breaks", "shines", "changes")


def make_pair(instruction: str, response: str) -> Pair:
    return Pair(
        id=content_id(instruction, response),
        instruction=instruction,
        response=response,
        split="holdout",
        source_uri="",
        licence="",
    )


def make_pairs(count: int, seed: int = 0) -> list[Pair]:
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        noun, verb = NOUNS[number % len(NOUNS)], VERBS[number // len(NOUNS) % len(VERBS)]
        sentences = [
            f"The {noun} {verb} because of {draw.choice(NOUNS)} number {draw.randint(2, 900)} in {draw.choice(('Paris', 'Ohio'))}.",
            f"It is always more than the {draw.choice(NOUNS)} of the {noun}.",
            f"After that the {draw.choice(NOUNS)} {draw.choice(VERBS)} for {draw.randint(2, 90)} days.",
            f"Most people can see how a {noun} {verb} with a {draw.choice(NOUNS)}.",
        ]
        pairs.append(make_pair(f"Why does the {noun} number {number} {verb}?", " ".join(sentences)))
    return pairs


def by_kind(rows: list[CorruptedPair]) -> dict[str, dict[str, CorruptedPair]]:
    table: dict[str, dict[str, CorruptedPair]] = {}
    for row in rows:
        table.setdefault(row.kind, {})[row.pair_id] = row
    return table


# -- folds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "folds"), [(4, 2), (15, 2), (24, 3), (40, 5), (100, 5)])
def test_every_pair_is_in_one_fold_and_folds_are_of_like_size(count: int, folds: int) -> None:
    made = make_folds(make_pairs(count))
    assert len(made) == folds
    assert Counter(pair.id for fold in made for pair in fold.pairs) == Counter(p.id for p in make_pairs(count))
    sizes = [len(fold.pairs) for fold in made]
    assert max(sizes) <= min(sizes) + max(2, count // (2 * folds))


def test_folds_do_not_depend_on_the_order_of_the_pairs() -> None:
    pairs = make_pairs(40)
    assert make_folds(pairs) == make_folds(pairs[::-1])


def test_similar_pairs_stand_in_one_fold_and_are_each_others_hard_mismatch() -> None:
    pairs = make_pairs(38)
    twins = [
        make_pair("How do I bake sourdough rye at home?", "Rye one."),
        make_pair("How do I bake sourdough rye?", "Rye two."),
    ]
    (fold,) = [fold for fold in make_folds([*pairs, *twins]) if twins[0] in fold.pairs]
    assert twins[1] in fold.pairs
    nearest = fold.nearest[fold.pairs.index(twins[0])]
    assert nearest is not None
    assert fold.pairs[nearest] == twins[1]


def test_the_same_instruction_again_is_no_hard_mismatch() -> None:
    pairs = make_pairs(40)
    again = make_pair(pairs[0].instruction, "Another answer, which may be as good.")
    for fold in make_folds([*pairs, again]):
        for pair, nearest in zip(fold.pairs, fold.nearest, strict=True):
            if nearest is not None:
                assert fold.pairs[nearest].instruction != pair.instruction
    assert SAME < 1


# -- corruptions -----------------------------------------------------------------------------------------------------------


def test_every_true_pair_comes_with_every_kind_or_with_a_counted_reason() -> None:
    pairs = [*make_pairs(38), make_pair("Well?", "Yes."), make_pair("Is 7 odd?", "It is, of course.")]
    rows, without = corrupt_pairs(make_folds(pairs), 0)
    table = by_kind(rows)
    assert set(table["true"]) == {pair.id for pair in pairs}
    for kind in KINDS:
        assert len(table[kind]) + sum(without.get(kind, {}).values()) == len(pairs)
    assert without["shuffled"] == {"one_sentence": 2}
    assert without["cut_end"]["too_short"] >= 1


def test_true_pairs_are_as_they_are_and_instructions_never_change() -> None:
    pairs = {pair.id: pair for pair in make_pairs(40)}
    rows, _ = corrupt_pairs(make_folds(list(pairs.values())), 0)
    assert all(row.text.instruction == pairs[row.pair_id].instruction for row in rows)
    assert all((row.text.response == pairs[row.pair_id].response) == (row.kind == "true") for row in rows)


def test_corruptions_depend_on_the_seed_and_the_pair_only() -> None:
    pairs = make_pairs(40)
    first, again, other = (
        corrupt_pairs(make_folds(given), seed) for given, seed in ((pairs, 1), (pairs[::-1], 1), (pairs, 2))
    )
    assert first == again
    for kind in set(KINDS) - {"mismatch_hard"}:
        assert by_kind(first[0])[kind] != by_kind(other[0])[kind]


def test_mismatch_never_takes_a_response_from_another_fold() -> None:
    rows, _ = corrupt_pairs(make_folds(make_pairs(60)), 0)
    table = by_kind(rows)
    fold_of = {row.text.response: row.fold for row in table["true"].values()}
    for kind in ("mismatch_random", "mismatch_hard"):
        assert all(fold_of[row.text.response] == row.fold for row in table[kind].values())


def test_response_that_another_pair_shares_is_no_mismatch() -> None:
    pairs = [make_pair(f"Is {n} even, I wonder?", "No, it is not." if n % 2 else "Yes, it is.") for n in range(40)]
    rows, _ = corrupt_pairs(make_folds(pairs), 0)
    true = {row.pair_id: row.text.response for row in rows if row.kind == "true"}
    assert all(row.text.response != true[row.pair_id] for row in rows if row.kind.startswith("mismatch"))


def test_cuts_leave_a_part_that_begins_or_ends_within_a_sentence() -> None:
    rows, _ = corrupt_pairs(make_folds(make_pairs(40)), 3)
    table = by_kind(rows)
    for pair_id, true in table["true"].items():
        end, start = table["cut_end"][pair_id].text.response, table["cut_start"][pair_id].text.response
        assert true.text.response.startswith(end)
        assert true.text.response.endswith(start)
        assert end[-1] not in ".!?:"
        assert true.text.response[: -len(start)].rstrip()[-1] not in ".!?:"
        part = table["cut_sentences"][pair_id].text.response
        assert part in true.text.response
        assert part.endswith(".")


def test_shares_and_places_vary() -> None:
    rows, _ = corrupt_pairs(make_folds(make_pairs(80)), 0)
    table = by_kind(rows)
    shares = [len(row.text.response) / len(table["true"][i].text.response) for i, row in table["cut_end"].items()]
    assert max(shares) - min(shares) > 0.4
    for kind in ("navigation", "advertising", "voice"):
        places: Counter[str] = Counter()
        for pair_id, row in table[kind].items():
            sentences = split_sentences(table["true"][pair_id].text.response)
            head, tail = (
                row.text.response.startswith(sentences[0].strip()),
                row.text.response.endswith(sentences[-1].strip()),
            )
            places["middle" if head and tail else "end" if head else "start"] += 1
        assert min(places[place] for place in ("start", "middle", "end")) >= 10


@pytest.mark.parametrize("kind", ["navigation", "advertising", "voice", "language", "shuffled"])
def test_text_mixed_in_takes_the_place_of_as_much(kind: str) -> None:
    rows, _ = corrupt_pairs(make_folds(make_pairs(80)), 0)
    table = by_kind(rows)
    ratios = [len(row.text.response) / len(table["true"][i].text.response) for i, row in table[kind].items()]
    assert 0.85 < statistics.mean(ratios) < 1.2


def test_folds_share_no_template_no_slot_and_no_language() -> None:
    banks = load_banks()
    for one, other in itertools.combinations(banks, 2):
        for kind in ("navigation", "advertising", "voice"):
            assert not set(one._templates[kind]) & set(other._templates[kind])
        assert not {line for lines in one._languages for line in lines} & {
            line for lines in other._languages for line in lines
        }
        for name in one._slots:
            assert not set(one._slots[name]) & set(other._slots[name]), name


def test_shuffled_has_the_same_sentences_in_another_order() -> None:
    rows, _ = corrupt_pairs(make_folds(make_pairs(40)), 0)
    table = by_kind(rows)
    for pair_id, row in table["shuffled"].items():
        true = [s.strip() for s in split_sentences(table["true"][pair_id].text.response)]
        mixed = [s.strip() for s in split_sentences(row.text.response)]
        assert sorted(true) == sorted(mixed)
        assert true[0] != mixed[0]


def test_points_of_a_list_are_not_shuffled() -> None:
    listed = make_pair("Name some fruit.", "- apples\n- pears\n- plums\n- figs")
    _, without = corrupt_pairs(make_folds([*make_pairs(39), listed]), 0)
    assert without["shuffled"] == {"a_list": 1}


def test_facts_change_few_words_and_no_list_numbers() -> None:
    pair = make_pair("How?", "1. Take 30 grams of flour.\n2. The oven is always hot in Lisbon.")
    fold = Fold(number=0, pairs=(pair, make_pair("What?", "Nothing.")), nearest=(1, 0))
    seen = set()
    for seed in range(30):
        rows, _ = corrupt_pairs([fold], seed)
        text = by_kind(rows)["facts"][pair.id].text.response
        assert text.startswith("1. Take ")
        assert "\n2. The oven is" in text
        seen.add(text)
    assert any("30" not in text for text in seen)
    assert any("never" in text or "not" in text for text in seen)


@given(st.text(alphabet=st.sampled_from("ab. !?\n-A1\"'é"), max_size=80))
def test_sentences_joined_again_are_the_text(text: str) -> None:
    assert join_sentences(split_sentences(text)) == text.strip()


@given(
    st.lists(st.text(min_size=1, max_size=120).filter(lambda t: t.strip() != ""), min_size=4, max_size=9, unique=True),
    st.integers(0, 5),
)
def test_any_text_is_corrupted_or_refused_and_never_left_as_it_was(texts: list[str], seed: int) -> None:
    pairs = [make_pair(f"{text[:20]}?", text) for text in texts]
    rows, without = corrupt_pairs(make_folds(pairs), seed)
    assert len(rows) + sum(n for counts in without.values() for n in counts.values()) == len(pairs) * (1 + len(KINDS))
    true = {row.pair_id: row.text.response for row in rows if row.kind == "true"}
    for row in rows:
        if row.kind != "true":
            assert row.text.response.strip()
            assert row.text.response.strip() != true[row.pair_id].strip()


def test_the_recipe_names_every_kind_in_the_order_of_the_table() -> None:
    assert get_args(Corruption) == tuple(KINDS)
