"""Causal attention by blocks against torch's own, output and every gradient."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparselora import accelerate
from sparselora.sparse import causal_attention as module
from sparselora.sparse.causal_attention import BLOCK, CausalAttentionFunction, causal_attention
from tests.sparse.test_ffn import assert_all_close, gradients
from tests.sparse.test_tokens import FLOAT32_LOSS, tiny_decoder

LENGTHS = [BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 7]


def drawn(
    length: int, heads: int = 6, groups: int = 2, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Query, key and value, laid out as a model's are."""
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(2, length, count, 8, generator=generator, dtype=dtype)
        .transpose(1, 2)
        .requires_grad_()
        for count in (heads, groups, groups)
    ]


def padded(length: int, side: str) -> Tensor:
    """(2, 1, T, T): causal, with a row of which a third is padding."""
    real = torch.ones(2, length, dtype=torch.bool)
    third = length // 3
    real[1, slice(-third, None) if side == "right" else slice(third)] = False
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return causal & real[:, None, None, :]


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("length", LENGTHS)
def test_output_and_gradients(length: int, side: str | None, groups: int) -> None:
    query, key, value = drawn(length, groups=groups)
    mask = None if side is None else padded(length, side)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    got = causal_attention(query, key, value, mask, 0.3)
    assert got is not None
    # A padding query on the left attends to nothing, in torch's too.
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(0))
    for one, other in zip(
        torch.autograd.grad(got, (query, key, value), grad),
        torch.autograd.grad(expected, (query, key, value), grad),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert torch.isfinite(one).all()


def test_what_it_is_not_for() -> None:
    length = LENGTHS[0]
    query, key, value = drawn(length)
    assert causal_attention(*drawn(BLOCK), None, 1.0) is None  # one block
    assert causal_attention(query[:, :, -1:], key, value, None, 1.0) is None  # a cache before it
    assert causal_attention(query, key, value[..., :4], None, 1.0) is None
    assert causal_attention(query.double(), key, value, None, 1.0) is None
    both_ways = torch.ones(2, 1, length, length, dtype=torch.bool)
    assert causal_attention(query, key, value, both_ways, 1.0) is None
    prefix = padded(length, "right")
    prefix[0, 0, 0, 1] = True  # one later token is seen
    assert causal_attention(query, key, value, prefix, 1.0) is None
    assert causal_attention(query, key, value, torch.zeros(1, 1, length, length), 1.0) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert causal_attention(query, key, value, None, 1.0) is None


def test_bf16_is_as_near_as_torchs() -> None:
    length = LENGTHS[2]
    exact = scaled_dot_product_attention(*drawn(length, groups=6), is_causal=True).transpose(1, 2)
    half = [each.detach().bfloat16() for each in drawn(length, groups=6)]
    theirs = scaled_dot_product_attention(*half, is_causal=True).transpose(1, 2)
    got = causal_attention(*half, None, 8**-0.5)
    assert got is not None
    assert got.dtype == torch.bfloat16
    assert (got.float() - exact).norm() <= 1.5 * (theirs.float() - exact).norm()


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2", "opt"])
def test_models_take_it_and_give_the_same(
    model_type: str, side: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Counted(CausalAttentionFunction):
        @staticmethod
        def forward(ctx: object, *arguments: Tensor) -> Tensor:
            calls.append(arguments[3] is None)
            return CausalAttentionFunction.forward(ctx, *arguments)

    monkeypatch.setattr(module, "CausalAttentionFunction", Counted)
    length = 2 * BLOCK - 1
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 30, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    if side is not None:
        mask[1, slice(-40, None) if side == "right" else slice(40)] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    batch["labels"] = ids.masked_fill(mask == 0, -100)
    model = tiny_decoder(model_type)
    layers = model.config.num_hidden_layers
    expected = gradients(copy.deepcopy(model), batch)
    accelerate(model)
    got = gradients(model, batch)
    assert calls == [side is None] * layers
    assert len(module._ADDITIVE) <= 1  # a mask is looked at once, for all layers
    assert_all_close(got, expected, rtol=1e-3, atol=FLOAT32_LOSS["atol"])
