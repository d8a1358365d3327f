"""The loss of label tokens: torch's own, to rounding, and its gradient, whatever the blocks."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from humpback.training import loss  # noqa: E402

TOKENS, VOCABULARY = 7, 11


@pytest.fixture(params=[1, 3, TOKENS, 100])
def rows_of_a_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(loss, "BLOCK", request.param * VOCABULARY)
    return int(request.param)


def make_logits(dtype: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    logits = 5 * torch.randn(TOKENS, VOCABULARY, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(VOCABULARY, (TOKENS,))


@pytest.mark.usefixtures("rows_of_a_block")
def test_the_gradient_is_that_of_the_loss() -> None:
    logits, labels = make_logits(torch.float64)
    assert torch.autograd.gradcheck(lambda given: loss.cross_entropies(given, labels), (logits,))


@pytest.mark.usefixtures("rows_of_a_block")
@pytest.mark.parametrize(("dtype", "rounding"), [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 2**-7)])
def test_losses_and_gradients_are_those_of_torch_with_a_weight_per_token(dtype: str, rounding: float) -> None:
    weights = torch.linspace(0.0, 2.0, TOKENS)
    found = []
    for ours in (True, False):
        logits, labels = make_logits(getattr(torch, dtype))
        if ours:
            losses = loss.cross_entropies(logits, labels)
        else:
            wide = logits.double() if dtype == "float64" else logits.float()
            losses = torch.nn.functional.cross_entropy(wide, labels, reduction="none")
        (losses * weights).sum().backward()
        found.append((losses.detach(), logits.grad))
    (losses, gradient), (own_losses, own_gradient) = found
    assert losses.dtype == own_losses.dtype
    assert torch.equal(losses, own_losses)
    assert gradient.dtype == own_gradient.dtype
    torch.testing.assert_close(gradient, own_gradient, rtol=rounding, atol=min(rounding, 1e-6))


def test_nothing_of_the_logits_size_is_kept_but_the_logits() -> None:
    logits, labels = make_logits(torch.float32)
    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        losses = loss.cross_entropies(logits, labels)
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() >= logits.numel()}
    assert large == {logits.data_ptr()}
    before = logits.detach().clone()
    losses.sum().backward()
    assert torch.equal(logits, before)  # what made them may need them in its own backward pass


@pytest.mark.parametrize("label", [-100, -1, VOCABULARY])
def test_a_label_that_cannot_be_is_refused(label: int) -> None:
    logits, labels = make_logits(torch.float32)
    labels[3] = label
    with pytest.raises(ValueError, match=f"{label} .*vocabulary of {VOCABULARY}"):
        loss.cross_entropies(logits, labels)


def test_labels_and_logits_are_as_many() -> None:
    logits, labels = make_logits(torch.float32)
    with pytest.raises(ValueError, match=f"{TOKENS} labels for {TOKENS - 1} rows"):
        loss.cross_entropies(logits[:-1], labels)


def test_no_rows_have_no_losses_and_no_gradient() -> None:
    logits, labels = make_logits(torch.float32)
    none = logits[:0].detach().requires_grad_()
    losses = loss.cross_entropies(none, labels[:0])
    losses.sum().backward()
    assert losses.shape == (0,)
    assert none.grad.shape == (0, VOCABULARY)


def test_a_loss_that_is_no_number_is_told_of_its_row_alone() -> None:
    logits, labels = make_logits(torch.float32)
    with torch.no_grad():
        logits[2], logits[4, labels[4]] = torch.nan, -torch.inf
    losses = loss.cross_entropies(logits, labels)
    assert losses.isnan().tolist() == [row == 2 for row in range(TOKENS)]
    assert losses.isinf().tolist() == [row == 4 for row in range(TOKENS)]
    losses.sum().backward()
    assert logits.grad.isfinite().all(-1).tolist() == [row != 2 for row in range(TOKENS)]
