"""What a sitting makes of the runtime section."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from humpback.engines import EngineSpec
from humpback.engines.base import ModelRef
from humpback.engines.vllm import VLLMEngine
from humpback.errors import InputError, StorageError
from humpback.executor import PoolExecutor, SerialExecutor
from humpback.opening import forget_precision
from humpback.progress import Console
from humpback.recipe import Recipe, identity_of, load_recipe
from humpback.report.results import render_results
from humpback.sitting import Sitting
from humpback.stages.table import known_names
from humpback.store.rundir import Counts, RunDir
from humpback.training.fake import train_fake
from humpback.training.spec import TrainResult, TrainSpec

if TYPE_CHECKING:
    from tests.conftest import Lab


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of random weights, of a few kB."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    folder, letters = tmp_path / "model", sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<end>", *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=257, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that is only asked whether it has vllm; nothing is started before something is asked."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return str(path)


def sit(
    model: Path,
    folder: Path,
    *,
    signals: list[str] | None = None,
    curate: str = "auto",
    quiet: bool = True,
    **runtime: Any,
) -> Sitting:
    recipe = {
        "model": {"base": str(model), "max_tokens": 512},
        "seed": {"inputs": [{"path": "package:seed"}]},
        "corpus": {"inputs": [{"path": "pydoc:topics"}]},
        "score": {"signals": signals},
        "curate": {"signal": curate},
        "runtime": runtime,
    }
    return Sitting(Recipe.model_validate(recipe), RunDir(folder), Console(quiet=quiet))


def test_vllm_gets_the_recipes_settings_and_answers_all_rows_from_one_process(
    model: Path, python: str, tmp_path: Path
) -> None:
    settings = {"python": python, "gpu_memory_utilization": 0.2, "stall_timeout_s": 9}
    sitting = sit(model, tmp_path / "run", engine="vllm", workers=3, threads=2, vllm=settings)
    engine = sitting.engines.get(sitting.spec(sitting.base)).inner
    assert isinstance(engine, VLLMEngine)
    launch = engine._process.launch
    assert launch.command[0] == python
    assert dict(launch.settings)["gpu_memory_utilization"] == 0.2
    assert dict(launch.settings)["max_model_len"] == 513
    assert dict(launch.environment)["OMP_NUM_THREADS"] == "2"
    assert launch.stall_timeout_s == 9
    assert isinstance(sitting.executor, PoolExecutor)  # documents are still read by three
    assert isinstance(sitting.answering, SerialExecutor)
    sitting.close()


def test_unnamed_signals_are_all_that_the_engine_can_compute_and_are_said(
    model: Path, python: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["rating", "backward_lift", "forward_lift", "ifd", "probe"]
    assert sit(model, tmp_path / "one", engine="hf").signals == usual
    sitting = sit(model, tmp_path / "other", engine="vllm", vllm={"python": python}, quiet=False)
    assert sitting.signals == usual[:-1]
    assert identity_of(sitting.recipe.score)["signals"] == usual[:-1]
    sitting.write_recipe()
    assert load_recipe(tmp_path / "other" / "recipe.yaml").score.signals == usual[:-1]
    said = "signals: rating, backward_lift, forward_lift, ifd; without probe: engine vllm gives no hidden_states"
    assert said in capsys.readouterr().err


def test_a_named_signal_that_the_engine_cannot_compute_is_refused(model: Path, python: str, tmp_path: Path) -> None:
    vllm = {"engine": "vllm", "vllm": {"python": python}}
    with pytest.raises(InputError, match=r"vllm cannot compute score\.signals=\['probe'\]; remove them, leave score"):
        sit(model, tmp_path / "run", signals=["rating", "probe"], **vllm)
    with pytest.raises(InputError, match=r"vllm cannot compute curate\.signal=probe; choose another"):
        sit(model, tmp_path / "run", curate="probe", **vllm)


@pytest.mark.parametrize(("lacking", "purpose"), [("generate", "augment"), ("loglikelihood", "evaluate")])
def test_an_engine_that_lacks_what_every_run_needs_is_refused_before_any_work(
    model: Path, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, purpose: str
) -> None:
    monkeypatch.setattr(VLLMEngine, "capabilities", VLLMEngine.capabilities - {lacking})
    with pytest.raises(
        InputError, match=rf"engine vllm cannot give {lacking}, and a run needs it: {purpose}.*set runt"
    ):
        sit(model, tmp_path / "run", signals=["rating"], engine="vllm", vllm={"python": python})


def test_a_context_below_the_models_is_refused_as_it_would_change_results(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValidationError, match=r"max_model_len=511 is below model\.max_tokens=512.*leave max_model_len out"
    ):
        sit(model, tmp_path / "run", engine="vllm", vllm={"max_model_len": 511})
    sit(model, tmp_path / "run", engine="hf", vllm={"max_model_len": 511})  # not used


def test_a_run_is_refused_another_tokenizer_than_its_models(model: Path, tmp_path: Path) -> None:
    command = "serve {model} {port}"
    with pytest.raises(InputError, match=r"tokenizer=estimate is not the tokenizer of the models .*leave it out"):
        sit(model, tmp_path / "run", engine="server", server={"command": command, "tokenizer": "estimate"})


@pytest.mark.parametrize(
    ("named", "rebuilt", "expected"),
    [
        (None, (), ["rating", "ifd"]),  # what the run was made with: no server is started to tell that it is complete
        (["forward_lift"], (), ["forward_lift"]),  # the audit is refused as stale
        (None, ("iteration-0/audit",), ["rating"]),
        (["forward_lift"], ("iteration-0/audit",), ["rating"]),
    ],
)
def test_signals_of_a_complete_served_run_are_the_recipes_and_are_asked_anew_for_a_rerun(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: list[str] | None,
    rebuilt: tuple[str, ...],
    expected: list[str],
) -> None:
    real = Sitting.spec

    def spec(self: Sitting, model: ModelRef) -> EngineSpec:
        return dataclasses.replace(real(self, model), engine="fake")

    monkeypatch.setattr(Sitting, "spec", spec)
    monkeypatch.setattr("humpback.sitting.choose_signals", lambda recipe, engine: (["rating"], ""))
    scripted = lab.recipe(score__signals=named)
    served = scripted.runtime.model_copy(update={"engine": "server"})
    recipe = scripted.model_copy(update={"runtime": served})
    with RunDir(tmp_path / "run") as run_dir:
        for name in known_names(recipe, run_dir):
            run_dir.begin(name, {"score": {"signals": ["rating", "ifd"]}})
            run_dir.finish(name, None, Counts(), seconds=0, result={}, engine={}, environment={})
        assert Sitting(recipe, run_dir, Console(quiet=True), rebuilt=rebuilt).signals == expected


def test_the_number_format_is_decided_once_for_all_engines_and_stands_in_every_manifest(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Sitting.spec

    def spec(self: Sitting, model: ModelRef) -> EngineSpec:
        opened.append(real(self, model).dtype)
        return real(self, model)

    monkeypatch.setattr("humpback.opening.decide_format", lambda runtime: ("bfloat16", "bfloat16 (the faster)"))
    monkeypatch.setattr(Sitting, "spec", spec)
    assert lab.run(tmp_path / "run")
    assert set(opened) == {"bfloat16"}
    for stage in ("augment", "iteration-1/score"):
        assert lab.manifest(tmp_path / "run", stage)["environment"]["numbers"] == "bfloat16 (the faster)"


def test_a_resumed_run_goes_on_in_the_number_format_that_it_began_in(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = [("bfloat16", "bfloat16 (the faster)"), ("float32", "float32 (a busy machine)")]
    monkeypatch.setattr("humpback.opening.decide_format", lambda runtime: decided[0])
    assert lab.run(tmp_path / "run")
    decided.pop(0)
    assert lab.run(tmp_path / "run", rerun_from="iteration-1/score")
    assert lab.manifest(tmp_path / "run", "iteration-1/score")["environment"]["numbers"] == "bfloat16 (the faster)"

    kept = tmp_path / "run" / "numbers.json"
    moved = {**json.loads(kept.read_bytes()), "on": {"device": "auto", "cpu": "of another machine"}}
    kept.write_text(json.dumps(moved))
    assert lab.run(tmp_path / "run", rerun_from="iteration-1/score")
    assert lab.manifest(tmp_path / "run", "iteration-1/score")["environment"]["numbers"] == "float32 (a busy machine)"


@pytest.mark.parametrize("text", ["", "[]", '{"on": {}, "format": "int3", "told": ""}', '{"format": "float32"}'])
def test_a_damaged_number_format_is_told_with_the_file_and_what_to_do(
    lab: Lab, copy_of_finished: Path, text: str
) -> None:
    (copy_of_finished / "numbers.json").write_text(text)
    with pytest.raises(StorageError, match=r"run/numbers\.json does not say.*delete the file.*runtime\.dtype"):
        lab.run(copy_of_finished)


def test_all_trainings_of_a_run_share_one_number_format(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs: list[TrainSpec] = []

    def train(spec: TrainSpec) -> TrainResult:
        specs.append(spec)
        return dataclasses.replace(train_fake(spec), precision="bfloat16 (the faster)")

    monkeypatch.setattr("humpback.training.fake.train_fake", train)
    run = tmp_path / "run"
    assert lab.run(run)
    assert len(specs) == 4
    assert {spec.precision_file for spec in specs} == {run / "precision.json"}
    assert "Computed in bfloat16 (the faster)." in (run / "report" / "report.html").read_text()
    assert "Computed in bfloat16 (the faster)." in render_results(run)


def test_a_run_without_a_trained_model_decides_on_its_training_format_anew(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    run = tmp_path / "run"

    def train(spec: TrainSpec) -> TrainResult:
        assert spec.precision_file
        found.append(spec.precision_file.is_file())
        spec.precision_file.write_text("{}")
        return train_fake(spec)

    monkeypatch.setattr("humpback.training.fake.train_fake", train)
    assert lab.run(run)
    assert lab.run(run, rerun_from="iteration-0/finetune")
    assert lab.run(run, rerun_from="backward/mix")
    first, all_others = [False], [True] * 3
    assert found == [*first, *all_others, *all_others, *first, *all_others]


@pytest.mark.parametrize("trace", ["manifest.json", "work/checkpoint-5", "work/finished.json", None])
@pytest.mark.parametrize("room", ["backward", "cells/seed-seed0-1/arm"])
def test_a_training_format_is_forgotten_where_nothing_is_left_that_was_trained_in_it(
    tmp_path: Path, room: str, trace: str | None
) -> None:
    work = tmp_path / room / "finetune" / "work"
    work.mkdir(parents=True)
    for decision in (tmp_path, work):
        (decision / "precision.json").touch()
    if trace:
        (work.parent / trace).touch()
    forget_precision(tmp_path)
    assert [(place / "precision.json").exists() for place in (tmp_path, work)] == [bool(trace)] * 2


def test_how_engines_attend_stands_in_the_manifests_and_the_report(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("humpback.engines.fake.FakeEngine.attention", "packs, block by block", raising=False)
    assert lab.run(tmp_path / "run")
    assert lab.manifest(tmp_path / "run", "iteration-1/score")["environment"]["attention"] == "packs, block by block"
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_bytes())
    assert report["environment"]["attention"] == "packs, block by block"
