from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import EngineContract, PlainModel, assert_engines_agree

from humpback.engines.base import Completion, Loglikelihood, ModelRef, Sampling
from humpback.engines.drawing import _draw_tokens
from humpback.engines.hf import HFEngine
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.engines.models import hash_model
from humpback.errors import InputError
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


def test_a_shared_prefix_does_not_change_choices(engine: HFEngine, prompts: Prompts, tiny_model: ModelRef) -> None:
    asked = [prompts.rate(text, "short" if i % 2 else "a longer text " * 20) for i, text in enumerate(TEXTS)]
    unshared = HFEngine(tiny_model, device="cpu")
    assert unshared._net is not None
    unshared._can_share = False
    engine._prefixes.clear()
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


def test_a_model_that_forgets_its_prefix_does_not_share_it(make_byte_model: Callable[..., ModelRef]) -> None:
    engine = HFEngine(make_byte_model(layers=2, sliding_window=8), device="cpu")
    asked, choices = ask_all(engine), [Choice(text=t, token_id=engine.tokenizer.encode(t)[0]) for t in "12345"]
    together = engine.choice_logprobs(asked, choices)
    assert engine._prefixes == {}
    for prompt, answer in zip(asked, together, strict=True):
        expected = plain_logprobs(engine._net, prompt.token_ids)[-1, [c.token_id for c in choices]]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


# -- likelihood --------------------------------------------------------------------------------------------------------


def test_an_empty_continuation_is_certain_and_costs_nothing(engine: HFEngine) -> None:
    before = engine.totals.tokens_in
    empty = Continuation(text="", token_ids=())
    assert engine.loglikelihood([ask(engine, "hello")], [empty]) == [Loglikelihood(logprob=0.0, tokens=0)]
    assert engine.totals.tokens_in == before


def test_the_logits_of_a_batch_are_bounded(tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HFEngine(tiny_model, device="cpu", batch_tokens=100_000)
    largest = 0

    def forward(rows: Sequence[Sequence[int]], *, keep: int, **more: Any) -> tuple[torch.Tensor, None]:
        nonlocal largest
        largest = max(largest, len(rows) * keep)
        return torch.zeros(len(rows), keep, 49152), None

    monkeypatch.setattr("humpback.engines.hf.LOGITS_BYTES", {"cpu": 30e6})
    monkeypatch.setattr(engine, "_forward", forward)
    targets = continue_with(engine, ["word " * 30] * 12)
    answers = engine.loglikelihood([ask(engine, "x")] * 12, targets)
    assert 90 <= largest <= 30e6 / 49152 / 4
    assert answers[0].logprob == pytest.approx(-math.log(49152) * answers[0].tokens, rel=1e-5)


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
        bytes_engine._net.get_output_embeddings().weight[:] = 0.0  # every token is as likely: about 1 in 260 ends
    asked = [ask(bytes_engine, "go", seed) for seed in range(60)]
    answers = bytes_engine.generate(asked, Sampling(temperature=1, top_p=1, max_tokens=60))
    stopped = [answer for answer in answers if answer.finish == "stop"]
    assert 3 < len(stopped) < 60
    assert all(answer.tokens == 60 for answer in answers if answer.finish == "length")
    assert not any("<|im_end|>" in answer.text for answer in answers)
    assert bytes_engine.totals.tokens_out == sum(answer.tokens for answer in answers)
    assert end in bytes_engine._ends


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 6.0])
def test_a_draw_is_the_inverse_cdf_of_the_nucleus(top_p: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 5000, generator=generator) * scale
    uniforms = torch.rand(40, generator=generator, dtype=torch.float64)
    drawn = _draw_tokens(logits.clone(), top_p, uniforms)
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
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().expand(20_000, 4)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = _draw_tokens(logits, 1.0, uniforms).bincount(minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.01)
    nucleus = _draw_tokens(logits, 0.7, uniforms).bincount(minlength=4) / 20_000
    assert nucleus.tolist() == pytest.approx([0, 0, 3 / 7, 4 / 7], abs=0.01)


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
        bytes_engine._net.get_input_embeddings().weight[bad_id] = math.nan
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


def test_a_batch_too_large_for_memory_is_halved(engine: HFEngine, prompts: Prompts, tiny_model: ModelRef) -> None:
    asked = [ask(engine, f"{text} {i}") for i, text in enumerate(TEXTS * 3)]
    small = HFEngine(tiny_model, device="cpu")
    forward = small._forward
    tried = []

    def cramped(rows: Sequence[Sequence[int]], **more: Any) -> torch.Tensor:
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(rows, **more)

    small._forward = cramped  # type: ignore[method-assign]
    answers = small.choice_logprobs(asked, prompts.rating_choices)
    assert max(tried) > 2
    for one, other in zip(answers, engine.choice_logprobs(asked, prompts.rating_choices), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_row_that_does_not_fit_in_memory_alone_is_an_error(
    tiny_model: ModelRef, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(tiny_model, device="cpu")

    def cramped(rows: Sequence[Sequence[int]], **more: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_forward", cramped)
    answers = engine.choice_logprobs(ask_all(engine), prompts.rating_choices)
    assert [answer.error for answer in answers] == ["the row does not fit in the device's memory"] * 4


# -- the engine --------------------------------------------------------------------------------------------------------


def test_the_engine_opens_again_after_close(bytes_engine: HFEngine) -> None:
    before = bytes_engine.generate([ask(bytes_engine, "go", 4)], CREATIVE)
    bytes_engine.close()
    assert bytes_engine._loaded is None
    assert bytes_engine.generate([ask(bytes_engine, "go", 4)], CREATIVE) == before


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
