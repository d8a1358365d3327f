"""Attention in blocks for training: the same loss and gradients as torch's own attention, which takes what is not plain causal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import VOCABULARY, make_rows, make_spec

from humpback.training.rows import read_rows

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves

SIZES = {"heads": 4, "key_heads": 2, "width": 3}
LENGTHS = {"padded": (150, 64, 65, 9, 1), "one row": (150,), "one token": (1,), "short rows": (12, 12, 7)}
"""Tokens of the rows of a batch; a block has 64."""


@pytest.fixture(autouse=True)
def untold() -> None:
    from humpback.training import attending

    attending._tell_once.cache_clear()


def make_states(tokens: int, dtype: Any = None) -> list[Any]:
    """Return queries, keys and values of two rows."""
    torch.manual_seed(0)
    shapes = [(2, SIZES[heads], tokens, SIZES["width"]) for heads in ("heads", "key_heads", "key_heads")]
    return [torch.randn(shape, dtype=dtype or torch.float64, requires_grad=True) for shape in shapes]


def make_model(kind: str, **changes: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
    }
    config = {"Llama": transformers.LlamaConfig, "Gemma3": transformers.Gemma3TextConfig}[kind](**{**sizes, **changes})
    return transformers.AutoModelForCausalLM.from_config(config)


def make_batch(lengths: tuple[int, ...], *, left: bool = False) -> dict[str, Any]:
    width = max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        own = slice(width - length, None) if left else slice(0, length)
        ids[row, own] = torch.tensor([2 + (7 * row + 3 * i * i) % (VOCABULARY - 2) for i in range(length)])
        mask[row, own] = 1
        labels[row, own] = ids[row, own]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def learn(model: Any, batch: dict[str, Any], attention: str, *, half: bool = False) -> tuple[Any, Any]:
    """Return the loss of a batch and all gradients, end to end."""
    model.set_attn_implementation(attention)
    model.zero_grad()
    tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(**tokens, use_cache=False).logits[:, :-1].float()
    # a sum: a row of one token has no label
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    loss.backward()
    return loss.detach(), torch.cat([weight.grad.flatten().clone() for weight in model.parameters()])


def assert_same(model: Any, batch: dict[str, Any], *, apart: float) -> None:
    from humpback.training.attending import ATTENTION

    loss, gradients = learn(model, batch, "sdpa")
    own_loss, own_gradients = learn(model, batch, ATTENTION)
    assert (own_loss - loss).abs() <= apart * loss.abs()
    assert (own_gradients - gradients).norm() <= apart * gradients.norm()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("tokens", [1, 3, 7])
def test_its_gradients_are_those_of_its_output(monkeypatch: pytest.MonkeyPatch, tokens: int, dropout: float) -> None:
    from humpback.training import attending

    monkeypatch.setattr(attending, "BLOCK", 3)

    def attend(*states: Any) -> Any:
        torch.manual_seed(1)  # the same probabilities are dropped whenever it is asked
        return attending.CausalAttention.apply(*states, 0.4, dropout)

    assert torch.autograd.gradcheck(attend, make_states(tokens))


@pytest.mark.parametrize("name", LENGTHS)
def test_a_llama_learns_the_same_in_float32(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounding moves the gradients' norm by 1e-6 of it; a key too many or too few by more than 1e-2."""
    assert_same(make_model("Llama"), make_batch(LENGTHS[name]), apart=1e-5)
    assert "torch's own" not in capsys.readouterr().out


def test_rounding_to_bfloat16_costs_about_what_it_costs_in_torchs_own() -> None:
    from humpback.training.attending import ATTENTION

    model, batch = make_model("Llama"), make_batch(LENGTHS["padded"])
    _, exact = learn(model, batch, "sdpa")
    theirs, ours = (
        (learn(model, batch, attention, half=True)[1] - exact).norm() / exact.norm()
        for attention in ("sdpa", ATTENTION)
    )
    assert 0 < ours < 1.5 * theirs < 0.05


