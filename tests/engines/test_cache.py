"""The answer cache: a key holds all that decides an answer and nothing else; what was answered is never asked again."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from humpback.engines.base import ChoiceLogprobs, Completion, Loglikelihood, ModelRef, Sampling
from humpback.engines.cache import AnswerCache, CachedEngine
from humpback.engines.fake import FakeEngine, FakeTokenizer
from humpback.errors import StorageError
from humpback.prompts import Choice, Continuation, Prompt

MODEL = ModelRef(path="fake", content_hash="model-1")
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=64)
CHOICES = tuple(Choice(text=str(n), token_id=48 + n) for n in range(1, 6))


class Recording(FakeEngine):
    """A scripted engine that remembers the batches it was asked."""

    def __init__(self, model: ModelRef = MODEL) -> None:
        super().__init__(model)
        self.batches: list[list[str]] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.batches.append([prompt.user for prompt in prompts])
        return super().generate(prompts, sampling)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Choice], layers: Sequence[int] = ()
    ) -> list[ChoiceLogprobs]:
        self.batches.append([prompt.user for prompt in prompts])
        return super().choice_logprobs(prompts, choices, layers)

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[Continuation]) -> list[Loglikelihood]:
        self.batches.append([prompt.user for prompt in prompts])
        return super().loglikelihood(prompts, continuations)

    @property
    def asked(self) -> int:
        return sum(map(len, self.batches))


Open = Callable[..., CachedEngine]


@pytest.fixture
def open_engine(tmp_path: Path) -> Iterator[Open]:
    """Opens engines on one cache file."""
    opened: list[CachedEngine] = []

    def opening(model: ModelRef = MODEL, batch_tokens: int = 1000, **more: Any) -> CachedEngine:
        cache = AnswerCache(tmp_path / "answers.sqlite")
        opened.append(CachedEngine(Recording(model), cache, batch_tokens=batch_tokens, **more))
        return opened[-1]

    yield opening
    for engine in opened:
        engine.close()


def _prompt(user: str, *, seed: int = 1) -> Prompt:
    text = FakeTokenizer().chat(user)
    return Prompt(user=user, prefill="", text=text, token_ids=tuple(FakeTokenizer().encode(text)), seed=seed)


def _continuation(text: str) -> Continuation:
    return Continuation(text=text, token_ids=tuple(FakeTokenizer().encode(text)))


def _asked(engine: CachedEngine) -> int:
    assert isinstance(engine.inner, Recording)
    return engine.inner.asked


# -- keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.8}, {"top_p": 0.8}, {"max_tokens": 65}, {"stop": ("\n",)}, {"temperature": 0.0}],
    ids=str,
)
def test_every_field_of_the_sampling_bears_identity(open_engine: Open, change: dict[str, Any]) -> None:
    engine = open_engine()
    for sampling in (SAMPLING, dataclasses.replace(SAMPLING, **change)):
        engine.generate([_prompt("about music and bread")], sampling)
    assert _asked(engine) == 2
    for sampling in (SAMPLING, dataclasses.replace(SAMPLING, **change)):
        engine.generate([_prompt("about music and bread")], sampling)
    assert _asked(engine) == 2


@pytest.mark.parametrize(("temperature", "asked"), [(0.7, 2), (0.0, 1)])
def test_seed_bears_identity_exactly_when_there_is_something_to_draw(
    open_engine: Open, temperature: float, asked: int
) -> None:
    engine = open_engine()
    sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    for seed in (1, 2):
        engine.generate([_prompt("about music and bread", seed=seed)], sampling)
    assert _asked(engine) == asked


def test_model_bears_identity_by_its_content_and_not_by_its_path(open_engine: Open) -> None:
    prompts = [_prompt("about music and bread")]
    first = open_engine()
    first.generate(prompts, SAMPLING)
    moved = open_engine(ModelRef(path="/elsewhere", content_hash=MODEL.content_hash))
    other = open_engine(ModelRef(path=MODEL.path, content_hash="model-2"))
    assert moved.generate(prompts, SAMPLING) == first.generate(prompts, SAMPLING)
    other.generate(prompts, SAMPLING)
    assert (_asked(moved), _asked(other)) == (0, 1)


def test_prompt_bears_identity_by_its_tokens(open_engine: Open) -> None:
    engine = open_engine()
    prompt = _prompt("about music and bread")
    shorter = dataclasses.replace(prompt, token_ids=prompt.token_ids[:-1])
    same_text = dataclasses.replace(prompt, user="as a chat endpoint would be sent it", text="the same tokens")
    for one in (prompt, shorter, same_text):
        engine.choice_logprobs([one], CHOICES)
    assert _asked(engine) == 2


def test_choices_and_their_order_bear_identity(open_engine: Open) -> None:
    engine = open_engine()
    for choices in (CHOICES, CHOICES[:4], CHOICES[::-1], CHOICES):
        engine.choice_logprobs([_prompt("Text:\nSome text.\n\nScore")], choices)
    assert _asked(engine) == 3


def test_continuation_bears_identity(open_engine: Open) -> None:
    engine = open_engine()
    for text in ("bread", "music", "bread"):
        engine.loglikelihood([_prompt("about bread")], [_continuation(text)])
    assert _asked(engine) == 2


def test_prompt_and_continuation_are_kept_apart(open_engine: Open) -> None:
    engine = open_engine()
    ids = FakeTokenizer().encode("about bread")
    for cut in (3, 4):
        prompt = dataclasses.replace(_prompt("x"), token_ids=tuple(ids[:cut]))
        engine.loglikelihood([prompt], [Continuation(text="", token_ids=tuple(ids[cut:]))])
    assert _asked(engine) == 2


def test_calls_do_not_answer_for_each_other(open_engine: Open) -> None:
    engine = open_engine()
    prompt = _prompt("about bread")
    assert isinstance(engine.generate([prompt], SAMPLING)[0], Completion)
    assert isinstance(engine.choice_logprobs([prompt], CHOICES)[0], ChoiceLogprobs)
    assert isinstance(engine.loglikelihood([prompt], [_continuation("")])[0], Loglikelihood)
    assert _asked(engine) == 3


def test_batch_size_and_order_bear_no_identity(open_engine: Open) -> None:
    prompts = [_prompt(f"about {'bread and ' * n}music") for n in range(12)]
    first = open_engine(batch_tokens=10_000)
    answers = first.generate(prompts, SAMPLING)
    second = open_engine(batch_tokens=1)
    assert second.generate(prompts[::-1], SAMPLING) == answers[::-1]
    assert (_asked(first), _asked(second)) == (12, 0)


# -- asking --------------------------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_asked_whatever_the_batches(open_engine: Open) -> None:
    prompts = [_prompt(f"about {'bread and ' * (n * 7 % 12)}music {n}") for n in range(12)]
    engine = open_engine(batch_tokens=80)
    assert engine.generate(prompts, SAMPLING) == FakeEngine(MODEL).generate(prompts, SAMPLING)
    assert isinstance(engine.inner, Recording)
    assert len(engine.inner.batches) > 2


def test_same_question_is_asked_once_in_one_call(open_engine: Open) -> None:
    engine = open_engine()
    asked = [_prompt("about bread"), _prompt("about music"), _prompt("about bread")]
    answers = engine.generate(asked, SAMPLING)
    assert answers[0] == answers[2] != answers[1]
    assert _asked(engine) == 2
    assert (engine.totals.requests, engine.totals.cache_hits) == (3, 1)


def test_only_unanswered_questions_are_asked(open_engine: Open) -> None:
    engine = open_engine()
    engine.generate([_prompt("about bread")], SAMPLING)
    engine.generate([_prompt("about music"), _prompt("about bread"), _prompt("about rivers")], SAMPLING)
    assert isinstance(engine.inner, Recording)
    assert sorted(user for batch in engine.inner.batches for user in batch) == [
        "about bread",
        "about music",
        "about rivers",
    ]
    assert (engine.totals.requests, engine.totals.cache_hits) == (4, 1)


def test_error_is_not_stored_and_its_neighbours_are(open_engine: Open) -> None:
    engine = open_engine()
    prompts = [_prompt("about bread"), _prompt("FAIL-ME"), _prompt("about music")]
    for _ in range(2):
        answers = engine.generate(prompts, SAMPLING)
        assert [answer.error for answer in answers] == [None, "scripted failure", None]
    assert isinstance(engine.inner, Recording)
    assert sorted(user for batch in engine.inner.batches for user in batch) == [
        "FAIL-ME",
        "FAIL-ME",
        "about bread",
        "about music",
    ]
    assert len(engine.cache.keys()) == 2


def test_batches_before_a_crash_are_kept(open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [_prompt(f"about {'bread and ' * n}music") for n in range(8)]
    engine = open_engine(batch_tokens=1)  # one prompt per batch
    real, calls = Recording.generate, iter(range(100))

    def crashing(self: Recording, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        if next(calls) == 5:
            raise MemoryError
        return real(self, prompts, sampling)

    monkeypatch.setattr(Recording, "generate", crashing)
    with pytest.raises(MemoryError):
        engine.generate(prompts, SAMPLING)
    again = open_engine()
    again.generate(prompts, SAMPLING)
    assert _asked(again) == 3


def test_progress_hears_of_stored_and_of_fresh_answers(open_engine: Open) -> None:
    heard: list[tuple[int, int]] = []
    engine = open_engine(batch_tokens=10_000, on_answers=lambda *told: heard.append(told))
    prompts = [_prompt("about bread"), _prompt("about music")]
    engine.choice_logprobs(prompts[:1], CHOICES)
    engine.choice_logprobs(prompts, CHOICES)
    tokens = [len(prompt.token_ids) for prompt in prompts]
    assert heard == [(1, tokens[0]), (1, 0), (1, tokens[1])]
    assert engine.totals.tokens_in == sum(tokens)


def test_no_questions_give_no_answers(open_engine: Open) -> None:
    engine = open_engine()
    assert engine.generate([], SAMPLING) == []
    assert engine.loglikelihood([], []) == []


# -- the file ------------------------------------------------------------------------------------------------------------


def test_answers_survive_reopening_exactly(open_engine: Open) -> None:
    prompts = [_prompt("about bread"), _prompt("Text:\nÉtude, 漢字 🐋\u2028\n\nScore")]
    first = open_engine()
    answers = (
        first.generate(prompts, SAMPLING),
        first.choice_logprobs(prompts, CHOICES),
        first.loglikelihood(prompts, [_continuation("bread"), _continuation("漢字")]),
    )
    first.close()
    again = open_engine()
    assert answers == (
        again.generate(prompts, SAMPLING),
        again.choice_logprobs(prompts, CHOICES),
        again.loglikelihood(prompts, [_continuation("bread"), _continuation("漢字")]),
    )
    assert _asked(again) == 0
    assert math.isclose(sum(map(math.exp, answers[1][0].logprobs)), answers[1][0].mass)


def test_two_processes_see_each_others_answers(tmp_path: Path) -> None:
    one, other = AnswerCache(tmp_path / "a.sqlite"), AnswerCache(tmp_path / "a.sqlite")
    one.put([(b"key", "1")])
    assert other.get([b"key", b"unknown"]) == {b"key": "1"}
    other.put([(b"key", "2"), (b"more", "3")])  # the first answer stays: it may be in a shard already
    assert one.get([b"key", b"more"]) == {b"key": "1", b"more": "3"}
    one.close()
    other.close()


def test_thousands_of_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "a.sqlite")
    items = [(n.to_bytes(32, "big"), str(n)) for n in range(2100)]
    cache.put(items)
    assert cache.get([key for key, _ in items]) == dict(items)
    assert cache.keys() == {key for key, _ in items}
    cache.close()


def test_answers_of_one_call_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "a.sqlite")
    with pytest.raises((StorageError, sqlite3.Error)):
        cache.put([(b"good", "1"), (b"bad", object())])  # type: ignore[list-item]
    assert cache.keys() == set()
    cache.put([(b"good", "1")])  # and the cache goes on
    assert cache.keys() == {b"good"}
    cache.close()


def test_damaged_file_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"this is no database at all, and long enough to be looked at" * 100)
    with pytest.raises(
        StorageError, match=r"answer cache .*a\.sqlite: file is not a database; .*set runtime.cache to another file"
    ):
        AnswerCache(tmp_path / "a.sqlite")


def test_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(StorageError, match=r"answer cache .*file/a\.sqlite cannot be made: .*; choose another place"):
        AnswerCache(tmp_path / "file" / "a.sqlite")


def test_hidden_states_come_back_from_the_cache_as_they_went_in(open_engine: Open) -> None:
    asked = [_prompt("Text:\nSome text.\n\nScore")]
    engine = open_engine()
    (fresh,) = engine.choice_logprobs(asked, CHOICES, layers=(0, 2))
    (kept,) = engine.choice_logprobs(asked, CHOICES, layers=(0, 2))
    assert engine.totals.cache_hits == 1
    assert fresh.hidden is not None
    assert kept.hidden is not None
    assert kept.hidden.shape == (2, 8)
    assert (kept.hidden == fresh.hidden).all()
    engine.choice_logprobs(asked, CHOICES, layers=(0, 1))
    engine.choice_logprobs(asked, CHOICES)
    assert engine.totals.cache_hits == 1
