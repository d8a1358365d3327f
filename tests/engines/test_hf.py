from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import AdapterFolders, MakeByteModel
from contract import AdapterCase, EngineContract, PlainModel, assert_engines_agree
from contract_tools import assert_same

from humpback.engines import hf_base
from humpback.engines.answers import AnswerCache
from humpback.engines.base import (
    ChoiceLogprobs,
    ChoiceQuestion,
    Completion,
    Loglikelihood,
    LoglikelihoodQuestion,
    ModelRef,
    Question,
    Sampling,
)
from humpback.engines.cache import CachedEngine
from humpback.engines.drawing import _draw_tokens
from humpback.engines.hf import HFEngine
from humpback.engines.hf_limits import LIMITS
from humpback.engines.hf_model import Reading
from humpback.engines.hf_reading import read_answers
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.engines.models import hash_model, resolve_adapter
from humpback.engines.packs import Pack
from humpback.engines.together import ask_apart
from humpback.errors import InputError, StageError
from humpback.prompts import Choice, Continuation, Prompt, Prompts

TEXTS = [
    "Why is the sky blue?",
    "Écris un poème 🐋 sur la baleine à bosse, s'il te plaît.",
    "x",
    "Name three rivers. " * 9,
]
CREATIVE = Sampling(temperature=1.0, top_p=0.95, max_tokens=24)
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=12)


@pytest.fixture(scope="module")
def engine(tiny_model: ModelRef) -> HFEngine:
    return HFEngine(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def prompts(engine: HFEngine) -> Prompts:
    return Prompts(engine.tokenizer, max_tokens=512, instruction_tokens=32)


@pytest.fixture(scope="module")
def plain(tiny_model: ModelRef) -> Any:
    """The same model without anything of ours around it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model.path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def padding(tiny_model: ModelRef) -> HFEngine:
    """An engine that takes the model for one that cannot be run on packs."""
    engine = HFEngine(ModelRef(path=tiny_model.path, content_hash="not shared with others"), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_base, "_can_pack", lambda net, kernel: False)
        assert not engine._network.packs
    return engine


@pytest.fixture
def bytes_engine(byte_model: ModelRef) -> HFEngine:
    return HFEngine(byte_model, device="cpu")


def ask(engine: HFEngine, text: str, seed: int = 0) -> Prompt:
    chat = engine.tokenizer.chat(text)
    return Prompt(user=text, prefill="", text=chat, token_ids=tuple(engine.tokenizer.encode(chat)), seed=seed)


def ask_all(engine: HFEngine, texts: Sequence[str] = TEXTS) -> list[Prompt]:
    return [ask(engine, text, seed) for seed, text in enumerate(texts)]


def continue_with(engine: HFEngine, texts: Sequence[str]) -> list[Continuation]:
    return [Continuation(text=text, token_ids=tuple(engine.tokenizer.encode(text))) for text in texts]


EMPTY = Prompt(user="", prefill="", text="", token_ids=())


def plain_logprobs(plain: Any, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        logprobs: torch.Tensor = plain(torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)
    return logprobs


# -- the contract of every engine --------------------------------------------------------------------------------------


class TestContract(EngineContract):
    """On bytes: every character of another script is several tokens, and turns end."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, contract_model: ModelRef) -> HFEngine:
        return HFEngine(contract_model, device="cpu")

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, contract_model: ModelRef) -> PlainModel:
        return PlainModel(contract_model.path)

    @pytest.fixture(scope="class")
    @classmethod
    def adapter_engines(
        cls, contract_model: ModelRef, contract_adapters: Sequence[AdapterFolders]
    ) -> Sequence[AdapterCase]:
        adapted = [
            AdapterCase(HFEngine(resolve_adapter(contract_model, one.adapter), device="cpu"), PlainModel(one.merged))
            for one in contract_adapters
        ]
        return [AdapterCase(HFEngine(contract_model, device="cpu"), PlainModel(contract_model.path)), *adapted]


@pytest.mark.slow
class TestContractOnALargeVocabulary(EngineContract):
    """SmolLM2's tokenizer; with 49,152 tokens a random model does not end its turn."""

    ends_turns = False
    creative = Sampling(temperature=0.3, top_p=0.95, max_tokens=16)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tiny_model: ModelRef) -> HFEngine:
        return HFEngine(tiny_model, device="cpu")

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, tiny_model: ModelRef) -> PlainModel:
        return PlainModel(tiny_model.path)


def test_the_token_budget_changes_no_answer(contract_model: ModelRef) -> None:
    one_by_one, together = (HFEngine(contract_model, device="cpu", batch_tokens=n) for n in (1, 4096))
    assert_engines_agree(one_by_one, together, tolerance=1e-4)


# -- choices -----------------------------------------------------------------------------------------------------------


