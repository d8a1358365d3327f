"""What lies in a model folder after a training: the weights twice where there is an adapter, and all that must go along."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from shares import weigh
from tiny import make_rows, make_spec, weights_of

from humpback.errors import MissingDependencyError
from humpback.training.result import dress_model, read_curves
from humpback.training.spec import check_inputs

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves


def test_after_lora_the_adapter_alone_on_the_base_is_the_merged_model(tmp_path: Path, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from humpback.engines.base import ModelRef
    from humpback.engines.models import hash_model, resolve_adapter
    from humpback.training import sft

    spec = make_spec(tmp_path, base, method="lora", steps=3, chat_template="{{ bos_token }}!", stop_ids=(7,))
    sft.run(spec)
    adapter = spec.output / "adapter"
    ids = torch.tensor([[5, 9, 12, 30]])
    merged = AutoModelForCausalLM.from_pretrained(spec.output)(input_ids=ids).logits
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()(input_ids=ids).logits
    assert torch.allclose(merged, alone, atol=1e-5)
    assert not torch.allclose(merged, AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits, atol=1e-4)
    of_base = ModelRef(path=str(base), content_hash=hash_model(base))
    assert resolve_adapter(of_base, adapter).adapter == str(adapter)  # an engine can switch it on
    assert weights_of(spec.output).keys() == weights_of(base).keys()

    record = json.loads((spec.output / "training.json").read_text())
    assert record["data"]["files"] == [
        {"name": "rows.parquet", "sha256": hashlib.sha256(spec.data[0].read_bytes()).hexdigest()}
    ]
    assert record["data"]["examples"] == 10
    assert record["spec"] == json.loads(spec.model_dump_json())
    assert [step for step, _ in record["curves"]["loss"]] == [1, 2, 3]
    assert record["trained"]["tokens"] == sum(tokens for _, tokens in record["curves"]["tokens"])
    assert record["trained"]["steps"] == 3
    assert {"torch", "transformers", "trl", "peft", "python"} <= record["versions"].keys()
    assert (spec.output / "chat_template.jinja").read_text() == "{{ bos_token }}!"
    assert json.loads((spec.output / "generation_config.json").read_text())["eos_token_id"] == [1, 7]
    assert (spec.output / "tokenizer.json").is_file()


def test_without_a_contract_the_bases_files_stay_as_they_are(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')
    dress_model(folder, make_spec(tmp_path, base))
    assert (folder / "generation_config.json").read_text() == '{"eos_token_id": 3}'
    assert not (folder / "chat_template.jinja").exists()


def test_curves_hold_what_was_measured_and_where(tmp_path: Path) -> None:
    lines = [{"step": 1, "steps": 2, "loss": 2.0, "grad_norm": None}, {"step": 2, "steps": 2, "loss": 1.5, "nll": 3.0}]
    assert read_curves(lines) == {"loss": [[1, 2.0], [2, 1.5]], "nll": [[2, 3.0]]}


# -- weights of rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [10_000, 40])
def test_a_weight_counts_a_rows_label_tokens_that_much(tmp_path: Path, base: Path, budget: int) -> None:
    from transformers import AutoModelForCausalLM

    from humpback.training import sft

    weights = [1.0, 0.25, 0.5, 1.0, 0.01, 0.75, 1.0, 0.1, 0.9, 0.3]
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    total = count = 0.0
    for (ids, labels), weight in zip(make_rows(10), weights, strict=True):
        kept = sum(label != -100 for label in labels[1:])
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total, count = total + weight * kept * loss, count + weight * kept
    (total / count).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
    spec = make_spec(tmp_path, base, steps=1, batch_size=10, batch_tokens=budget)
    weigh(spec.data[0], weight=weights)
    sft.run(spec)
    line = json.loads(spec.metrics.read_text())
    assert line["loss"] == pytest.approx((total / count).item(), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert line["label_tokens"] == sum(label != -100 for _, labels in make_rows(10) for label in labels)


# -- reporting ---------------------------------------------------------------------------------------------------------


def test_every_step_is_told_to_the_callbacks_that_report(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback

    from humpback.training import sft

    told: list[tuple[int, dict[str, Any]]] = []

    class Reporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            told.append((state.global_step, dict(logs)))

    build = sft.build_trainer

    def with_reporter(*args: Any, **kwargs: Any) -> Any:
        trainer = build(*args, **kwargs)
        trainer.add_callback(Reporter())
        return trainer

    monkeypatch.setattr(sft, "build_trainer", with_reporter)
    spec = make_spec(tmp_path, base, steps=2)
    sft.run(spec)
    losses = [json.loads(line)["loss"] for line in spec.metrics.read_text().splitlines()]
    assert [(step, logs["loss"]) for step, logs in told] == [(1, losses[0]), (2, losses[1])]


def test_a_reporter_that_is_not_installed_is_refused_before_the_training(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import reporting

    spec = make_spec(tmp_path, base, report_to=("wandb",))
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"report_to=wandb needs .* pip install wandb"):
        check_inputs(spec)
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda name: name)
    check_inputs(spec)
    assert spec.identity() == make_spec(tmp_path, base).identity()  # who follows a training decides nothing of it
