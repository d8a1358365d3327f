"""Models as commands name them: their tags, their engines, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback.benchmarking.models import ModelOptions, check_model, choose_tag, opened
from humpback.engines.base import Capability
from humpback.engines.fake import FakeEngine
from humpback.engines.server.findings import Findings
from humpback.errors import InputError
from humpback.prompts import SEED_TAG, WEB_TAG

if TYPE_CHECKING:
    from tests.conftest import Lab


def test_model_of_a_run_gets_both_tags_and_others_none(tmp_path: Path) -> None:
    trained = tmp_path / "run" / "iteration-1" / "finetune" / "model"
    trained.mkdir(parents=True)
    assert choose_tag(str(trained), "auto") == f"{SEED_TAG} {WEB_TAG}"
    assert choose_tag(str(tmp_path), "auto") == ""
    assert (choose_tag(str(trained), "none"), choose_tag(str(tmp_path), "seed")) == ("", SEED_TAG)


def test_tags_are_those_of_the_runs_recipe(tmp_path: Path, lab: Lab) -> None:
    trained = tmp_path / "iteration-1" / "finetune" / "model"
    trained.mkdir(parents=True)
    recipe = lab.recipe_file(tmp_path / "recipe.yaml")
    recipe.write_text(recipe.read_text() + "\nprompts: {seed_tag: Be brief., web_tag: ''}\n")
    assert choose_tag(str(trained), "auto") == "Be brief."


def test_engine_that_cannot_do_what_is_needed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "capabilities", frozenset[Capability]({"generate"}))
    options = ModelOptions(cache=tmp_path / "answers.sqlite", quiet=True)
    with (
        pytest.raises(InputError, match="fake cannot answer here: its engine has no loglikelihood"),
        opened("fake", options, needs="loglikelihood"),
    ):
        pass


def test_server_that_cannot_do_what_is_needed_is_refused_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("httpx")
    findings = Findings(url="http://127.0.0.1:9", kind="other", models=("judge",), model="judge", chat=True)
    monkeypatch.setattr("humpback.engines.server.probe.probe_url", lambda _: findings)
    monkeypatch.setattr("humpback.engines.server.engine.ServerEngine.findings", findings)
    options = ModelOptions(cache=tmp_path / "answers.sqlite", tokenizer="estimate", quiet=True)
    check_model("http://127.0.0.1:9/v1", options, needs="generate")
    with pytest.raises(InputError, match="has no choice_logprobs"):
        check_model("http://127.0.0.1:9/v1", options, needs="choice_logprobs")


def test_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    options = ModelOptions(cache=tmp_path / "answers.sqlite", quiet=True)
    with pytest.raises(InputError, match="none"), opened(str(tmp_path / "none"), options, needs="generate"):
        pass
