"""The answer cache: a key holds all that decides an answer and nothing else; what was answered is never asked again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from contract import EngineContract
from hypothesis import given
from hypothesis import strategies as st

from humpback.engines.answers import AnswerCache
from humpback.engines.base import ChoiceLogprobs, Completion, Heard, Loglikelihood, ModelRef, Sampling
from humpback.engines.cache import CachedEngine, _key
from humpback.engines.fake import FakeEngine, FakeTokenizer, fake_model
from humpback.engines.packing import COMPLETIONS
from humpback.prompts import Choice, Continuation, Prompt, Prompts

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


# -- the contract of every engine ----------------------------------------------------------------------------------------


class TestContract(EngineContract):
    """Behind the cache an engine keeps the contract: what is kept is what was answered."""

    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=64)
    creative = Sampling(temperature=1.0, top_p=1.0, max_tokens=256)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CachedEngine]:
        cache = AnswerCache(tmp_path_factory.mktemp("cache") / "answers.sqlite")
        engine = CachedEngine(FakeEngine(fake_model(None)), cache, batch_tokens=500)
        yield engine
        engine.close()

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls) -> None:
        """It has no model."""

    @pytest.fixture(scope="class")
    @classmethod
    def vocabulary(cls) -> int:
        return 258


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


def test_layers_and_their_order_bear_identity(open_engine: Open) -> None:
    engine = open_engine()
    for layers in ((), (1,), (1, 2), (2, 1), (12,), (1,)):
        engine.choice_logprobs([_prompt("Text:\nSome text.\n\nScore")], CHOICES, layers)
    engine.choice_logprobs([_prompt("Text:\nSome text.\n\nScore")], (), (1,))
    assert _asked(engine) == 6


def test_chat_template_bears_identity_by_the_tokens_it_writes(open_engine: Open) -> None:
    class Polite(FakeTokenizer):
        def chat(self, user: str) -> str:
            return f"<|user|>Please: {user}<|end|>"

    engine = open_engine()
    for tokenizer in (FakeTokenizer(), Polite(), FakeTokenizer()):
        prompts = Prompts(tokenizer, max_tokens=4096, instruction_tokens=64)
        engine.generate([prompts.backward("about bread")], SAMPLING)
    assert _asked(engine) == 2


def test_adapter_bears_identity_by_the_content_hash_it_is_part_of(open_engine: Open) -> None:
    base = ModelRef(path="base", content_hash="base")
    adapters = [ModelRef(path="base", content_hash=f"base+{name}", adapter=name) for name in ("one", "two")]
    moved = dataclasses.replace(adapters[0], adapter="elsewhere/one")
    engines = [open_engine(model) for model in (base, *adapters, moved)]
    for engine in engines:
        engine.generate([_prompt("about bread")], SAMPLING)
    assert [_asked(engine) for engine in engines] == [1, 1, 1, 0]


def test_kind_of_engine_device_and_stage_bear_no_identity(tmp_path: Path) -> None:
    class OnAnotherDevice(Recording):
        """Answers a last digit otherwise, as another device, dtype or backend would."""

        device, dtype = "cuda", "bfloat16"

    cache = tmp_path / "answers.sqlite"
    first = CachedEngine(FakeEngine(MODEL), AnswerCache(cache), batch_tokens=100)
    second = CachedEngine(OnAnotherDevice(MODEL), AnswerCache(cache), batch_tokens=9000)
    prompts, said = [_prompt("about bread"), _prompt("about music")], [_continuation("yes")] * 2
    for engine in (first, second):
        engine.generate(prompts, SAMPLING)
        engine.choice_logprobs(prompts, CHOICES)
        engine.loglikelihood(prompts, said)
        engine.close()
    assert _asked(second) == 0


@given(st.data())
def test_no_two_questions_have_the_same_key(data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, 3), max_size=4).map(tuple)
    question = st.tuples(
        st.sampled_from(["generate", "loglikelihood"]),
        st.sampled_from(["a", "a0", ""]),
        ids,
        ids,
        st.sampled_from(["", "0", "00"]),
    )
    one, other = data.draw(question), data.draw(question)

    def key(call: Any, model: str, prompt: tuple[int, ...], continuation: tuple[int, ...], seed: str) -> bytes:
        engine = CachedEngine(FakeEngine(ModelRef(path="", content_hash=model)), cast(Any, None), batch_tokens=1)
        return _key(engine._begin_key(call, "{}"), prompt, continuation, seed=seed)

    assert (key(*one) == key(*other)) == (one == other)


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
    heard: list[Heard] = []
    engine = open_engine(batch_tokens=10_000, on_answers=heard.append)
    prompts = [_prompt("about bread"), _prompt("about music")]
    engine.choice_logprobs(prompts[:1], CHOICES)
    engine.choice_logprobs(prompts, CHOICES)
    tokens = [len(prompt.token_ids) for prompt in prompts]
    told = [(one.totals.requests, one.totals.cache_hits, one.totals.tokens_in, one.work) for one in heard]
    assert told == [(1, 0, tokens[0], 1), (1, 1, 0, 1), (1, 0, tokens[1], 1)]
    assert engine.totals.tokens_in == sum(tokens)


def test_progress_weighs_long_batches_which_come_first_by_their_length(open_engine: Open) -> None:
    heard: list[Heard] = []
    engine = open_engine(batch_tokens=40, on_answers=heard.append)
    engine.choice_logprobs([_prompt("bread " * n) for n in (1, 2, 20, 40)], CHOICES)
    work = [one.work for one in heard]
    assert sum(work) == pytest.approx(4)
    assert work == sorted(work, reverse=True)
    assert work[0] > 2 > heard[0].totals.requests


def test_errors_and_retries_of_the_engine_are_counted(open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Recording.generate

    def retrying(self: Recording, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.totals.retries += 3
        return real(self, prompts, sampling)

    monkeypatch.setattr(Recording, "generate", retrying)
    engine = open_engine(batch_tokens=10_000)
    for _ in range(2):
        engine.generate([_prompt("about bread"), _prompt("FAIL-ME")], SAMPLING)
    totals = engine.totals
    assert (totals.requests, totals.cache_hits, totals.errors, totals.retries) == (4, 1, 2, 6)


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


def test_an_answer_takes_few_bytes(open_engine: Open) -> None:
    engine = open_engine()
    prompts, said = [_prompt("Text:\nSome text.\n\nScore")], [_continuation("yes")]
    engine.loglikelihood(prompts, said)
    engine.choice_logprobs(prompts, CHOICES)
    engine.choice_logprobs(prompts, (), layers=(0, 1, 2))
    sizes = [group.bytes - 32 * group.entries for group in engine.cache.groups()]
    assert sizes == [20 + 5 * 8 + 20 + 3 * (1 + 8 * 2), 12]


def test_drawn_tokens_and_their_logprob_come_back(tmp_path: Path) -> None:
    told = Completion(text="a\ud800 \0 漢字", tokens=3, finish="length", token_ids=(1, 2, 4_000_000), logprob=-1.5)
    silent = Completion(text="", tokens=1, finish="stop")
    for one in (told, silent):
        assert COMPLETIONS.unpack(COMPLETIONS.pack(one)) == one


# -- what a completion tells of its likelihood -------------------------------------------------------------------------


class Telling(Recording):
    """Ends its completions as told, and tells their tokens and log-probability."""

    ended = True

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        end = tuple(self.tokenizer.end_of_turn) if self.ended else ()
        return [
            dataclasses.replace(
                answer,
                token_ids=(*self.tokenizer.encode(answer.text), *end),
                logprob=-1.5,
                finish="stop" if self.ended else "length",
            )
            for answer in super().generate(prompts, sampling)
        ]


def test_a_completion_that_ended_by_itself_answers_its_own_likelihood(tmp_path: Path) -> None:
    inner = Telling(MODEL)
    engine = CachedEngine(inner, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=1000)
    prompt = _prompt("about bread")
    (drawn,) = engine.generate([prompt], SAMPLING)
    asked = Continuation(text=drawn.text, token_ids=drawn.token_ids)
    other = Continuation(text=drawn.text, token_ids=drawn.token_ids[1:])
    before = inner.asked
    likely, unlikely = engine.loglikelihood([prompt, prompt], [asked, other])
    assert likely == Loglikelihood(logprob=-1.5, tokens=len(drawn.token_ids))
    assert unlikely != likely
    assert inner.asked == before + 1
    engine.close()


def test_a_completion_cut_by_its_length_answers_nothing_else(tmp_path: Path) -> None:
    inner = Telling(MODEL)
    inner.ended = False
    engine = CachedEngine(inner, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=1000)
    prompt = _prompt("about bread")
    (drawn,) = engine.generate([prompt], SAMPLING)
    engine.loglikelihood([prompt], [Continuation(text=drawn.text, token_ids=drawn.token_ids)])
    assert inner.asked == 2
    engine.close()
