"""A recipe is checked against its server before any work, and `humpback doctor --server` says what it can do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulty_server import NAME, FaultyServer, FileTokenizer, HashModel
from typer.testing import CliRunner

from humpback.cli import app
from humpback.engines import EngineSpec, find_served, open_engine
from humpback.engines.base import ModelRef, Sampling
from humpback.errors import InputError
from humpback.prompts import Prompt
from humpback.recipe import ServerSettings

if TYPE_CHECKING:
    from tests.conftest import Lab


@pytest.fixture
def served(byte_model: ModelRef) -> Iterator[FaultyServer]:
    with FaultyServer(HashModel(), FileTokenizer(byte_model.path)) as server:
        yield server


def settings_of(url: str) -> dict[str, object]:
    return {"runtime__engine": "server", "runtime__server": {"url": url}, "model__base": "/nowhere"}


def test_a_run_that_trains_its_models_is_refused_a_server_that_cannot_have_them(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"url=http://127.0.0.1:1 serves one model .*backward, iteration-0.*command"):
        lab.run(tmp_path / "run", **settings_of("http://127.0.0.1:1"))
    assert not list((tmp_path / "run").glob("*/stage.json"))


def test_what_a_run_needs_and_a_server_cannot_give_is_named_with_the_fix_before_any_work(
    own_lab: Lab, byte_model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback import sitting

    monkeypatch.setattr(sitting, "check_served", lambda recipe: None)  # as if no model had to be trained
    with FaultyServer(HashModel(), FileTokenizer(byte_model.path), manner="llama.cpp") as server:
        settings = settings_of(server.url) | {"model__base": byte_model.path, "model__max_tokens": 512}
        with pytest.raises(InputError) as caught:
            own_lab.run(tmp_path / "run", **settings)
    said = str(caught.value)
    assert "engine server cannot give loglikelihood" in said
    assert "evaluate compares models by it" in said
    assert "no log-probabilities of a prompt" in said
    assert "serve the model with vLLM" in said
    assert not list((tmp_path / "run").glob("*/stage.json"))


def test_doctor_says_what_a_server_can_do(served: FaultyServer) -> None:
    done = CliRunner().invoke(app, ["doctor", "--server", f"{served.url}/v1"])
    assert done.exit_code == 0
    assert f"model {NAME}" in done.output
    assert "likelihood signals (loglikelihood): yes, by prompt_logprobs" in done.output
    found = json.loads(CliRunner().invoke(app, ["doctor", "--server", served.url, "--json"]).output)
    assert (found["kind"], found["choices"], found["likelihood"]) == ("vllm", "named", "prompt_logprobs")
    refused = CliRunner().invoke(app, ["doctor", "--server", served.url, "--model", "other"])
    assert isinstance(refused.exception, InputError)
    assert f"it serves {NAME}" in str(refused.exception)
    assert isinstance(CliRunner().invoke(app, ["doctor", "--model", "other"]).exception, InputError)


def test_a_server_that_is_there_is_opened_from_python_as_any_engine(
    served: FaultyServer, byte_model: ModelRef, tmp_path: Path
) -> None:
    server = ServerSettings(url=served.url, tokenizer=byte_model.path)
    model = find_served(server)
    spec = EngineSpec(
        model=model,
        engine="server",
        device="cpu",
        batch_tokens=64,
        threads=1,
        cache=tmp_path / "a.sqlite",
        server=server,
    )
    heard: list[int] = []
    engine = open_engine(spec, lambda told: heard.append(told.totals.requests))
    chat = engine.tokenizer.chat("Hello")
    prompts = [
        Prompt(user="", prefill="", text=chat, token_ids=tuple(engine.tokenizer.encode(chat)), seed=n) for n in (1, 2)
    ]
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=5)
    first = engine.generate(prompts, sampling)
    before = served.requests
    assert engine.generate(prompts, sampling) == first
    assert served.requests == before
    assert engine.totals.cache_hits == 2
    assert sum(heard) == 4
    engine.close()