@pytest.mark.parametrize("lengths", [(20, 11), (6, 4)])
def test_a_gemma_with_sliding_windows_learns_the_same_and_long_rows_are_left_to_torch(
    lengths: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    layers = ["sliding_attention", "full_attention"]
    model = make_model("Gemma3", sliding_window=8, layer_types=layers, query_pre_attn_scalar=5)
    assert_same(model, make_batch(lengths), apart=1e-5)
    told = [line for line in capsys.readouterr().out.splitlines() if "torch's own" in line]
    why = "attention: torch's own in Gemma3Attention: rows are longer than its sliding window of 8 tokens"
    assert told == [why] * (max(lengths) > 8)


def test_rows_padded_on_their_left_are_left_to_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert_same(make_model("Llama"), make_batch((20, 11), left=True), apart=0)
    assert capsys.readouterr().out.count("it has a mask of its own") == 1


def test_what_is_added_to_attention_is_left_to_torch(capsys: pytest.CaptureFixture[str]) -> None:
    from torch.nn.functional import scaled_dot_product_attention

    from humpback.training.attending import attend_in_blocks

    states = [torch.randn(1, 2, 5, 4) for _ in range(3)]
    bias = torch.randn(1, 2, 5, 5)
    seen, _ = attend_in_blocks(torch.nn.Identity(), *states, None, position_bias=bias)
    hidden = bias.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(seen.transpose(1, 2), scaled_dot_product_attention(*states, attn_mask=hidden))
    seen, _ = attend_in_blocks(torch.nn.Identity(), *states, None, is_causal=False)
    torch.testing.assert_close(seen.transpose(1, 2), scaled_dot_product_attention(*states))
    with pytest.raises(ValueError, match="softcap"):
        attend_in_blocks(torch.nn.Identity(), *states, None, softcap=30.0)
    told = capsys.readouterr().out
    assert all(why in told for why in ("it has position_bias", "it is not causal", "it has softcap"))


def test_dropout_takes_the_share_asked_and_scales_the_rest() -> None:
    from humpback.training.attending import CausalAttention

    tokens = 200
    query, key = (torch.randn(1, 4, tokens, 8) for _ in range(2))
    value = torch.eye(tokens).expand(1, 4, tokens, tokens)  # what is seen is then the probabilities themselves
    whole = CausalAttention.apply(query, key, value, 0.3, 0.0)
    torch.manual_seed(0)
    dropped = CausalAttention.apply(query, key, value, 0.3, 0.1)
    seen = torch.ones(tokens, tokens).tril().bool()[None, :, None].expand_as(whole)
    gone = (dropped == 0) & seen
    assert gone.sum() / seen.sum() == pytest.approx(
        0.1, abs=0.004
    )  # 80,400 draws: two parts in a thousand are two sigma
    torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.9, rtol=1e-4, atol=0)
    heads = [gone[0, :, head] for head in range(4)]
    assert not any(torch.equal(heads[0], other) for other in heads[1:])


def test_dropout_is_a_matter_of_torchs_state_alone() -> None:
    from humpback.training.attending import CausalAttention

    states = make_states(70, torch.bfloat16)
    told = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        seen = CausalAttention.apply(*states, 0.5, 0.2)
        told.append([seen, *torch.autograd.grad(seen.float().square().sum(), states)])
    assert all(torch.equal(one, other) for one, other in zip(told[0], told[1], strict=True))
    assert not torch.equal(told[0][0], told[2][0])


def test_recomputed_activations_drop_the_same() -> None:
    from torch.utils.checkpoint import checkpoint

    from humpback.training.attending import CausalAttention

    states = make_states(70)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(3)

        def attend(*given: Any) -> Any:
            return CausalAttention.apply(*given, 0.5, 0.2).square()

        seen = checkpoint(attend, *states, use_reentrant=False) if recompute else attend(*states)
        gradients.append(torch.autograd.grad(seen.sum(), states))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize(("precision", "ours"), [("bfloat16", True), ("float32", False)])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_training_on_a_cpu_takes_it_in_bfloat16_and_its_model_does_not_ask_for_it(
    tmp_path: Path, base: Path, precision: str, ours: bool, method: str
) -> None:
    from humpback.training import sft
    from humpback.training.attending import ATTENTION

    spec = make_spec(tmp_path, base, precision=precision, method=method, steps=1, rows=make_rows(4))
    trainer = sft.build_trainer(spec, read_rows(spec.data), None, on_cuda=False)
    assert trainer.model.config._attn_implementation == (ATTENTION if ours else "sdpa")
    sft.run(spec)
    assert not any("attn_implementation" in name for name in json.loads((spec.output / "config.json").read_text()))
