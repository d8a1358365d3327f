"""The `server` engine keeps the contract of every engine, against a server of ours that speaks as vLLM and as llama.cpp do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract import EngineContract, PlainModel, assert_engines_agree
from faulty_server import FAULTS, FaultyServer, FileTokenizer, HashModel

from humpback.engines.base import ModelRef
from humpback.engines.hf import HFEngine
from humpback.engines.server.engine import ServerEngine
from humpback.recipe import ServerSettings


class Served(EngineContract):
    """Fixtures for a server that serves the contract's model."""

    manner = "vllm"
    rate = 0.0

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls) -> HashModel:
        return HashModel()

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, contract_model: ModelRef, reference: HashModel) -> Iterator[ServerEngine]:
        faults = [fault for fault in FAULTS if fault not in ("stall", "429 with seconds")]  # which only take time
        tokenizer = FileTokenizer(contract_model.path)
        with FaultyServer(reference, tokenizer, manner=cls.manner, faults=faults, rate=cls.rate) as server:  # type: ignore[arg-type]
            engine = ServerEngine(contract_model, ServerSettings(url=server.url, concurrency=8))
            yield engine
            engine.close()


class TestAsVLLM(Served):
    def test_it_claims_all_but_hidden_states(self, engine: ServerEngine) -> None:
        assert engine.capabilities == {"generate", "choice_logprobs", "loglikelihood"}


@pytest.mark.slow
def test_a_served_model_answers_as_the_reference_engine_does(contract_model: ModelRef) -> None:
    tokenizer = FileTokenizer(contract_model.path)
    with FaultyServer(PlainModel(contract_model.path), tokenizer) as server:
        engine = ServerEngine(contract_model, ServerSettings(url=server.url, concurrency=8))
        assert_engines_agree(engine, HFEngine(contract_model, device="cpu"), tolerance=1e-4)
        engine.close()


class TestAsVLLMThatFailsNowAndThen(Served):
    rate = 0.2


class TestAsLlamaCpp(Served):
    manner = "llama.cpp"

    def test_it_claims_no_likelihoods(self, engine: ServerEngine) -> None:
        assert engine.capabilities == {"generate", "choice_logprobs"}
        assert engine.findings.choices == "biased"


class TestAsALegacyEndpoint(Served):
    """Completions with echo, and five top log-probabilities: a choice that is not among them is told by its own echo."""

    manner = "legacy"

    def test_it_claims_all_but_hidden_states(self, engine: ServerEngine) -> None:
        assert engine.capabilities == {"generate", "choice_logprobs", "loglikelihood"}
        assert engine.findings.choices == "each"
