from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import MakeByteModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from humpback.engines import attending_flash, hf_base
from humpback.engines.attending import KeysValues, PackSeen
from humpback.engines.attending_flash import FlashSeen, Ragged
from humpback.engines.base import Sampling
from humpback.engines.hf import HFEngine
from humpback.engines.packs import LONG, Row, build_pack
from humpback.prompts import Continuation, Prompt

CPU = torch.device("cpu")
HEADS, KEY_HEADS, WIDTH = 4, 2, 8


def attend_plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ragged: Ragged, scale: float | None
) -> torch.Tensor:
    """What a flash kernel does with a variable-length batch, sequence by sequence."""
    out = torch.empty_like(query)
    bounds = zip(ragged.query_ends.tolist(), ragged.key_ends.tolist(), strict=True)
    (q_start, k_start), *rest = bounds
    for q_end, k_end in rest:
        queries, keys = q_end - q_start, k_end - k_start
        assert 0 < queries <= min(keys, ragged.longest_query)
        assert keys <= ragged.longest_key
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        q, k, v = (t[None].transpose(1, 2) for t in (query[q_start:q_end], key[k_start:k_end], value[k_start:k_end]))
        out[q_start:q_end] = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=True
        ).transpose(1, 2)[0]
        q_start, k_start = q_end, k_end
    assert (q_start, k_start) == (len(query), len(key))
    return out


def make_states(rows: Sequence[Row], skipped: int) -> tuple[Any, KeysValues | None, Sequence[torch.Tensor]]:
    pack = build_pack(rows, skipped=skipped)
    torch.manual_seed(0)

    def states(heads: int, tokens: int) -> torch.Tensor:
        return torch.randn(1, heads, tokens, WIDTH)

    before = [(states(KEY_HEADS, skipped), states(KEY_HEADS, skipped))] if skipped else None
    size = len(pack.token_ids)
    return pack, before, (states(HEADS, size), states(KEY_HEADS, size), states(KEY_HEADS, size))


HEAD = tuple(range(1000, 1020))
ROWS = st.lists(
    st.lists(
        st.sampled_from([tuple(range(9)), tuple(range(40, 70)), (5,), tuple(range(100, 160))]), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=10,
)


@given(ROWS, st.sampled_from([0, 20]), st.sampled_from([60, 10_000]))
@settings(max_examples=40, deadline=None)
def test_one_call_for_the_pack_sees_what_its_blocks_see(parts: list[list[Row]], skipped: int, gathered: int) -> None:
    rows = [HEAD[:skipped] + tuple(t for part in row for t in part) for row in parts]
    pack, before, (query, key, value) = make_states(rows, skipped)
    blocks = PackSeen(pack, before, keep=True, device=CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attending_flash, "GATHERED", gathered)
        flash = FlashSeen(pack, before, keep=True, device=CPU, kernel=attend_plainly)
    one, other = (seen.attend(0, query, key, value, 0.3) for seen in (blocks, flash))
    assert torch.allclose(one, other, atol=1e-5)
    assert flash.kept[0][0] is key
    assert blocks.kept[0][0] is key


def test_a_pack_of_one_new_row_copies_no_keys() -> None:
    pack, before, _ = make_states([tuple(range(30))], 0)
    (call,) = FlashSeen(pack, before, keep=False, device=CPU, kernel=attend_plainly)._calls
    assert call.keys is None


def test_a_long_segment_attends_in_pieces_whose_masks_are_small() -> None:
    row = HEAD + tuple(range(LONG + 100))
    pack, before, (query, key, value) = make_states([row], len(HEAD))
    seen = PackSeen(pack, before, keep=False, device=CPU)
    assert [block.lengths for block, _ in seen._calls] == [(LONG,), (100,)]
    whole = FlashSeen(pack, before, keep=False, device=CPU, kernel=attend_plainly)
    one, other = (s.attend(0, query, key, value, None) for s in (seen, whole))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [8, 64])
def test_a_kernel_is_sound_when_only_rounding_tells_it_from_float32(dtype: torch.dtype, width: int) -> None:
    assert attending_flash.is_sound(attend_plainly, heads=9, key_heads=3, width=width, device=CPU, dtype=dtype)


def see_one_more(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ragged: Ragged, scale: float | None
) -> torch.Tensor:
    shifted = torch.cat([key[1:], key[-1:]]), torch.cat([value[1:], value[-1:]])
    return attend_plainly(query, *shifted, ragged, scale)


def forget_the_scale(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ragged: Ragged, scale: float | None
) -> torch.Tensor:
    return attend_plainly(query, key, value, ragged, 1.0)


@pytest.mark.parametrize("kernel", [see_one_more, forget_the_scale])
def test_a_kernel_that_sees_something_else_is_not_sound(kernel: attending_flash.Kernel) -> None:
    assert not attending_flash.is_sound(kernel, heads=4, key_heads=2, width=64, device=CPU, dtype=torch.bfloat16)


def test_a_model_whose_heads_the_kernel_refuses_attends_block_by_block(
    make_byte_model: MakeByteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> torch.Tensor:
        raise RuntimeError("head dimension must be a multiple of 8")

    monkeypatch.setattr(hf_base, "find_kernel", lambda device, dtype: refuse)
    network = HFEngine(make_byte_model(layers=2), device="cpu")._network
    assert network.packs
    assert network.base.kernel is None


def test_an_engine_answers_the_same_with_the_kernel(
    make_byte_model: MakeByteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_byte_model(layers=2)
    plain = HFEngine(model, device="cpu")
    head = tuple(b"a prompt that all of them begin with, ")
    prompts = [
        Prompt(user="", prefill="", text="", token_ids=(*head, *text), seed=i)
        for i, text in enumerate((b"one of them", b"another", b"one of them, and more of it than before"))
    ]
    targets = [Continuation(text="", token_ids=tuple(text)) for text in (b" ends", b" ends so", b" does not end")]
    sampling = Sampling(temperature=1, top_p=0.9, max_tokens=12)
    expected = plain.loglikelihood(prompts, targets), plain.generate(prompts, sampling)
    plain.close()
    monkeypatch.setattr(hf_base, "find_kernel", lambda device, dtype: attend_plainly)
    hf_base._bases.clear()
    flash = HFEngine(model, device="cpu")
    assert flash._network.base.kernel is attend_plainly
    for one, other in zip(expected[0], flash.loglikelihood(prompts, targets), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
    assert flash.generate(prompts, sampling) == expected[1]
