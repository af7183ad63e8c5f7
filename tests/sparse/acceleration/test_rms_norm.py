"""RMSNorm as one function, against transformers' own."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sparselora import accelerate
from sparselora.sparse.acceleration.rms_norm import CLASSES, fast_norm
from sparselora.sparse.ops.rms_norm import RMSNormFunction
from tests.conftest import tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, gradients


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), width=st.integers(1, 9), seed=st.integers(0, 999))
def test_function_against_autograd(rows: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, width, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(width, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda each: RMSNormFunction.apply(each, weight, 1e-6), x)
    expected = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
    torch.testing.assert_close(RMSNormFunction.apply(x, weight, 1e-6), expected)


def test_a_zero_row_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    RMSNormFunction.apply(x, torch.ones(4), 1e-6).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("model_type", ["llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"])
def test_models_take_it_and_give_the_same(model_type: str) -> None:
    model = tiny_model(model_type)
    expected = gradients(copy.deepcopy(model), tiny_batch())
    norms = [m for m in model.modules() if type(m).__name__ in CLASSES]
    assert len(norms) >= 7
    faster = accelerate(model)
    there = [m for m in model.modules() if isinstance(m, type(norms[0]))]
    assert all(type(module).__name__.startswith("Fast") for module in there)
    assert_all_close(gradients(model, tiny_batch()), expected, rtol=1e-4, atol=1e-5)
    faster.remove()
    after = [m for m in model.modules() if type(m).__name__ in CLASSES]
    assert all(one is other for one, other in zip(norms, after, strict=True))


def test_what_is_not_this_formula_is_left_alone() -> None:
    assert fast_norm(GemmaRMSNorm) is None  # which scales by 1 + w
    assert fast_norm(nn.LayerNorm) is None
    kind = fast_norm(LlamaRMSNorm)
    assert kind is not None
    trained = LlamaRMSNorm(6)
    assert trained.weight.requires_grad
    model = nn.Sequential(trained)
    model[0].__class__ = kind
    model(torch.randn(2, 6)).sum().backward()
    assert trained.weight.grad is not None
    half = LlamaRMSNorm(6).requires_grad_(False)
    x = torch.randn(3, 6).bfloat16()
    expected = half(x)
    half.__class__ = kind
    assert torch.equal(half(x), expected)
