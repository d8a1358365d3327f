from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import MakeByteModel
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from humpback import formats
from humpback.engines import decide_format
from humpback.engines.base import ModelRef
from humpback.engines.hf import HFEngine
from humpback.engines.hf_format import choose_format, find_device
from humpback.engines.packs import build_pack
from humpback.errors import InputError
from humpback.prompts import Continuation, Prompt, Prompts
from humpback.recipe import NumberFormat, RuntimeSettings

CPU = torch.device("cpu")


def speeds(monkeypatch: pytest.MonkeyPatch, *, float32: float, bfloat16: float) -> None:
    monkeypatch.setattr(formats, "measure_formats", lambda threads: {"float32": float32, "bfloat16": bfloat16})


@pytest.mark.parametrize(("bfloat16", "chosen"), [(90.0, "float32"), (110.0, "float32"), (190.0, "bfloat16")])
def test_a_cpu_takes_the_faster_format_and_half_precision_only_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, bfloat16: float, chosen: str
) -> None:
    speeds(monkeypatch, float32=100.0, bfloat16=bfloat16)
    found = choose_format("auto", CPU)
    assert found.format == chosen
    assert str(found) == f"{chosen} ({bfloat16:.0f} GFLOP/s in bfloat16, 100 in float32 on this CPU)"


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16")])
def test_a_gpu_takes_bfloat16_where_it_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_format("auto", torch.device("cuda")).format == chosen


@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_a_format_that_is_named_is_taken_unmeasured(monkeypatch: pytest.MonkeyPatch, wanted: NumberFormat) -> None:
    monkeypatch.setattr(formats, "measure_formats", lambda threads: pytest.fail("was measured"))
    assert str(choose_format(wanted, CPU)) == f"{wanted} (as runtime.dtype says)"


def test_a_run_decides_once_for_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, float32=1.0, bfloat16=2.0)
    assert decide_format(RuntimeSettings(device="cpu", threads=1))[0] == "bfloat16"
    assert decide_format(RuntimeSettings(engine="vllm")) == ("auto", "")  # it decides in its own process


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(InputError, match=r"runtime\.device=cpu"):
        find_device("cuda")


def test_the_engine_computes_in_the_format_it_is_given(byte_model: ModelRef) -> None:
    for name in ("float32", "bfloat16"):
        engine = HFEngine(byte_model, device="cpu", dtype=name)
        assert engine._network.net.dtype == getattr(torch, name)
        assert engine._network.packs


def test_logits_of_half_precision_are_not_rounded_themselves(byte_model: ModelRef) -> None:
    engine = HFEngine(byte_model, device="cpu", dtype="bfloat16")
    with torch.inference_mode():
        logits = engine._network.read_pack(build_pack([(5, 6, 7)]), (0, 1, 2)).logits_N_V
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).any()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks by the old name
def test_an_adapter_with_a_head_of_its_own_is_asked_by_that_in_half_precision(
    make_byte_model: MakeByteModel, tmp_path: Path
) -> None:
    """The base has been asked before, and keeps a wider copy of its head: the adapter's must not begin with it."""
    base = make_byte_model(layers=1)
    net = AutoModelForCausalLM.from_pretrained(base.path)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    adapted = get_peft_model(net, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight.zero_()
    adapted.save_pretrained(tmp_path / "adapter")
    plain = HFEngine(base, device="cpu", dtype="bfloat16")
    engine = HFEngine(
        dataclasses.replace(base, adapter=str(tmp_path / "adapter"), content_hash="own"), device="cpu", dtype="bfloat16"
    )
    pack = build_pack([(5, 6, 7)])
    with torch.inference_mode():
        assert plain._network.read_pack(pack, (2,)).logits_N_V.any()
        assert not engine._network.read_pack(pack, (2,)).logits_N_V.any()
        assert plain._network.read_pack(pack, (2,)).logits_N_V.any()


# -- what rounding does to the signals -----------------------------------------------------------------------------------

PAIRS = [
    ("Why is the sky blue?", "Air scatters blue light more than red light, so it reaches us from all sides."),
    ("Name three rivers of Europe.", "The Rhine, the Danube and the Loire are three of Europe's rivers."),
    ("How do whales sleep?", "They rest one half of the brain at a time and come up to breathe."),
    (
        "What is sourdough?",
        "A dough that wild yeast and bacteria have leavened, kept alive by feeding it flour and water.",
    ),
    ("Write a haiku about rain.", "Rain on the tin roof / a drum without a drummer / the cat sleeps through it"),
    ("What does a tariff do?", "It taxes imports, which raises their price and shelters producers at home."),
]


def lifts(engine: HFEngine, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return log p(y given x) - log p(y) per token, which is what the lift signals are made of."""
    answers = [_encode(engine, y) for _, y in pairs]
    with_x = [_ask(engine, engine.tokenizer.chat(x)) for x, _ in pairs]
    without = [_ask(engine, engine.tokenizer.chat("")) for _ in pairs]
    given, alone = engine.loglikelihood(with_x, answers), engine.loglikelihood(without, answers)
    return [(a.logprob - b.logprob) / a.tokens for a, b in zip(given, alone, strict=True)]


def _ask(engine: HFEngine, text: str) -> Prompt:
    return Prompt(user="", prefill="", text=text, token_ids=tuple(engine.tokenizer.encode(text)))


def _encode(engine: HFEngine, text: str) -> Continuation:
    return Continuation(text=text, token_ids=tuple(engine.tokenizer.encode(text)))


@pytest.mark.slow
def test_half_precision_moves_the_signals_by_far_less_than_pairs_differ(smollm: ModelRef) -> None:
    """SmolLM2-135M: true pairs and mismatched ones, in both formats; each signal's shift against its spread over pairs."""
    wrong = [(x, PAIRS[(i + 1) % len(PAIRS)][1]) for i, (x, _) in enumerate(PAIRS)]
    pairs = [*PAIRS, *wrong]
    exact, half = (HFEngine(smollm, device="cpu", dtype=name) for name in ("float32", "bfloat16"))
    prompts = Prompts(exact.tokenizer, max_tokens=1024, instruction_tokens=64)
    one, other = (lifts(engine, pairs) for engine in (exact, half))
    # nats per token; seen here: 0.052 at most, 0.017 in the mean, and pairs spread by 0.94
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 0.1
    assert statistics.mean(abs(a - b) for a, b in zip(one, other, strict=True)) < 0.05 * statistics.stdev(one)
    assert sum(min(other[: len(PAIRS)]) > lift for lift in other[len(PAIRS) :]) >= len(PAIRS) - 1
    asked = [prompts.rate(x, y) for x, y in pairs]
    rated, rounded = (engine.choice_logprobs(asked, prompts.rating_choices, (16, 24)) for engine in (exact, half))
    # scores from 1 to 5; seen here: 0.039 at most, 0.013 in the mean (0.117 and 0.044 while logits were rounded too)
    shifts = [abs(_expect(a.logprobs) - _expect(b.logprobs)) for a, b in zip(rated, rounded, strict=True)]
    assert max(shifts) < 0.08
    assert statistics.mean(shifts) < 0.03
    for a, b in zip(rated, rounded, strict=True):
        assert a.hidden is not None
        assert b.hidden is not None
        for layer, near in zip(a.hidden, b.hidden, strict=True):
            cosine = float(layer @ near) / math.sqrt(float(layer @ layer) * float(near @ near))
            assert cosine > 0.999


def _expect(logprobs: Sequence[float]) -> float:
    shares = [math.exp(value) for value in logprobs]
    return sum(score * share for score, share in enumerate(shares, 1)) / sum(shares)
