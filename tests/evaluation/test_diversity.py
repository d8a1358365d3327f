"""Spreading out: caps are kept, near-copies fall out with a reason, and the far come before the near."""

from __future__ import annotations

import random

import pytest

from humpback.evaluation import diversity
from humpback.evaluation.diversity import choose_diverse, sign_instruction

WORDS = [f"word{n}" for n in range(400)]


def _instructions(count: int) -> list[str]:
    return [" ".join(random.Random(n).sample(WORDS, 8)) for n in range(count)]


def _choose(
    texts: list[str], sources: list[str], count: int, per_source: int = 99, alike: float = 0.7
) -> tuple[list[int], dict[int, tuple[str, str]]]:
    signs = [sign_instruction(text) for text in texts]
    return choose_diverse(signs, sources, count=count, max_per_source=per_source, alike=alike)


def test_no_more_than_the_cap_comes_from_one_source() -> None:
    texts = _instructions(30)
    taken, near = _choose(texts, ["a"] * 20 + [str(n) for n in range(10)], 30, per_source=3)
    assert sum(place < 20 for place in taken) == 3
    assert len(taken) == 13
    assert {reason for reason, _ in near.values()} == {"source_full"}


def test_of_two_alike_instructions_the_better_is_kept() -> None:
    texts = ["How do I bake rye bread at home", "How do I bake rye bread at home now", *_instructions(4)]
    taken, near = _choose(texts, [str(n) for n in range(6)], 6)
    assert 0 in taken
    assert near[1][0] == "alike_instruction"


def test_far_instructions_come_before_near_ones() -> None:
    base = "explain how bread rises in a warm kitchen overnight"
    texts = [base, base + " please tell me more about yeast", *_instructions(2)]
    taken, _ = _choose(texts, [str(n) for n in range(4)], 2, alike=0.99)
    assert taken[0] == 0
    assert taken[1] in (2, 3)


@pytest.mark.parametrize("block", [3, 7, 1000])
def test_count_is_reached_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK", block)
    taken, near = _choose(_instructions(40), [str(n) for n in range(40)], 15)
    assert len(taken) == len(set(taken)) == 15
    assert not near


def test_copies_across_blocks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK", 5)
    texts = [*_instructions(5), *_instructions(5)]
    taken, near = _choose(texts, [str(n) for n in range(10)], 10)
    assert sorted(taken) == [0, 1, 2, 3, 4]
    assert set(near) == {5, 6, 7, 8, 9}


def test_nothing_is_chosen_from_nothing() -> None:
    assert _choose([], [], 5) == ([], {})
