"""The contract of every engine, as one suite. In: an engine, and what its model answers exactly. Out: tests.

A backend's test module subclasses `EngineContract` and gives it fixtures; a check skips, with the reason, where an engine does
not claim the capability. `contract_model` (conftest.py) is a model made for it: it ends its turns, and its characters are
several tokens long. `PlainModel` reads the exact values of any model folder, one sequence at a time, in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from contract_tools import (
    CALLS,
    CREATIVE,
    EMPTY,
    GREEDY,
    MENU,
    TEXTS,
    AdapterCase,
    Answer,
    PlainModel,
    Reference,
    answer,
    ask,
    ask_all,
    assert_same,
    claimed,
    continue_with,
    describe,
    exact_loglikelihood,
    menu,
    need,
    need_reference,
    valid_stop,
)

from humpback.engines.base import (
    ChoiceLogprobs,
    ChoiceQuestion,
    Completion,
    Engine,
    LoglikelihoodQuestion,
    Question,
    Sampling,
)
from humpback.engines.together import ask_together
from humpback.prompts import Continuation, Prompt

__all__ = ["AdapterCase", "EngineContract", "PlainModel", "Reference", "ask", "assert_engines_agree", "continue_with"]

UNICODE = {
    "emoji": "👩🏽‍🚀 and 🏴‍☠️ and 🐋",
    "cjk": "日本語のテキスト、漢字と仮名",
    "combining": "e\u0301 n\u0303 Z\u0351\u036b\u0343",
    "right-to-left": "\u202bשלום עולם\u202c مرحبا",
    "line separators": "a\u2028b\u2029c\x85d\r\ne",
    "NUL": "before\0after",
    "astral": "𝔥𝔲𝔪𝔭𝔟𝔞𝔠𝔨 𐍈",
}


def assert_engines_agree(one: Engine, other: Engine, *, tolerance: float, greedy: bool = True) -> None:
    """Two engines on the same model give the same answers; `tolerance` in nats per token. `greedy`: the same texts too."""
    prompts, targets = ask_all(one), continue_with(one, ["yes", "Une baleine 🐋 chante. " * 4, "", "no", "rivers " * 9])
    assert [p.token_ids for p in prompts] == [p.token_ids for p in ask_all(other)], "they tokenise differently"
    shared = one.capabilities & other.capabilities
    if "choice_logprobs" in shared:
        answers = (engine.choice_logprobs(prompts, menu(one)) for engine in (one, other))
        for mine, theirs in zip(*answers, strict=True):
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=tolerance)
            assert mine.mass == pytest.approx(theirs.mass, abs=tolerance)
    if "loglikelihood" in shared:
        likely = (engine.loglikelihood(prompts, targets) for engine in (one, other))
        for mine, theirs in zip(*likely, strict=True):
            assert mine.tokens == theirs.tokens
            assert mine.logprob == pytest.approx(theirs.logprob, abs=tolerance * max(mine.tokens, 1))
    if greedy and "generate" in shared:
        texts = ([(a.text, a.tokens, a.finish) for a in engine.generate(prompts, GREEDY)] for engine in (one, other))
        assert next(texts) == next(texts)


class EngineContract:
    """Subclass it as `Test...` and override the fixtures; set the flags to what the engine promises."""

    seeded: bool = True
    """A prompt's seed decides its draw."""
    ends_turns: bool = True
    """The model under test ends some of its turns within 32 tokens at temperature 1, and not all at once."""
    takes_tokens: bool = True
    """The engine is sent token ids; one that is sent text cannot meet a token outside the vocabulary, or a special one."""
    greedy: Sampling = GREEDY
    creative: Sampling = CREATIVE
    """What is drawn with. Long draws from a flat distribution over a large vocabulary differ by the rounding of a batch."""

    # -- what a backend gives --------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        """The opened engine."""
        raise NotImplementedError("override the fixture `engine`")

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls) -> Reference | None:
        """The same weights, exactly; None for an engine without a model."""
        raise NotImplementedError("override the fixture `reference`")

    @pytest.fixture(scope="class")
    @classmethod
    def tolerance(cls) -> float:
        """How far a log-probability may be from the exact one: nats per token."""
        return 1e-4

    @pytest.fixture(scope="class")
    @classmethod
    def context(cls, reference: Reference | None) -> int | None:
        """The longest prompt and answer the engine takes, in tokens; None for no limit."""
        return reference.context if reference else None

    @pytest.fixture(scope="class")
    @classmethod
    def vocabulary(cls, reference: Reference | None) -> int | None:
        """The smallest token id that the model does not know."""
        return reference.vocabulary if reference else None

    @pytest.fixture(scope="class")
    @classmethod
    def adapter_engines(cls) -> Sequence[AdapterCase] | None:
        """The base and two adapters on it, each with its merged model; None without adapters."""
        return None

    # -- order and batches -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("call", CALLS)
    def test_answers_come_in_the_order_asked_whatever_the_lengths(
        self, engine: Engine, tolerance: float, call: str
    ) -> None:
        prompts = ask_all(engine, [text[: len(text) // n or 1] for n in (3, 1, 2) for text in TEXTS])
        together = self.answer(engine, call, prompts)
        backwards = self.answer(engine, call, prompts[::-1])[::-1]
        alone = [self.answer(engine, call, [prompt])[0] for prompt in prompts]
        for one, reverse, single in zip(together, backwards, alone, strict=True):
            assert_same(one, single, tolerance)
            assert_same(reverse, single, tolerance)
        assert len({describe(one) for one in alone}) > 1  # else any order would do

    @pytest.mark.parametrize("call", CALLS)
    def test_a_batch_of_none_of_one_and_of_130_is_answered(self, engine: Engine, tolerance: float, call: str) -> None:
        assert self.answer(engine, call, []) == []
        prompts = [ask(engine, f"{number % 65} " * (number % 7 + 1), seed=number % 65) for number in range(130)]
        many = self.answer(engine, call, prompts)
        assert len(many) == 130
        assert [one.error for one in many] == [None] * 130
        for number in (0, 64, 129):
            assert_same(self.answer(engine, call, [prompts[number]])[0], many[number], tolerance)

    @pytest.mark.parametrize("call", CALLS)
    def test_the_same_prompt_twice_has_the_same_answer_twice(self, engine: Engine, tolerance: float, call: str) -> None:
        first, other, second = self.answer(engine, call, [ask(engine, text) for text in ("same", "other", "same")])
        assert_same(first, second, tolerance)
        assert describe(first) != describe(other)

    # -- generation ------------------------------------------------------------------------------------------------

    def test_max_tokens_is_the_most_that_is_drawn(self, engine: Engine) -> None:
        need(engine, "generate")
        finishes = set()
        for limit in (1, 5):
            for one in engine.generate(ask_all(engine), dataclasses.replace(self.greedy, max_tokens=limit)):
                assert one.error is None
                assert one.tokens <= limit
                assert one.finish == "stop" or one.tokens == limit
                finishes.add(one.finish)
        assert "length" in finishes

    def test_the_end_of_turn_stops_a_completion_and_is_not_in_its_text(self, engine: Engine) -> None:
        need(engine, "generate")
        if not self.ends_turns:
            pytest.skip("this model does not end its turns")
        answers = engine.generate([ask(engine, "Say hello.", seed) for seed in range(64)], self.creative)
        stopped = [one for one in answers if one.finish == "stop"]
        assert stopped
        assert min(one.tokens for one in stopped) < self.creative.max_tokens
        special = engine.tokenizer.special_tokens
        assert not any(token in one.text for token in special for one in answers)

    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_a_stop_string_ends_a_completion_and_is_cut(self, engine: Engine, length: int) -> None:
        need(engine, "generate")
        prompts, sampling = self.drawn(engine)
        free = engine.generate(prompts, sampling)
        texts = [one.text for one in free if "\ufffd" not in one.text[2:] and len(one.text) > length + 2]
        texts = texts or [one.text for one in free]
        for start in range(2, 8):  # wherever tokens begin and end, one of these straddles them
            stop = next((t[start : start + length] for t in texts if valid_stop(t[start : start + length])), None)
            if stop is None:
                continue
            sampling_with_stop = dataclasses.replace(sampling, stop=(stop, "never\0never"))
            for before, after in zip(free, engine.generate(prompts, sampling_with_stop), strict=True):
                assert stop not in after.text
                assert after.text == before.text.partition(stop)[0]
                assert after.finish == ("stop" if stop in before.text else before.finish)
                assert after.tokens <= before.tokens

    def test_the_first_of_several_stop_strings_wins(self, engine: Engine) -> None:
        need(engine, "generate")
        prompts, sampling = self.drawn(engine)
        free = next(one for one in engine.generate(prompts, sampling) if len(one.text.replace("\ufffd", "")) > 6)
        marks = list(dict.fromkeys(c for c in free.text if c != "\ufffd"))
        stops = (marks[-1], marks[len(marks) // 2])
        row = [one.text for one in engine.generate(prompts, sampling)].index(free.text)
        cut = engine.generate(prompts, dataclasses.replace(sampling, stop=stops))[row]
        assert cut.text == free.text[: min(free.text.find(stop) for stop in stops)]

    @pytest.mark.parametrize("name", UNICODE)
    def test_a_stop_string_of_any_script_that_never_comes_changes_nothing(self, engine: Engine, name: str) -> None:
        need(engine, "generate")
        prompts, sampling = self.drawn(engine)
        stopped = engine.generate(prompts, dataclasses.replace(sampling, stop=(UNICODE[name],)))
        assert [one.error for one in stopped] == [None] * len(prompts)
        assert [one.text for one in stopped] == [one.text for one in engine.generate(prompts, sampling)]

    def test_a_seed_decides_the_draw_whatever_the_batch(self, engine: Engine) -> None:
        need(engine, "generate")
        if not self.seeded:
            pytest.skip("this engine's draws do not follow the seed")
        prompts = [ask(engine, "Tell me about music and bread, rivers and mountains.", seed) for seed in range(12)]
        texts = [one.text for one in engine.generate(prompts, self.creative)]
        assert [one.text for one in engine.generate(prompts[::-1], self.creative)] == texts[::-1]
        assert [engine.generate([prompt], self.creative)[0].text for prompt in prompts] == texts
        assert len(set(texts)) > 1

    def test_temperature_zero_ignores_the_seed(self, engine: Engine) -> None:
        need(engine, "generate")
        prompts = [ask(engine, "Tell me about music and bread.", seed) for seed in range(4)]
        assert len({one.text for one in engine.generate(prompts, self.greedy)}) == 1

    def test_temperature_zero_takes_the_most_probable_token(
        self, engine: Engine, reference: Reference | None, tolerance: float
    ) -> None:
        need(engine, "generate")
        exact = need_reference(reference)
        for prompt in ask_all(engine):
            (one,) = engine.generate([prompt], dataclasses.replace(self.greedy, max_tokens=1))
            row = exact.next_logprobs(prompt.token_ids)[-1]
            best = [int(token) for token in np.flatnonzero(row >= row.max() - 2 * tolerance)]
            texts = [engine.tokenizer.decode([token]) for token in best]
            assert one.text in (texts if one.finish == "length" else [""])

    def test_tokens_and_logprob_of_a_completion_are_what_loglikelihood_says(
        self, engine: Engine, tolerance: float
    ) -> None:
        need(engine, "generate", "loglikelihood")
        prompts, told = ask_all(engine), self.creative if self.seeded else self.greedy
        answers = engine.generate(prompts, told)
        if not any(one.token_ids for one in answers):
            pytest.skip("this engine does not tell the tokens it drew")
        for prompt, one in zip(prompts, answers, strict=True):
            assert len(one.token_ids) == one.tokens
            drawn = Continuation(text=engine.tokenizer.decode(one.token_ids), token_ids=one.token_ids)
            if one.logprob is not None:
                (likely,) = engine.loglikelihood([prompt], [drawn])
                assert one.logprob == pytest.approx(likely.logprob, abs=tolerance * max(one.tokens, 1))

    # -- choices and likelihoods -----------------------------------------------------------------------------------

    def test_choices_are_the_exact_softmax_and_their_mass(
        self, engine: Engine, reference: Reference | None, tolerance: float
    ) -> None:
        need(engine, "choice_logprobs")
        exact, prompts, choices = need_reference(reference), ask_all(engine), menu(engine)
        for prompt, one in zip(prompts, engine.choice_logprobs(prompts, choices), strict=True):
            expected = exact.next_logprobs(prompt.token_ids)[-1, [choice.token_id for choice in choices]]
            assert one.error is None
            assert one.logprobs == pytest.approx(expected.tolist(), abs=tolerance)
            assert one.mass == pytest.approx(float(np.exp(expected).sum()), abs=tolerance)

    def test_a_choice_given_twice_is_answered_twice_and_weighs_once(self, engine: Engine, tolerance: float) -> None:
        need(engine, "choice_logprobs")
        (first, second, *_), prompts = menu(engine), ask_all(engine)
        twice = engine.choice_logprobs(prompts, (first, second, first))
        for one, once in zip(twice, engine.choice_logprobs(prompts, (first, second)), strict=True):
            assert one.logprobs[0] == one.logprobs[2]
            assert one.logprobs[:2] == pytest.approx(once.logprobs, abs=tolerance)
            assert one.mass == pytest.approx(once.mass, abs=tolerance)

    def test_likelihoods_are_those_of_a_plain_forward_pass(
        self, engine: Engine, reference: Reference | None, tolerance: float
    ) -> None:
        need(engine, "loglikelihood")
        exact, prompts = need_reference(reference), ask_all(engine)
        targets = continue_with(engine, ["Yes.", "Une baleine 🐋 chante. " * 6, "n", "漢字", "The Nile, the Amazon."])
        for prompt, target, one in zip(prompts, targets, engine.loglikelihood(prompts, targets), strict=True):
            expected = exact_loglikelihood(exact, prompt.token_ids, target.token_ids)
            assert one.tokens == len(target.token_ids)
            assert one.logprob == pytest.approx(expected, abs=tolerance * one.tokens)

    def test_an_empty_continuation_is_certain(self, engine: Engine) -> None:
        need(engine, "loglikelihood")
        prompts = [ask(engine, "hello"), ask(engine, "bread and music")]
        empty, one = engine.loglikelihood(prompts, continue_with(engine, ["", "one"]))
        assert (empty.logprob, empty.tokens, empty.error) == (0.0, 0, None)
        assert one.logprob < 0

    def test_a_continuation_may_hold_special_tokens(
        self, engine: Engine, reference: Reference | None, tolerance: float
    ) -> None:
        need(engine, "loglikelihood")
        exact = need_reference(reference)
        if not self.takes_tokens:
            pytest.skip("this engine is sent text")
        prompt, end = ask(engine, "hello"), tuple(engine.tokenizer.end_of_turn)
        (yes,) = continue_with(engine, ["Yes."])
        ids = (*yes.token_ids, *end)
        (one,) = engine.loglikelihood([prompt], [Continuation(text="Yes.", token_ids=ids)])
        assert one.tokens == len(ids)
        assert one.logprob == pytest.approx(
            exact_loglikelihood(exact, prompt.token_ids, ids), abs=tolerance * one.tokens
        )

    def test_hidden_states_are_those_of_a_plain_forward_pass(
        self, engine: Engine, reference: Reference | None, tolerance: float
    ) -> None:
        need(engine, "hidden_states")
        exact, prompts, layers = need_reference(reference), ask_all(engine), (0, 1, 2)
        answers = engine.choice_logprobs(prompts, menu(engine), layers=layers)
        bare = engine.choice_logprobs(prompts, (), layers=layers[1:])
        for prompt, one, alone in zip(prompts, answers, bare, strict=True):
            expected = exact.states(prompt.token_ids, layers)
            assert one.hidden is not None
            assert alone.hidden is not None
            assert one.hidden.dtype == np.float32
            np.testing.assert_allclose(one.hidden, expected, atol=tolerance)
            np.testing.assert_allclose(alone.hidden, expected[1:], atol=tolerance)
            assert (len(one.logprobs), alone.logprobs) == (len(MENU), ())
        assert engine.choice_logprobs(prompts, menu(engine))[0].hidden is None

    def test_questions_of_both_kinds_asked_together_are_answered_as_apart(
        self, engine: Engine, tolerance: float
    ) -> None:
        need(engine, "choice_logprobs", "loglikelihood")
        prompts, (first, *others) = ask_all(engine), menu(engine)
        targets = continue_with(engine, ["Yes.", "", "n", "The Nile, the Amazon. " * 6, "Yes."])
        wholes = [
            dataclasses.replace(prompt, token_ids=(*prompt.token_ids, *target.token_ids))
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        layers = (1, 2) if "hidden_states" in engine.capabilities else ()
        groups: list[list[Question]] = [
            [
                LoglikelihoodQuestion(prompt=prompt, continuation=target),
                ChoiceQuestion(prompt=whole, choices=(first,), layers=layers),
                ChoiceQuestion(prompt=prompt, choices=tuple(others)),
            ]
            for prompt, target, whole in zip(prompts, targets, wholes, strict=True)
        ]
        groups.insert(1, [])
        together = ask_together(engine, groups)
        assert together.pop(1) == []
        apart = zip(
            engine.loglikelihood(prompts, targets),
            engine.choice_logprobs(wholes, (first,), layers),
            engine.choice_logprobs(prompts, others),
            strict=True,
        )
        for told, known in zip(together, apart, strict=True):
            for one, other in zip(told, known, strict=True):
                assert_same(one, other, tolerance)

    @pytest.mark.parametrize("name", UNICODE)
    def test_text_of_any_script_reaches_the_model_whole(
        self, engine: Engine, reference: Reference | None, tolerance: float, name: str
    ) -> None:
        prompt = ask(engine, UNICODE[name])
        assert engine.tokenizer.decode(engine.tokenizer.encode(UNICODE[name])) == UNICODE[name]
        for call in claimed(engine):
            assert self.answer(engine, call, [prompt])[0].error is None
        if reference and "choice_logprobs" in engine.capabilities:
            (one,) = engine.choice_logprobs([prompt], menu(engine))
            expected = reference.next_logprobs(prompt.token_ids)[-1, [choice.token_id for choice in menu(engine)]]
            assert one.logprobs == pytest.approx(expected.tolist(), abs=tolerance)

    # -- errors ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("kind", ["empty", "over-long", "unknown token"])
    def test_a_prompt_that_cannot_be_answered_is_an_error_that_harms_nobody(
        self, engine: Engine, context: int | None, vocabulary: int | None, tolerance: float, kind: str, call: str
    ) -> None:
        good = [ask(engine, text, seed=5) for text in ("bread and music", "rivers")]
        bad = self.bad_prompt(engine, kind, context, vocabulary)
        answers = self.answer(engine, call, [good[0], bad, good[1], bad])
        for one in (answers[1], answers[3]):
            assert one.error
            assert describe(one) in (("", 0, "error"), ((), 0.0), (0.0, 0))
        for one, alone in zip((answers[0], answers[2]), self.answer(engine, call, good), strict=True):
            assert_same(one, alone, tolerance)
            assert one.error is None

    def test_an_unknown_token_in_a_continuation_is_an_error_that_harms_nobody(
        self, engine: Engine, vocabulary: int | None
    ) -> None:
        need(engine, "loglikelihood")
        alien = self.bad_prompt(engine, "unknown token", None, vocabulary).token_ids[-1]
        prompts, (yes,) = [ask(engine, "hello")] * 2, continue_with(engine, ["yes"])
        bad, good = engine.loglikelihood(prompts, [Continuation(text="", token_ids=(*yes.token_ids, alien)), yes])
        assert bad.error
        assert (bad.logprob, bad.tokens, good.error) == (0.0, 0, None)

    # -- the engine ------------------------------------------------------------------------------------------------

    def test_base_and_adapters_answer_as_their_merged_models(
        self, adapter_engines: Sequence[AdapterCase] | None, tolerance: float
    ) -> None:
        if not adapter_engines:
            pytest.skip("this engine is given no adapters")
        values = []
        for engine, merged in (*adapter_engines, *adapter_engines):  # twice: a switch must leave nothing behind
            prompts, targets = ask_all(engine), continue_with(engine, ["yes", "no", "漢字", "rivers", "five"])
            for call in ("choice_logprobs", "loglikelihood"):
                if call not in engine.capabilities:
                    continue
                for i, one in enumerate(answer(engine, call, prompts, self.greedy, targets)):
                    after = merged.next_logprobs(prompts[i].token_ids)[-1]
                    expected = (
                        [float(after[choice.token_id]) for choice in menu(engine)]
                        if isinstance(one, ChoiceLogprobs)
                        else exact_loglikelihood(merged, prompts[i].token_ids, targets[i].token_ids)
                    )
                    got = list(one.logprobs) if isinstance(one, ChoiceLogprobs) else one.logprob  # type: ignore[union-attr]
                    assert got == pytest.approx(expected, abs=tolerance * 16)
            values.append(merged.next_logprobs(prompts[0].token_ids)[-1])
        first = values[: len(adapter_engines)]
        assert all(np.abs(a - b).max() > 1e-2 for i, a in enumerate(first) for b in first[:i])  # else any would do
        assert len({engine.model.content_hash for engine, _ in adapter_engines}) == len(adapter_engines)

    @pytest.mark.parametrize("call", CALLS)
    def test_totals_add_up(self, engine: Engine, call: str) -> None:
        need(engine, call)
        prompts = [ask(engine, f"totals of {call}: {number}") for number in range(3)]  # asked nowhere else
        before = dataclasses.replace(engine.totals)
        answers = self.answer(engine, call, [*prompts, EMPTY])
        assert engine.totals.requests - before.requests == 4
        assert engine.totals.tokens_in - before.tokens_in > 3
        drawn = sum(one.tokens for one in answers if isinstance(one, Completion))
        assert engine.totals.tokens_out - before.tokens_out == drawn

    def test_it_answers_again_after_close(self, engine: Engine, tolerance: float) -> None:
        prompts = ask_all(engine)
        before = {call: self.answer(engine, call, prompts) for call in claimed(engine)}
        engine.close()
        engine.close()
        for call, answers in before.items():
            for one, again in zip(answers, self.answer(engine, call, prompts), strict=True):
                assert_same(one, again, tolerance)

    # -- inner -----------------------------------------------------------------------------------------------------

    def answer(self, engine: Engine, call: str, prompts: Sequence[Prompt]) -> Sequence[Answer]:
        return answer(engine, call, prompts, self.greedy)

    def drawn(self, engine: Engine) -> tuple[list[Prompt], Sampling]:
        """Return prompts and a sampling whose texts vary and come again."""
        return [ask(engine, f"{TEXTS[i % 5]} {i}", i) for i in range(10)], self.creative if self.seeded else self.greedy

    def bad_prompt(self, engine: Engine, kind: str, context: int | None, vocabulary: int | None) -> Prompt:
        if kind == "empty":
            return EMPTY
        if kind == "over-long":
            if context is None:
                pytest.skip("this engine takes prompts of any length")
            return ask(engine, "word " * context)
        if vocabulary is None or not self.takes_tokens:
            pytest.skip("this engine is sent no token ids")
        hello = ask(engine, "hello")
        return dataclasses.replace(hello, token_ids=(*hello.token_ids, vocabulary))