def test_a_shared_prefix_does_not_change_choices(engine: HFEngine, prompts: Prompts, padding: HFEngine) -> None:
    asked = [prompts.rate(text, "short" if i % 2 else "a longer text " * 20) for i, text in enumerate(TEXTS)]
    unshared = padding
    engine._prefixes.clear()
    unshared.totals.tokens_in = 0
    before = engine.totals.tokens_in
    with_prefix = engine.choice_logprobs(asked, prompts.rating_choices)
    computed = engine.totals.tokens_in - before
    without = unshared.choice_logprobs(asked, prompts.rating_choices)
    for one, other in zip(with_prefix, without, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    (prefix,) = engine._prefixes
    assert len(prefix) > 100
    assert unshared.totals.tokens_in - computed == len(prefix) * (len(asked) - 1)


def test_a_prefix_is_kept_across_calls_even_of_single_rows(tiny_model: ModelRef) -> None:
    engine = HFEngine(tiny_model, device="cpu")
    prompts = Prompts(engine.tokenizer, max_tokens=512, instruction_tokens=32)
    for i in range(5):
        engine.choice_logprobs([prompts.rate(f"{i} is what?", f"{i} is a number.")], prompts.rating_choices)
    (prefix,) = engine._prefixes
    shell = prompts.rate("x", "x").token_ids
    assert len(prefix) > 0.5 * len(shell)
    assert engine.totals.tokens_in < 3.5 * len(shell)


def test_few_prefixes_are_kept(engine: HFEngine, prompts: Prompts) -> None:
    for i in range(7):
        shell = f"{i} " * 40
        engine.choice_logprobs([ask(engine, shell + end) for end in ("a", "b")], prompts.rating_choices)
    assert len(engine._prefixes) == 4


def test_equal_prompts_and_a_prompt_that_begins_another_keep_their_last_token(
    engine: HFEngine, prompts: Prompts, plain: Any
) -> None:
    long = ask(engine, "the very same words of a prompt that is long enough to be shared by all of them")
    short = Prompt(user="", prefill="", text="", token_ids=long.token_ids[:-4])
    answers = engine.choice_logprobs([long, short, long], prompts.rating_choices)
    for prompt, answer in zip((long, short, long), answers, strict=True):
        expected = plain_logprobs(plain, prompt.token_ids)[-1, [c.token_id for c in prompts.rating_choices]]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


CAPPED = {"head_dim": 16, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 5.0}
"""Of a Gemma-2, whose attention torch has no kernel for."""


@pytest.mark.parametrize("more", [{}, CAPPED], ids=["windows", "windows and caps"])
def test_a_model_that_forgets_its_prefix_does_not_share_it(
    make_byte_model: Callable[..., ModelRef], more: dict[str, Any]
) -> None:
    engine = HFEngine(make_byte_model(layers=2, sliding_window=8, **more), device="cpu")
    asked, choices = ask_all(engine), [Choice(text=t, token_id=engine.tokenizer.encode(t)[0]) for t in "12345"]
    together = engine.choice_logprobs(asked, choices)
    assert len(engine._prefixes) == 0
    for prompt, answer in zip(asked, together, strict=True):
        expected = plain_logprobs(engine._network.net, prompt.token_ids)[-1, [c.token_id for c in choices]]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


# -- both kinds of question --------------------------------------------------------------------------------------------


def begin_alike(engine: HFEngine, prompts: Prompts) -> list[list[Question]]:
    """Return for each text what scoring asks of a pair: how likely it is as an answer, and its states at two places."""
    groups: list[list[Question]] = []
    for text in TEXTS:
        both = prompts.probe("Say something.", text)
        assert both is not None
        likely = LoglikelihoodQuestion(
            prompt=prompts.answer("Say something.", prompts.both_tags), continuation=prompts.target(text)
        )
        end = (prompts.end_of_turn,)
        groups.append([likely, *(ChoiceQuestion(prompt=prompt, choices=end, layers=(1, 2)) for prompt in both)])
    return groups


def test_what_questions_of_both_kinds_share_is_computed_once(engine: HFEngine, prompts: Prompts) -> None:
    groups = begin_alike(engine, prompts)
    longest = [max(question.prompt.token_ids for question in group) for group in groups]
    engine.choice_logprobs([group[0].prompt for group in groups], ())  # what all share is kept from here on
    before = engine.totals.tokens_in
    engine.ask(groups)
    computed = engine.totals.tokens_in - before
    assert computed <= sum(map(len, longest))
    engine.choice_logprobs([question.prompt for group in groups for question in group[1:]], ())
    assert engine.totals.tokens_in - before - computed >= computed * 0.9  # the probe alone costs as much


@pytest.mark.parametrize("how", ["packed", "padded"])
def test_questions_of_both_kinds_have_their_own_answers(
    how: str, engine: HFEngine, padding: HFEngine, prompts: Prompts
) -> None:
    groups = begin_alike(engine, prompts)
    for told, apart in zip(
        (engine if how == "packed" else padding).ask(groups), ask_apart(engine, groups), strict=True
    ):
        for one, other in zip(told, apart, strict=True):
            assert_same(one, other, 1e-4)


def test_a_question_that_cannot_be_answered_harms_no_other_kind(engine: HFEngine, prompts: Prompts) -> None:
    (good, *_), empty = begin_alike(engine, prompts), Prompt(user="", prefill="", text="", token_ids=())
    bad: list[Question] = [
        ChoiceQuestion(prompt=empty, choices=(prompts.end_of_turn,), layers=(1,)),
        LoglikelihoodQuestion(prompt=empty, continuation=prompts.target("x")),
    ]
    answers, refused = engine.ask([good, bad])
    assert [answer.error for answer in answers] == [None] * 3
    assert [answer.error for answer in refused] == ["the prompt is empty"] * 2
    assert [type(answer) for answer in refused] == [ChoiceLogprobs, Loglikelihood]


def test_answers_asked_together_are_kept_under_the_keys_of_their_own_calls(
    engine: HFEngine, prompts: Prompts, tmp_path: Path
) -> None:
    groups = begin_alike(engine, prompts)
    cached = CachedEngine(engine, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=100, batch_rows=3)
    together = cached.ask(groups)
    assert cached.totals.cache_hits == 0
    assert [group.source.call for group in cached.cache.groups()] == ["choice_logprobs", "loglikelihood"]
    apart = ask_apart(CachedEngine(engine, cached.cache, batch_tokens=100), groups)
    for told, known in zip(together, apart, strict=True):
        for one, other in zip(told, known, strict=True):
            assert one == other
            if isinstance(one, ChoiceLogprobs) and isinstance(other, ChoiceLogprobs):
                assert (one.hidden == other.hidden).all()  # type: ignore[union-attr]
    again = CachedEngine(engine, cached.cache, batch_tokens=100)
    again.ask(groups)
    assert again.totals.cache_hits == again.totals.requests == 3 * len(TEXTS)
    cached.cache.close()


def test_groups_without_questions_and_groups_beyond_the_limit_are_answered(
    engine: HFEngine, prompts: Prompts, tmp_path: Path
) -> None:
    groups = begin_alike(engine, prompts)
    cached = CachedEngine(engine, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=10_000, batch_rows=2)
    heard: list[int] = []
    cached.on_answers = lambda batch: heard.append(batch.totals.requests)
    assert cached.ask([[], []]) == [[], []]
    assert [len(answers) for answers in cached.ask([[], *groups])] == [0] + [3] * len(groups)
    assert max(heard) == 2
    assert sum(heard) == 3 * len(groups)
    cached.cache.close()


def test_choices_are_read_where_they_are_whatever_likelihoods_come_before() -> None:
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    prompt = Prompt(user="", prefill="", text="", token_ids=(1,))
    likely = LoglikelihoodQuestion(prompt=prompt, continuation=Continuation(text="", token_ids=(3, 4)))
    choice = ChoiceQuestion(prompt=prompt, choices=(Choice(text="", token_id=2),))
    reading = Reading(logits_N_V=logits.clone(), states_B_L_W=torch.zeros(3, 0, 0), kept=[])
    _, *told = read_answers([likely, choice, choice], reading, [[0, 1], [1], [0]], [], at_once=8)
    exact = logits.log_softmax(-1)[:, 2].tolist()
    assert [answer.logprobs for answer in told] == [pytest.approx((exact[1],)), pytest.approx((exact[0],))]  # type: ignore[union-attr]


def test_a_kill_in_a_call_of_both_kinds_loses_what_is_in_flight_and_no_more(
    engine: HFEngine, prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = begin_alike(engine, prompts)
    cached = CachedEngine(engine, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=100, batch_rows=3)
    real, calls = engine._read, 0

    def read(*asked: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*asked)

    monkeypatch.setattr(engine, "_read", read)
    with pytest.raises(KeyboardInterrupt):
        cached.ask(groups)
    monkeypatch.undo()
    assert len(cached.cache.keys()) == 6  # two groups of three
    cached.ask(groups)
    assert cached.totals.cache_hits == 6
    cached.cache.close()


# -- likelihood --------------------------------------------------------------------------------------------------------


def test_an_empty_continuation_is_certain_and_costs_nothing(engine: HFEngine) -> None:
    before = engine.totals.tokens_in
    empty = Continuation(text="", token_ids=())
    assert engine.loglikelihood([ask(engine, "hello")], [empty]) == [Loglikelihood(logprob=0.0, tokens=0)]
    assert engine.totals.tokens_in == before


@pytest.mark.parametrize("how", ["packed", "padded"])
def test_the_logits_of_a_batch_are_bounded(
    how: str, engine: HFEngine, padding: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = engine if how == "packed" else padding
    monkeypatch.setattr(asked._allowed, "limits", replace(LIMITS["cpu"], logits_bytes=30e6))
    monkeypatch.setattr(asked._allowed, "batch_tokens", 100_000)
    largest = 0
    read_pack, read_padded = asked._network.read_pack, asked._network.read_padded

    def watch(reading: Reading) -> Reading:
        nonlocal largest
        largest = max(largest, len(reading.logits_N_V))
        return reading

    monkeypatch.setattr(asked._network, "read_pack", lambda *given, **more: watch(read_pack(*given, **more)))
    monkeypatch.setattr(asked._network, "read_padded", lambda *given, **more: watch(read_padded(*given, **more)))
    targets = continue_with(engine, [f"{i} " + "word " * 30 for i in range(12)])
    asked.loglikelihood([ask(engine, "x")] * 12, targets)
    assert 90 <= largest <= 30e6 / 49152 / 4


# -- generation --------------------------------------------------------------------------------------------------------


def test_a_longer_limit_only_continues_the_draw(engine: HFEngine) -> None:
    short, long = (engine.generate(ask_all(engine), Sampling(temperature=1, top_p=1, max_tokens=n)) for n in (5, 15))
    for one, other in zip(short, long, strict=True):
        assert other.text.startswith(one.text.rstrip("\ufffd"))


def test_temperature_zero_is_the_most_probable_token(engine: HFEngine, plain: Any) -> None:
    prompt = ask(engine, TEXTS[0], seed=1)
    ids = list(prompt.token_ids)
    for _ in range(GREEDY.max_tokens):
        ids.append(int(plain_logprobs(plain, ids)[-1].argmax()))
    assert engine.generate([prompt], GREEDY)[0].text == engine.tokenizer.decode_plain(ids[len(prompt.token_ids) :])


def test_a_published_sampling_setting_does_not_leak_in(tiny_model: ModelRef, tmp_path: Path, engine: HFEngine) -> None:
    folder = Path(shutil.copytree(tiny_model.path, tmp_path / "model"))
    published = {"do_sample": True, "repetition_penalty": 5.0, "top_k": 1, "max_length": 3, "eos_token_id": [0, 2]}
    (folder / "generation_config.json").write_text(json.dumps(published))
    asked = ask_all(engine)
    assert HFEngine(ModelRef(path=str(folder), content_hash=hash_model(folder)), device="cpu").generate(
        asked, CREATIVE
    ) == engine.generate(asked, CREATIVE)


def test_the_end_of_turn_ends_a_completion_and_is_not_in_its_text(bytes_engine: HFEngine) -> None:
    (end,) = bytes_engine.tokenizer.end_of_turn
    with torch.no_grad():
        bytes_engine._network.net.get_output_embeddings().weight[:] = (
            0.0  # every token is as likely: about 1 in 260 ends
        )
    asked = [ask(bytes_engine, "go", seed) for seed in range(60)]
    answers = bytes_engine.generate(asked, Sampling(temperature=1, top_p=1, max_tokens=60))
    stopped = [answer for answer in answers if answer.finish == "stop"]
    assert 3 < len(stopped) < 60
    assert all(answer.tokens == 60 for answer in answers if answer.finish == "length")
    assert not any("<|im_end|>" in answer.text for answer in answers)
    assert bytes_engine.totals.tokens_out == sum(answer.tokens for answer in answers)
    assert bytes_engine.tokenizer.eos_token_id == end


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 6.0])
def test_a_draw_is_the_inverse_cdf_of_the_nucleus(top_p: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 5000, generator=generator) * scale
    uniforms = torch.rand(40, generator=generator, dtype=torch.float64)
    drawn = _draw_tokens(logits.softmax(-1), top_p, uniforms)
    probs = logits.double().softmax(-1)
    for row in range(40):
        ordered, ids = probs[row].sort(descending=True, stable=True)
        kept = int((ordered.cumsum(0) < top_p - 1e-7).sum()) + 1
        cdf = ordered[:kept].cumsum(0) / (ordered[:kept].sum() if top_p < 1 else 1)
        place = int((ids == drawn[row]).nonzero())
        below = float(cdf[place - 1]) if place else 0.0
        assert place < kept
        assert below - 1e-4 <= float(uniforms[row]) <= float(cdf[place]) + 1e-4


def test_draws_follow_the_models_distribution() -> None:
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(20_000, 4)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = _draw_tokens(probs, 1.0, uniforms).bincount(minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.01)
    nucleus = _draw_tokens(probs, 0.7, uniforms).bincount(minlength=4) / 20_000
    assert nucleus.tolist() == pytest.approx([0, 0, 3 / 7, 4 / 7], abs=0.01)


# -- adapters ------------------------------------------------------------------------------------------------------------


def test_an_adapter_that_took_the_folder_of_another_is_loaded_anew(
    contract_model: ModelRef, contract_adapters: tuple[AdapterFolders, AdapterFolders], tmp_path: Path
) -> None:
    folder, engines, values = tmp_path / "adapter", [], []
    for one in contract_adapters:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(one.adapter, folder)
        engines.append(HFEngine(resolve_adapter(contract_model, folder), device="cpu"))
        merged = HFEngine(ModelRef(path=str(one.merged), content_hash=hash_model(one.merged)), device="cpu")
        asked = [ask(engines[-1], "A question")], continue_with(engines[-1], ["An answer"])
        values.append(engines[-1].loglikelihood(*asked)[0].logprob)
        assert values[-1] == pytest.approx(merged.loglikelihood(*asked)[0].logprob, abs=1e-3)
    assert abs(values[0] - values[1]) > 0.01
    assert engines[0].loglikelihood(*asked)[0].logprob == pytest.approx(values[0], abs=1e-4)  # still held
    for engine in engines:
        engine.close()


# -- rows that cannot be answered --------------------------------------------------------------------------------------


def test_a_prompt_that_leaves_no_room_for_its_answer_is_an_error(engine: HFEngine) -> None:
    prompt = ask(engine, "word " * 420)
    room = 512 - len(prompt.token_ids)
    fits, exceeds = (
        engine.generate([prompt], Sampling(temperature=0, top_p=1, max_tokens=n))[0] for n in (room, room + 1)
    )
    assert fits.error is None
    assert exceeds.finish == "error"


def test_logits_that_are_not_finite_are_an_error_of_their_row(bytes_engine: HFEngine) -> None:
    (bad_id,) = bytes_engine.tokenizer.encode("Z")
    with torch.no_grad():
        bytes_engine._network.net.get_input_embeddings().weight[bad_id] = math.nan
    asked = [ask(bytes_engine, "fine"), ask(bytes_engine, "not fine: Z"), ask(bytes_engine, "good")]
    choices = [Choice(text=t, token_id=bytes_engine.tokenizer.encode(t)[0]) for t in "12"]
    targets = continue_with(bytes_engine, ["abc"] * 3)
    forbids = Sampling(temperature=1, top_p=0.5, max_tokens=4)
    for answers in (
        bytes_engine.choice_logprobs(asked, choices),
        bytes_engine.loglikelihood(asked, targets),
        bytes_engine.generate(asked, forbids),
    ):
        assert [answer.error for answer in answers] == [None, "the model's logits are not finite", None]


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu", "python", "driver", "cublas"])
def test_a_batch_too_large_for_memory_is_halved(
    engine: HFEngine, prompts: Prompts, tiny_model: ModelRef, error: Exception
) -> None:
    asked = [ask(engine, f"{text} {i}") for i, text in enumerate(TEXTS * 3)]
    small = HFEngine(tiny_model, device="cpu")
    read = small._network.read_pack
    tried = []

    def cramped(pack: Pack, *given: Any, **more: Any) -> Reading:
        tried.append(len(pack.ways))
        if len(pack.ways) > 2:
            raise error
        return read(pack, *given, **more)

    small._network.read_pack = cramped  # type: ignore[method-assign]
    answers = small.choice_logprobs(asked, prompts.rating_choices)
    assert max(tried) > 2
    for one, other in zip(answers, engine.choice_logprobs(asked, prompts.rating_choices), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_row_that_does_not_fit_in_memory_alone_is_an_error(
    tiny_model: ModelRef, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(tiny_model, device="cpu")

    def cramped(*given: Any, **more: Any) -> Reading:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine._network, "read_pack", cramped)
    answers = engine.choice_logprobs(ask_all(engine), prompts.rating_choices)
    assert [answer.error for answer in answers] == ["the row does not fit in the device's memory"] * 4


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu", "python", "driver", "cublas"])
@pytest.mark.parametrize("while_reading", [True, False], ids=["reading", "moving"])
def test_weights_too_large_for_memory_are_told_with_folder_device_and_fix(
    make_byte_model: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, while_reading: bool
) -> None:
    model = make_byte_model()
    engine = HFEngine(ModelRef(path=model.path, content_hash="loaded by none"), device="cpu", dtype="float32")

    def fail(*given: Any, **more: Any) -> Any:
        raise error

    if while_reading:
        monkeypatch.setattr(hf_base.AutoModelForCausalLM, "from_pretrained", fail)
    else:
        monkeypatch.setattr(hf_base, "_widen_head", fail)
    with pytest.raises(
        StageError, match=r"does not fit in the memory of cpu in float32 .*runtime.dtype=bfloat16"
    ) as told:
        engine.generate([ask(engine, "hello")], GREEDY)
    assert model.path in str(told.value)


# -- the engine --------------------------------------------------------------------------------------------------------


def test_the_engine_opens_again_after_close(bytes_engine: HFEngine) -> None:
    before = bytes_engine.generate([ask(bytes_engine, "go", 4)], CREATIVE)
    bytes_engine.close()
    assert bytes_engine._loaded is None
    assert bytes_engine.generate([ask(bytes_engine, "go", 4)], CREATIVE) == before


def test_the_engine_tells_how_it_attends_once_its_model_is_loaded(bytes_engine: HFEngine, padding: HFEngine) -> None:
    fresh = HFEngine(bytes_engine.model, device="cpu")
    assert fresh.attention == ""
    fresh.generate([ask(fresh, "go", 4)], GREEDY)
    assert fresh.attention == "packs, block by block"
    fresh.close()
    assert fresh.attention == "packs, block by block"
    assert padding.attention == "padded rows"


def test_totals_count_what_was_computed(bytes_engine: HFEngine) -> None:
    prompt = ask(bytes_engine, "go")
    (target,) = continue_with(bytes_engine, ["abcd"])
    bytes_engine.loglikelihood([prompt, EMPTY], [target, target])
    assert bytes_engine.totals.requests == 2
    assert bytes_engine.totals.tokens_in == len(prompt.token_ids) + 3  # the last token predicts nothing asked
    assert bytes_engine.totals.seconds > 0


def test_weights_that_do_not_belong_to_the_config_are_refused(byte_model: ModelRef, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(byte_model.path, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    engine = HFEngine(ModelRef(path=str(folder), content_hash=hash_model(folder)), device="cpu")
    with pytest.raises(InputError, match=r"lack model\.layers\.0\.self_attn\.q_proj\.weight"):
        engine.generate([ask(engine, "go")], GREEDY)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(byte_model: ModelRef) -> None:
    with pytest.raises(InputError, match="use runtime"):
        HFEngine(byte_model, device="cuda")


# -- the template contract ---------------------------------------------------------------------------------------------


def test_a_training_row_begins_with_the_prompts_tokens_and_ends_the_turn_once(prompts: Prompts) -> None:
    tokenizer = prompts.tokenizer
    (end,) = tokenizer.end_of_turn
    for text in TEXTS:
        prompt = prompts.answer(text, prompts.both_tags)
        row = prompts.render(prompt, prompts.target("The answer <|im_end|> to it."))
        assert not isinstance(row, str)
        asked = tokenizer.encode(tokenizer.chat(prompt.user))
        assert list(row.input_ids[: len(asked)]) == asked
        assert [token for token in row.labels if token == end] == [end]
        assert row.input_ids[-1] == end


def test_special_tokens_in_content_do_not_become_special(prompts: Prompts) -> None:
    tokenizer = prompts.tokenizer
    special = {tokenizer.encode(token)[0]: token for token in tokenizer.special_tokens}
    assert all(len(tokenizer.encode(token)) == 1 for token in tokenizer.special_tokens)

    def count(text: str) -> int:
        return sum(token in special for token in prompts.answer(text, "").token_ids)

    assert count(" ".join(tokenizer.special_tokens)) == count("hello")


def test_decoding_gives_the_text_back(prompts: Prompts) -> None:
    for text in [*TEXTS, "  spaces , and 'quotes' .", "<|im_start|>", "日本語のテキスト", "a\n\n\tb"]:
        assert prompts.tokenizer.decode(prompts.tokenizer.encode(text)) == text


def test_text_that_is_not_valid_unicode_is_encoded(prompts: Prompts) -> None:
    assert prompts.tokenizer.decode(prompts.tokenizer.encode("a\ud800b")) == "a?b"


BARE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize("template", [None, BARE, "<s>" + BARE])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_first_token_is_given_once_whoever_gives_it(
    make_byte_model: Callable[..., ModelRef], template: str | None, adds_bos: bool
) -> None:
    tokenizer = HFTokenizer(Path(make_byte_model(chat_template=template, adds_bos=adds_bos).path))
    expects_bos = adds_bos or template != BARE
    ids = tokenizer.encode(tokenizer.chat("hello"))
    assert [i for i, token in enumerate(ids) if token == 0] == ([0] if expects_bos else [])
    # a template that writes no end of turn gets the tokenizer's end
    assert tokenizer.decode(tokenizer.end_of_turn) == "</s>"


def test_a_base_model_without_template_gets_a_plain_one(make_byte_model: Callable[..., ModelRef]) -> None:
    tokenizer = HFTokenizer(Path(make_byte_model(chat_template=None).path))
    assert tokenizer.chat("{hi}") == "<s>### Instruction:\n{hi}\n\n### Response:\n"


def test_a_template_that_writes_the_date_is_the_same_every_day(make_byte_model: Callable[..., ModelRef]) -> None:
    tokenizer = HFTokenizer(
        Path(make_byte_model(chat_template="\n{% set now = strftime_now('%d %b %Y') %}{{ now }} " + BARE).path)
    )
    assert tokenizer.chat("hi").startswith("\n01 Jan 2024 ")


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("no json")
    with pytest.raises(InputError, match="cannot be read"):
        HFTokenizer(tmp_path)


# -- the real model ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_model_answers_and_stops(smollm: ModelRef) -> None:
    engine = HFEngine(smollm, device="cpu")
    asked = [ask(engine, "What is the capital of France? Answer in one sentence."), ask(engine, "Say hello.")]
    answers: list[Completion] = engine.generate(asked, Sampling(temperature=0, top_p=1, max_tokens=40))
    assert "Paris" in answers[0].text
    assert answers[0].finish == "stop"
    sense, nonsense = engine.loglikelihood([asked[0]] * 2, continue_with(engine, ["Paris.", "Giraffe."]))
    assert sense.logprob > nonsense.logprob


@pytest.mark.slow
def test_a_real_model_rates_on_the_menu(smollm: ModelRef) -> None:
    engine = HFEngine(smollm, device="cpu")
    prompts = Prompts(engine.tokenizer, max_tokens=512, instruction_tokens=32)
    (answer,) = engine.choice_logprobs([prompts.rate("Name a river.", "The Nile.")], prompts.rating_choices)
    assert answer.mass > 0.5


def test_damaged_weights_are_refused_with_folder_and_fix(make_byte_model: Any) -> None:
    folder = Path(make_byte_model().path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    engine = HFEngine(ModelRef(path=str(folder), content_hash="x"), device="cpu")
    with pytest.raises(InputError, match=r"cannot be loaded \(SafetensorError.*; copy or fetch") as caught:
        engine.generate([ask(engine, "hello")], GREEDY)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", ["{{ raise_exception('no such role') }}", "{% for %}", "{{ 1 // 0 }}"])
def test_a_chat_template_that_fails_is_refused_with_folder_and_fix(make_byte_model: Any, template: str) -> None:
    folder = Path(make_byte_model(chat_template=template).path)
    with pytest.raises(InputError, match=r"chat template in .* fails on a plain turn .*; correct it") as caught:
        HFTokenizer(folder)
    assert str(folder) in str(caught.value)


def test_a_damaged_tokenizer_is_refused_with_folder_and_fix(make_byte_model: Any) -> None:
    folder = Path(make_byte_model().path)
    (folder / "tokenizer.json").write_text('{"model":')
    with pytest.raises(InputError, match=r"tokenizer in .* cannot be read .*; copy or fetch"):
        HFTokenizer(folder)


# -- hidden states -----------------------------------------------------------------------------------------------------


def test_hidden_states_are_those_of_a_plain_forward_and_share_the_pass(
    engine: HFEngine, prompts: Prompts, plain: Any
) -> None:
    asked = [prompts.rate(text, f"An answer, number {i}. " * (i + 1)) for i, text in enumerate(TEXTS)]
    before = engine.totals.tokens_in
    answers = engine.choice_logprobs(asked, prompts.rating_choices, layers=(0, 1, 2))
    both = engine.totals.tokens_in - before
    for prompt, answer in zip(asked, answers, strict=True):
        with torch.inference_mode():
            states = plain(torch.tensor([prompt.token_ids]), output_hidden_states=True).hidden_states
        expected = torch.stack([states[layer][0, -1] for layer in (0, 1, 2)])
        assert answer.hidden is not None
        assert torch.from_numpy(answer.hidden) == pytest.approx(expected, abs=1e-4)
        assert len(answer.logprobs) == 5
    assert both <= sum(len(p.token_ids) for p in asked)
    states_only = engine.choice_logprobs(asked, (), layers=(1,))
    assert [a.logprobs for a in states_only] == [()] * len(asked)


# -- what is shared ----------------------------------------------------------------------------------------------------


def expect_likelihoods(engine: HFEngine, plain: Any, asked: Sequence[Prompt], targets: Sequence[Continuation]) -> int:
    """Check likelihoods against plain forward passes and return the tokens they took."""
    before = engine.totals.tokens_in
    for prompt, target, answer in zip(asked, targets, engine.loglikelihood(asked, targets), strict=True):
        logprobs = plain_logprobs(plain, (*prompt.token_ids, *target.token_ids))[len(prompt.token_ids) - 1 : -1]
        expected = logprobs.gather(-1, torch.tensor(target.token_ids)[:, None]).sum()
        assert answer.logprob == pytest.approx(float(expected), rel=1e-5, abs=1e-4)
    return engine.totals.tokens_in - before


@pytest.fixture
def fresh(tiny_model: ModelRef) -> HFEngine:
    """An engine that knows no prefix yet, on the weights of the others."""
    return HFEngine(tiny_model, device="cpu", batch_tokens=256)


def test_instructions_of_one_document_compute_it_once(fresh: HFEngine, prompts: Prompts, plain: Any) -> None:
    documents = [f"Document {n}: " + f"all about {n}, " * 20 for n in range(3)]
    asked = [prompts.backward(document) for document in documents for _ in range(4)]
    targets = [prompts.target(f"What of {n}?") for n in range(12)]
    computed = expect_likelihoods(fresh, plain, asked, targets)
    once = sum(len(prompt.token_ids) for prompt in asked[::4]) + sum(len(t.token_ids) for t in targets)
    assert computed <= once


def test_many_continuations_of_one_prompt_compute_it_once(fresh: HFEngine, prompts: Prompts, plain: Any) -> None:
    alone = prompts.backward("")
    targets = [prompts.target(f"Instruction number {n} " + "of several " * (n % 5)) for n in range(80)]
    computed = expect_likelihoods(fresh, plain, [alone] * len(targets), targets)
    packs = math.ceil(sum(len(t.token_ids) for t in targets) / 200)
    assert computed <= len(alone.token_ids) + sum(len(t.token_ids) for t in targets) + packs


def test_a_response_and_its_beginning_share_tokens_in_likelihood_and_rating(
    fresh: HFEngine, prompts: Prompts, plain: Any
) -> None:
    whole = "The whale sings for hours and hours in the deep sea. " * 6
    responses = [whole, whole[:200], whole]
    asked = [prompts.answer("Tell me of whales.", "")] * 3
    computed = expect_likelihoods(fresh, plain, asked, [prompts.target(text) for text in responses])
    assert computed < len(asked[0].token_ids) + len(prompts.target(whole).token_ids) + 16
    rated = [prompts.rate("Tell me of whales.", text) for text in responses]
    for prompt, answer in zip(rated, fresh.choice_logprobs(rated, prompts.rating_choices), strict=True):
        expected = plain_logprobs(plain, prompt.token_ids)[-1, [c.token_id for c in prompts.rating_choices]]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_equal_rows_are_computed_once(fresh: HFEngine, prompts: Prompts, plain: Any) -> None:
    prompt, target = prompts.answer("Say it.", ""), prompts.target("It is said.")
    computed = expect_likelihoods(fresh, plain, [prompt] * 5, [target] * 5)
    assert computed == len(prompt.token_ids) + len(target.token_ids) - 1


def test_a_likelihood_after_a_kept_prefix_is_that_of_a_plain_forward(
    fresh: HFEngine, prompts: Prompts, plain: Any
) -> None:
    for part in range(3):
        documents = [f"Number {n}. " + "Some words. " * (n + part) for n in range(6)]
        asked = [prompts.backward(document) for document in documents]
        expect_likelihoods(fresh, plain, asked, [prompts.target(f"Tell of {n}.") for n in range(6)])
    assert len(fresh._prefixes) > 0


def test_a_model_that_cannot_be_packed_gives_the_same_answers(
    engine: HFEngine, padding: HFEngine, prompts: Prompts, plain: Any
) -> None:
    asked, targets = ask_all(engine), continue_with(engine, ["Yes.", "A poem. " * 9, "no", "The Nile."])
    expect_likelihoods(padding, plain, asked, targets)
    assert padding.generate(asked, CREATIVE) == engine.generate(asked, CREATIVE)
    with_states = padding.choice_logprobs(asked, prompts.rating_choices, layers=(0, 2))
    for one, other in zip(
        with_states, engine.choice_logprobs(asked, prompts.rating_choices, layers=(0, 2)), strict=True
    ):
        assert one.hidden == pytest.approx(other.hidden, abs=1e-4)
    assert [a.logprobs for a in padding.choice_logprobs(asked, (), layers=(1,))] == [()] * len(asked)


# -- completions -------------------------------------------------------------------------------------------------------


def test_rows_take_turns_in_few_slots_and_draw_what_they_draw_alone(
    make_byte_model: MakeByteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "cpu", replace(LIMITS["cpu"], slots=3))
    model = make_byte_model(layers=2)
    few, alone = HFEngine(model, device="cpu", batch_tokens=64), HFEngine(model, device="cpu")
    few._network.net.get_output_embeddings().weight.data *= 0.3  # some rows end soon
    asked = [
        ask(few, text * n, seed) for seed, (text, n) in enumerate((text, n) for n in (1, 2, 3) for text in TEXTS[:3])
    ]
    sampling = Sampling(temperature=1, top_p=0.95, max_tokens=60)
    drawn = few.generate(asked, sampling)
    assert drawn == [alone.generate([prompt], sampling)[0] for prompt in asked]
    assert len({answer.tokens for answer in drawn}) > 2
    assert few.totals.tokens_out == sum(answer.tokens for answer in drawn)  # no row was drawn again
    for prompt, answer in zip(asked, drawn, strict=True):
        target = Continuation(text=answer.text, token_ids=answer.token_ids)
        (expected,) = alone.loglikelihood([prompt], [target])
        assert answer.logprob == pytest.approx(expected.logprob, abs=1e-3)


def test_a_completion_tells_its_tokens_and_their_likelihood(engine: HFEngine, plain: Any) -> None:
    asked = ask_all(engine)
    for sampling in (CREATIVE, GREEDY, Sampling(temperature=0.7, top_p=0.5, max_tokens=9)):
        answers = engine.generate(asked, sampling)
        for prompt, answer in zip(asked, answers, strict=True):
            assert len(answer.token_ids) == answer.tokens
            assert engine.tokenizer.decode_plain(answer.token_ids) == answer.text
            logprobs = plain_logprobs(plain, (*prompt.token_ids, *answer.token_ids))[len(prompt.token_ids) - 1 : -1]
            expected = logprobs.gather(-1, torch.tensor(answer.token_ids)[:, None]).sum()
            assert answer.logprob == pytest.approx(float(expected), abs=1e-3)


def test_what_was_drawn_is_not_computed_again_for_its_likelihood(bytes_engine: HFEngine, tmp_path: Path) -> None:
    with torch.no_grad():
        bytes_engine._network.net.get_output_embeddings().weight[:] *= 0.1  # some rows end by themselves
    engine = CachedEngine(bytes_engine, AnswerCache(tmp_path / "answers.sqlite"), batch_tokens=2048)
    asked = [ask(bytes_engine, "go", seed) for seed in range(40)]
    drawn = engine.generate(asked, Sampling(temperature=1, top_p=1, max_tokens=60))
    ended = [(prompt, answer) for prompt, answer in zip(asked, drawn, strict=True) if answer.finish == "stop"]
    assert ended
    targets = [Continuation(text=answer.text, token_ids=answer.token_ids) for _, answer in ended]
    before = bytes_engine.totals.tokens_in
    known = engine.loglikelihood([prompt for prompt, _ in ended], targets)
    assert bytes_engine.totals.tokens_in == before
    for one, other in zip(known, bytes_engine.loglikelihood([p for p, _ in ended], targets), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert one.tokens == other.tokens
    engine.close()


def test_layers_that_are_not_there_are_refused(engine: HFEngine) -> None:
    with pytest.raises(InputError, match=r"layers=\[3\] are outside 0 to 2"):
        engine.choice_logprobs(ask_all(engine), (), layers=(1, 3))


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_engines_on_one_base_load_it_once_and_leave_it_as_it_was(
    contract_model: ModelRef, contract_adapters: Sequence[AdapterFolders], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = hf_base._load
    monkeypatch.setattr(hf_base, "_load", lambda path, dtype: loaded.append(path) or load(path, dtype))
    base = ModelRef(path=contract_model.path, content_hash=hash_model(Path(contract_model.path)))
    refs = [base, *(resolve_adapter(base, one.adapter) for one in contract_adapters)]
    engines = [HFEngine(ref, device="cpu") for ref in refs]
    asked = ask_all(engines[0])
    targets = continue_with(engines[0], ["yes", "no", "rivers", "five"])
    first = engines[0].loglikelihood(asked, targets)
    answers = [engine.loglikelihood(asked, targets) for engine in engines[1:]]
    assert engines[0].loglikelihood(asked, targets) == first
    assert first != answers[0] != answers[1]
    engines[1].close()
    assert engines[2].loglikelihood(asked, targets) == answers[1]
    assert engines[1].loglikelihood(asked, targets) == answers[0]
    assert len(loaded) <= 1  # none where another test's engine still holds it
    assert len({id(engine._network.base) for engine in engines}) == 1


def test_generation_uses_the_adapter(contract_model: ModelRef, contract_adapters: Sequence[AdapterFolders]) -> None:
    adapted = HFEngine(resolve_adapter(contract_model, contract_adapters[0].adapter), device="cpu")
    merged = HFEngine(ModelRef(path=str(contract_adapters[0].merged), content_hash="merged"), device="cpu")
    asked = ask_all(adapted)
    assert adapted.generate(asked, GREEDY) == merged.generate(asked, GREEDY)


@pytest.mark.parametrize("how", ["packed", "padded"])
def test_each_answer_is_told_once_as_it_comes(
    how: str, tiny_model: ModelRef, padding: HFEngine, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(tiny_model, device="cpu", batch_tokens=64) if how == "packed" else padding
    asked = [ask_all(engine)[0], EMPTY, *ask_all(engine)[1:]]
    for call in (
        lambda: engine.generate(asked, GREEDY),
        lambda: engine.choice_logprobs(asked, prompts.rating_choices),
        lambda: engine.loglikelihood(asked, continue_with(engine, ["yes"] * 5)),
    ):
        heard: list[tuple[int, Any]] = []
        monkeypatch.setattr(engine, "on_answer", lambda place, answer, heard=heard: heard.append((place, answer)))
        answers = call()
        assert sorted(place for place, _ in heard) == [0, 2, 3, 4]
        assert all(answers[place] == answer for place, answer in heard)
