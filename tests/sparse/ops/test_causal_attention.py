"""Causal attention by blocks against torch's own, output and every gradient."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sparselora import accelerate
from sparselora.sparse.ops import causal_attention as module
from sparselora.sparse.ops.causal_attention import BLOCK, CausalAttentionFunction, causal_attention
from tests.sparse.blocks.test_ffn import assert_all_close, gradients
from tests.sparse.channels.test_tokens import FLOAT32_LOSS, tiny_decoder

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
    # What torch's own front checks or broadcasts, and the kernel does not.
    for wrong in (
        (query, key[:1], value[:1]),
        (query[:1], key, value),
        (query[:, :5], key, value),
        (query, key, value[:, :1]),
        (query, key.transpose(2, 3).contiguous().transpose(2, 3), value),
        tuple(nn.Parameter(each) for each in (query, key, value)),
    ):
        assert causal_attention(*wrong, None, 1.0) is None
    both_ways = torch.ones(2, 1, length, length, dtype=torch.bool)
    assert causal_attention(query, key, value, both_ways, 1.0) is None
    prefix = padded(length, "right")
    prefix[0, 0, 0, 1] = True  # one later token is seen
    assert causal_attention(query, key, value, prefix, 1.0) is None
    assert causal_attention(query, key, value, torch.zeros(1, 1, length, length), 1.0) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert causal_attention(query, key, value, None, 1.0) is None


def test_bf16_is_as_near_as_torchs() -> None:
    # An earlier version summed the gradients of key and value over the blocks in bfloat16.
    exact = drawn(1024)
    half = [each.detach().bfloat16().requires_grad_() for each in exact]

    def torchs(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        ).transpose(1, 2)

    def of(output: Tensor | None, inputs: list[Tensor]) -> list[Tensor]:
        assert output is not None
        assert output.dtype == inputs[0].dtype
        grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
        return [output, *torch.autograd.grad(output, inputs, grad.to(output.dtype))]

    reference, theirs = of(torchs(*exact), exact), of(torchs(*half), half)
    ours = of(causal_attention(*half, None, 8**-0.5), half)
    for one, other, right in zip(ours, theirs, reference, strict=True):
        assert (one.float() - right).norm() <= 1.2 * (other.float() - right).norm()


def test_a_mask_that_is_filled_anew_is_looked_at_anew() -> None:
    # An earlier version knew a mask by its identity alone.
    length = LENGTHS[0]
    query, key, value = drawn(length)
    mask = padded(length, "right")
    with torch.inference_mode():
        causal_attention(query.detach(), key.detach(), value.detach(), mask, 0.3)
    first = causal_attention(query, key, value, mask, 0.3)
    mask.copy_(padded(length, "left"))
    got = causal_attention(query, key, value, mask, 0.3)
    expected = causal_attention(query, key, value, padded(length, "left"), 0.3)
    assert first is not None
    assert got is not None
    assert torch.equal(got, expected)
    assert not torch.equal(got, first)
    got.sum().backward()
    mask.fill_(True)
    assert causal_attention(query, key, value, mask, 0.3) is None


def test_default_devices_do_not_matter() -> None:
    length = LENGTHS[0] + 8
    query, key, value = drawn(length)
    module._triangle.cache_clear()
    with torch.device("meta"):
        got = causal_attention(query, key, value, None, 0.3)
    module._triangle.cache_clear()
    assert torch.equal(got, causal_attention(query, key, value, None, 0.3))


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
    layers, looked = model.config.num_hidden_layers, []
    made = module._made
    monkeypatch.setattr(module, "_made", lambda *args: looked.append(1) or made(*args))
    expected = gradients(copy.deepcopy(model), batch)
    accelerate(model)
    got = gradients(model, batch)
    assert calls == [side is None] * layers
    assert len(looked) == (side is not None)  # once, for all layers
    assert_all_close(got, expected, rtol=1e-3, atol=FLOAT32_LOSS["atol"])
