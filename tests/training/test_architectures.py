"""Models whose attention torch has no kernel for (Gemma-2 caps its scores, gpt-oss has sinks) are trained by transformers' own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import VOCABULARY, make_rows, make_spec, metrics_of, weights_of

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves

CAPS = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 1.0}


def make_base(kind: str, base: Path, folder: Path, **changes: Any) -> Path:
    import transformers

    shutil.copytree(base, folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,  # one of windows, one of whole rows
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.3,  # scores and logits that a cap changes
        "sliding_window": 8,  # rows have up to 28 tokens
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": None,
        **changes,
    }
    config = getattr(transformers, f"{kind}Config")(**sizes)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


def learn_alone(folder: Path, **changes: Any) -> tuple[float, float]:
    """Return loss and norm of the gradient over all rows, each passed alone, in plain transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, **changes)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation="eager")
    total: Any = 0
    count = 0
    for ids, labels in make_rows(10):
        kept = sum(label != -100 for label in labels[1:])
        total = total + kept * model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        count += kept
    (total / count).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    return (total / count).item(), norm.item()


def test_rows_of_a_gemma_2_passed_together_give_what_they_give_alone(tmp_path: Path, base: Path) -> None:
    from humpback.training import sft

    gemma = make_base("Gemma2", base, tmp_path / "gemma", **CAPS)
    loss, norm = learn_alone(gemma)
    for uncapped in CAPS:  # else the test could not see a cap forgotten
        assert learn_alone(gemma, **{uncapped: None})[0] != pytest.approx(loss, rel=1e-3)
    for budget in (10_000, 40):
        spec = make_spec(tmp_path / str(budget), gemma, steps=1, batch_size=10, batch_tokens=budget)
        sft.run(spec)
        line = metrics_of(spec)[0]
        assert line["loss"] == pytest.approx(loss, rel=1e-5)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(("kind", "changes"), [("Gemma2", CAPS), ("GptOss", {"num_local_experts": 4})])
@pytest.mark.parametrize(("method", "precision"), [("full", "float32"), ("lora", "bfloat16")])
def test_it_is_trained_to_the_end_and_its_record_tells_the_attention(
    tmp_path: Path, base: Path, kind: str, changes: dict[str, Any], method: str, precision: str
) -> None:
    from humpback.training import sft

    folder = make_base(kind, base, tmp_path / "base", **changes)
    spec = make_spec(tmp_path / "own", folder, steps=4, method=method, precision=precision)
    sft.run(spec)
    losses = [line["loss"] for line in metrics_of(spec)]
    assert losses[-1] < losses[0]
    record = json.loads((spec.output / "training.json").read_text())
    assert [sitting["arithmetic"]["attention"] for sitting in record["machine"]["sittings"]] == ["eager"]
    assert weights_of(folder).keys() == weights_of(spec.output).keys()
    assert not any("attn_implementation" in name for name in json.loads((spec.output / "config.json").read_text()))


def test_attention_that_keeps_its_probabilities_is_counted_before_memory_is_short(tmp_path: Path, base: Path) -> None:
    from humpback.training.weights import load_model, needs_recompute

    folder = make_base("Gemma2", base, tmp_path / "base", **CAPS)
    spec = make_spec(tmp_path, folder)
    asked: dict[str, Any] = {"tokens": 512, "memory": 16_000_000}
    model = load_model(spec, on_cuda=False)
    assert not needs_recompute(spec, model, longest=16, **asked)
    assert needs_recompute(spec, model, longest=512, **asked)
    model.config._attn_implementation = "sdpa"
    assert not needs_recompute(spec, model, longest=512, **asked)
