"""The passes of a step: their size, and what may not depend on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import VOCABULARY, make_rows, make_spec, metrics_of

from humpback.training.rows import read_rows

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves

COEFFICIENT = 0.5


@pytest.fixture
def experts(tmp_path: Path, base: Path) -> Path:
    """Make a random model with a mixture of experts whose balance is half of what is learnt."""
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tmp_path / "experts"
    shutil.copytree(base, folder)
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        output_router_logits=True,
        router_aux_loss_coef=COEFFICIENT,
        bos_token_id=None,
        eos_token_id=1,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def test_the_balance_of_experts_counts_once_in_however_many_passes(tmp_path: Path, experts: Path) -> None:
    from transformers import AutoModelForCausalLM

    from humpback.training import sft

    ids, labels = make_rows(4)[3]
    lines = []
    for budget in (10_000, 3 * len(ids), 1):  # one pass, two of unequal size, four
        spec = make_spec(
            tmp_path / str(budget), experts, rows=[(ids, labels)] * 4, steps=1, batch_tokens=budget, max_grad_norm=0
        )
        sft.run(spec)
        lines += metrics_of(spec)
    model: Any = AutoModelForCausalLM.from_pretrained(experts)
    told = model(input_ids=torch.tensor([ids] * 4), output_router_logits=True)
    kept = torch.tensor(labels)[1:] != -100
    nats = torch.nn.functional.cross_entropy(told.logits[0, :-1][kept], torch.tensor(ids)[1:][kept])
    assert told.aux_loss > 0.5
    assert [line["loss"] for line in lines] == pytest.approx(
        [(nats + COEFFICIENT * told.aux_loss).item()] * 3, rel=1e-4
    )
    (nats + COEFFICIENT * told.aux_loss).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
    assert [line["grad_norm"] for line in lines] == pytest.approx([norm] * 3, rel=1e-3)


def test_memory_is_asked_for_the_largest_pass_which_may_be_one_long_row(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humpback.training import sft

    long = [2 + i % 90 for i in range(700)]
    asked: list[int] = []

    def needs(spec: Any, model: Any, *, tokens: int, longest: int, memory: int) -> bool:
        assert longest == 700
        asked.append(tokens)
        return False

    monkeypatch.setattr(sft, "needs_recompute", needs)
    for number, budget in enumerate((64, 2_000, None)):
        spec = make_spec(tmp_path / str(number), base, rows=[*make_rows(3), (long, long)], batch_tokens=budget)
        assert sft.build_trainer(spec, read_rows(spec.data), None, on_cuda=False).budget == (budget or 512)
    assert asked == [700, 2_000, 700]
    assert spec.pass_tokens(on_cuda=True) == 8_192
