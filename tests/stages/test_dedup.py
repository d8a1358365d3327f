"""Dedup: one of each text and of what is like it stays, the same whatever the order, and every other names the one that stays."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import humpback.corpus.neardup
import humpback.stages.dedup
from humpback.corpus.neardup import sign
from humpback.errors import StorageError
from humpback.records import Marked, Rejected, Segment
from humpback.stages.dedup import dedup, mark, mark_segment

Make = Callable[..., Segment]
Dedup = Callable[..., tuple[list[str], Counter[str]]]
NEAR = 0.75


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Segment | Rejected]]:
    def do(segments: Sequence[Segment], near: float | None = NEAR, sample: int | None = None, random_seed: int = 0):
        scratch = tmp_path / "scratch"
        found = list(dedup(lambda: iter(segments), near=near, sample=sample, random_seed=random_seed, scratch=scratch))
        assert [row.id for row in found] == [segment.id for segment in segments]
        assert not scratch.exists()
        return found

    return do


@pytest.fixture
def kept(run: Callable[..., list[Segment | Rejected]]) -> Dedup:
    """Return the kept ids, and how often each reason was given."""

    def do(segments: Sequence[Segment], **asked: object) -> tuple[list[str], Counter[str]]:
        found = run(segments, **asked)
        reasons = Counter(row.reason for row in found if isinstance(row, Rejected))
        return [row.id for row in found if isinstance(row, Segment)], reasons

    return do


def prose(draw: random.Random, words: int = 200) -> list[str]:
    return [draw.choice(VOCABULARY) for _ in range(words)]


def changed(draw: random.Random, words: list[str], places: int) -> list[str]:
    other = list(words)
    for place in draw.sample(range(len(words)), places):
        other[place] = f"new{draw.randint(0, 10**9)}"
    return other


VOCABULARY = [f"word{number}" for number in range(3000)]


# -- exact -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", [None, NEAR])
def test_the_longest_of_equal_texts_stays(make_segment: Make, kept: Dedup, near: float | None) -> None:
    segments = [make_segment("One text.", "a"), make_segment("Another."), make_segment("**one**  TEXT!", "b")]
    assert kept(segments, near=near) == ([segments[1].id, segments[2].id], Counter(duplicate=1))


def test_exact_duplicates_alone_are_removed_when_near_ones_are_not_asked_for(make_segment: Make, kept: Dedup) -> None:
    words = prose(random.Random(0))
    segments = [make_segment(" ".join(words)), make_segment(" ".join(changed(random.Random(1), words, 1)))]
    assert kept(segments, near=None)[1] == Counter()
    assert kept(segments)[1] == Counter(near_duplicate=1)


def test_rows_with_one_id_are_told_apart_by_their_place(make_segment: Make, kept: Dedup) -> None:
    row = make_segment("The same page, read twice.")
    assert kept([row, row, row]) == ([row.id], Counter(duplicate=2))
    other = dataclasses.replace(row, text="Another text under the same id, of which nothing is in common.")
    assert kept([row, other, row])[1] == Counter(duplicate=1)


@pytest.mark.parametrize("text", ["", "...", "One", "中", "two words"])
def test_empty_and_very_short_texts_are_equal_only_to_themselves(make_segment: Make, kept: Dedup, text: str) -> None:
    segments = [make_segment(text, "a"), make_segment("Something else"), make_segment(text, "b"), make_segment("!?")]
    ids, reasons = kept(segments)
    assert len(ids) == 3
    assert reasons == Counter(duplicate=1)


def test_no_segments_give_no_segments(kept: Dedup) -> None:
    assert kept([], sample=5) == ([], Counter())
    assert kept([]) == ([], Counter())


# -- near --------------------------------------------------------------------------------------------------------------


def test_a_text_with_few_words_changed_is_a_near_duplicate(make_segment: Make, run: Callable[..., list]) -> None:
    draw = random.Random(0)
    words = prose(draw)
    segments = [make_segment(" ".join(words) + " and more"), make_segment(" ".join(changed(draw, words, 2)))]
    found = run([dataclasses.replace(row, source_uri=f"u{place}") for place, row in enumerate(segments)])
    rejected = next(row for row in found if isinstance(row, Rejected))
    stays = next(row for row in found if isinstance(row, Segment))
    assert rejected.reason == "near_duplicate"
    assert stays.id in rejected.detail
    assert stays.source_uri in rejected.detail
    assert re.search(r"Jaccard about 0\.[89]\d$", rejected.detail)


def test_chinese_text_has_near_duplicates_too(make_segment: Make, kept: Dedup) -> None:
    draw = random.Random(0)
    characters = [chr(draw.randint(0x4E00, 0x8000)) for _ in range(300)]
    other = list(characters)
    other[150] = "龍"
    unlike = [chr(draw.randint(0x4E00, 0x8000)) for _ in range(300)]
    segments = [make_segment("".join(text)) for text in (characters, other, unlike)]
    assert kept(segments)[1] == Counter(near_duplicate=1)


def test_distinct_texts_all_stay(make_segment: Make, kept: Dedup) -> None:
    draw = random.Random(0)
    segments = [make_segment(" ".join(prose(draw, 60))) for _ in range(3000)]
    assert kept(segments)[1] == Counter()


def test_texts_with_a_common_part_below_the_threshold_all_stay(make_segment: Make, kept: Dedup) -> None:
    draw = random.Random(0)
    common = prose(draw, 200)
    segments = [make_segment(" ".join(common + prose(draw, 100))) for _ in range(300)]
    assert len(kept(segments)[0]) > 290


def test_most_near_duplicates_are_found(make_segment: Make, kept: Dedup) -> None:
    draw = random.Random(0)
    texts = [prose(draw) for _ in range(300)]
    segments = [make_segment(" ".join(text)) for text in texts]
    segments += [make_segment(" ".join(changed(draw, text, 2))) for text in texts]
    assert kept(segments)[1]["near_duplicate"] >= 295


def family(make_segment: Make, seed: int) -> list[Segment]:
    """Return texts that go over into each other word by word, with repeats: chains, groups and loners."""
    draw = random.Random(seed)
    segments = []
    for _ in range(draw.randint(1, 4)):
        words = prose(draw, draw.choice([3, 40, 120]))
        for step in range(draw.randint(1, 8)):
            text = " ".join(words)
            segments += [make_segment(text, f"{step}-{copy}") for copy in range(draw.choice([1, 1, 2]))]
            words = changed(draw, words, draw.randint(0, max(1, len(words) // 30)))
    draw.shuffle(segments)
    return segments


def survivors(found: Sequence[Segment | Rejected]) -> dict[str, str]:
    return {row.id: row.detail if isinstance(row, Rejected) else "" for row in found}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.sampled_from([1, 3, 1024]))
def test_what_stays_depends_neither_on_the_order_nor_on_batches(
    make_segment: Make, run: Callable[..., list], seed: int, batch: int
) -> None:
    segments = family(make_segment, seed)
    expected = survivors(run(segments))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(humpback.stages.dedup, "BATCH", batch)
        patch.setattr(humpback.corpus.neardup, "SLICE_ROWS", 5)
        patch.setattr(humpback.corpus.neardup, "READ_ROWS", 3)
        patch.setattr(humpback.corpus.neardup, "PAIRS", 2)
        random.Random(seed).shuffle(segments)
        assert survivors(run(segments)) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_dropped_is_like_one_that_stays(make_segment: Make, run: Callable[..., list], seed: int) -> None:
    segments = family(make_segment, seed)
    found = run(segments)
    by_id = {segment.id: segment for segment in segments}
    stay = {row.id for row in found if isinstance(row, Segment)}
    for row in found:
        if isinstance(row, Rejected):
            keeper = re.search(r"segment (\w{16}) of", row.detail)
            assert keeper is not None
            assert keeper[1] in stay
            signed = sign([by_id[row.id].text, by_id[keeper[1]].text], near=True)
            estimate = float((signed.signatures[0] == signed.signatures[1]).mean())
            assert (
                estimate >= NEAR if row.reason == "near_duplicate" else (signed.digests[0] == signed.digests[1]).all()
            )


def test_a_chain_of_likenesses_does_not_drop_what_is_unlike_all_that_stays(make_segment: Make, kept: Dedup) -> None:
    draw = random.Random(0)
    words, segments = prose(draw, 100), []
    for step in range(60):  # each like its neighbours, the first and the last with nothing in common
        segments.append(make_segment(" ".join(words)))
        words[step * 2 % 100 : step * 2 % 100 + 2] = prose(draw, 2)
    ids, reasons = kept(segments)
    assert len(ids) >= 5
    assert reasons["near_duplicate"] >= 20


def test_a_large_group_of_one_text_is_one(make_segment: Make, kept: Dedup) -> None:
    draw = random.Random(0)
    words = prose(draw, 300)
    segments = [make_segment(" ".join(changed(draw, words, 1))) for _ in range(400)]
    assert len(kept(segments)[0]) == 1


# -- sample ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [1, 7, 29])
def test_sample_has_exactly_its_size(make_segment: Make, kept: Dedup, sample: int) -> None:
    segments = [make_segment(f"Text number {n}") for n in range(30)]
    ids, reasons = kept(segments, sample=sample)
    assert len(ids) == sample
    assert reasons == Counter(not_sampled=30 - sample)


def test_what_is_not_sampled_keeps_its_text(make_segment: Make, run: Callable[..., list[Segment | Rejected]]) -> None:
    segments = [make_segment(f"Text number {n}") for n in range(9)]
    rows = [row for row in run(segments, sample=4) if isinstance(row, Rejected)]
    texts = {segment.id: segment.text for segment in segments}
    assert [json.loads(row.row)["text"] for row in rows] == [texts[row.id] for row in rows]
    assert len(rows) == 5


@pytest.mark.parametrize("near", [NEAR, None])
def test_marks_made_elsewhere_give_the_same(make_segment: Make, tmp_path: Path, near: float | None) -> None:
    draw = random.Random(7)
    first = prose(draw, 200)
    texts = [" ".join(first), " ".join(changed(draw, first, 4)), " ".join(first).upper(), " ".join(prose(draw, 200))]
    segments = [make_segment(text) for text in texts * 3]
    marked = [Marked(id=one.id, source_uri=one.source_uri, marks=mark(one)) for one in segments]
    asked = {"near": near, "sample": 1, "random_seed": 1, "scratch": tmp_path / "scratch"}
    plain = list(dedup(lambda: iter(segments), **asked))  # type: ignore[arg-type]
    assert plain == list(dedup(lambda: iter(segments), lambda: iter(marked), **asked))  # type: ignore[arg-type]
    assert len({row.reason for row in plain if isinstance(row, Rejected)}) == (3 if near else 2)
    assert [mark_segment(one).marks for one in segments] == [row.marks for row in marked]


@pytest.mark.parametrize("sample", [30, 31, 1000])
def test_sample_that_is_not_smaller_keeps_all(make_segment: Make, kept: Dedup, sample: int) -> None:
    segments = [make_segment(f"Text number {n}") for n in range(30)]
    assert len(kept(segments, sample=sample)[0]) == 30


def test_duplicates_take_no_place_in_the_sample(make_segment: Make, kept: Dedup) -> None:
    segments = [make_segment(f"Text number {n}", str(copy)) for n in range(10) for copy in range(3)]
    ids, reasons = kept(segments, sample=10)
    assert len(ids) == 10
    assert reasons == Counter(duplicate=20)
    assert kept(segments, sample=4)[1] == Counter(duplicate=20, not_sampled=6)


def test_sample_is_drawn_by_content_and_not_by_place(make_segment: Make, kept: Dedup) -> None:
    segments = [make_segment(f"Text number {n}") for n in range(30)]
    ids, _ = kept(segments, sample=8)
    assert sorted(kept(segments[::-1], sample=8)[0]) == sorted(ids)
    assert ids != [segment.id for segment in segments[:8]]
    larger, _ = kept(segments, sample=12)
    assert set(ids) < set(larger)
    assert kept(segments, sample=8, random_seed=1)[0] != ids


# -- scratch -----------------------------------------------------------------------------------------------------------


def test_what_a_killed_sitting_left_in_the_scratch_folder_is_removed(make_segment: Make, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "digests").write_bytes(b"left over")
    rows = dedup(lambda: [make_segment("Text")], near=NEAR, sample=None, random_seed=0, scratch=scratch)
    assert len(list(rows)) == 1
    assert not scratch.exists()


def test_the_scratch_folder_goes_when_reading_fails_or_the_reader_stops(make_segment: Make, tmp_path: Path) -> None:
    def failing() -> Iterator[Segment]:
        yield make_segment("Text")
        raise StorageError("damaged")

    scratch = tmp_path / "scratch"
    with pytest.raises(StorageError, match="damaged"):
        list(dedup(failing, near=NEAR, sample=2, random_seed=0, scratch=scratch))
    assert not scratch.exists()
    segments = [make_segment(f"Text {number}") for number in range(3)]
    rows = dedup(lambda: segments, near=NEAR, sample=None, random_seed=0, scratch=scratch)
    next(rows)
    assert scratch.exists()
    rows.close()  # type: ignore[attr-defined]
    assert not scratch.exists()


@pytest.mark.parametrize("second", [1, 3])
def test_an_input_that_changes_between_the_passes_is_refused(make_segment: Make, tmp_path: Path, second: int) -> None:
    sizes = iter([2, second])
    rows = dedup(
        lambda: [make_segment(f"Text {number}") for number in range(next(sizes))],
        near=None,
        sample=None,
        random_seed=0,
        scratch=tmp_path / "scratch",
    )
    with pytest.raises(StorageError, match="--rerun-from ingest"):
        list(rows)
