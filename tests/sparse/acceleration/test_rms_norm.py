"""Norms of models as one function each, against transformers' own."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sparselora import accelerate
from sparselora.sparse.acceleration.rms_norm import fast_norm
from tests.conftest import tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, gradients


@pytest.mark.parametrize("model_type", ["llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"])
def test_models_take_it_and_give_the_same(model_type: str) -> None:
    model = tiny_model(model_type)
    expected = gradients(copy.deepcopy(model), tiny_batch())
    norms = [m for m in model.modules() if fast_norm(type(m))]
    assert len(norms) >= 7
    faster = accelerate(model)
    there = [m for m in model.modules() if isinstance(m, type(norms[0]))]
    assert all(type(module).__name__.startswith("Fast") for module in there)
    assert_all_close(gradients(model, tiny_batch()), expected, rtol=1e-4, atol=1e-5)
    faster.remove()
    after = [m for m in model.modules() if fast_norm(type(m))]
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
