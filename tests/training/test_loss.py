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
    assert torch.autograd.gradcheck(lambda given: loss.token_losses(given, labels), (logits,))


@pytest.mark.usefixtures("rows_of_a_block")
@pytest.mark.parametrize(("dtype", "rounding"), [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 2**-8)])
def test_losses_and_gradients_are_those_of_torch_with_a_weight_per_token(dtype: str, rounding: float) -> None:
    weights = torch.linspace(0.0, 2.0, TOKENS)
    found = []
    for ours in (True, False):
        logits, labels = make_logits(getattr(torch, dtype))
        if ours:
            losses = loss.token_losses(logits, labels)
        else:
            wide = logits.double() if dtype == "float64" else logits.float()
            losses = torch.nn.functional.cross_entropy(wide, labels, reduction="none")
        (losses * weights).sum().backward()
        found.append((losses.detach(), logits.grad))
    (losses, gradient), (own_losses, own_gradient) = found
    assert losses.dtype == own_losses.dtype
    assert torch.equal(losses, own_losses)
    assert gradient.dtype == own_gradient.dtype
    torch.testing.assert_close(gradient, own_gradient, rtol=rounding, atol=rounding)


def test_a_label_that_cannot_be_is_told_and_no_rows_have_no_losses() -> None:
    logits, labels = make_logits(torch.float32)
    with pytest.raises(IndexError, match="out of bounds"):
        loss.token_losses(logits, labels + VOCABULARY)
    assert loss.token_losses(logits[:0], labels[:0]).shape == (0,)


def test_a_loss_without_bounds_is_not_hidden() -> None:
    logits, labels = make_logits(torch.float32)
    with torch.no_grad():
        logits[2] = torch.nan
    losses = loss.token_losses(logits, labels)
    assert losses.isnan().tolist() == [row == 2 for row in range(TOKENS)]
