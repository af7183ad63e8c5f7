"""A dense gated FFN as one function, against transformers' own."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from sparselora import accelerate
from sparselora.sparse.acceleration.gated_ffn import fast_ffn
from tests.conftest import tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import (
    assert_all_close,
    assert_as_near,
    gradients,
    with_lora_on_the_ffn,
)


@pytest.mark.parametrize("model_type", ["gemma", "llama", "mistral", "qwen2", "qwen3", "smollm3"])
def test_equals_the_original(model_type: str) -> None:
    model = tiny_model(model_type).double()
    for name, parameter in model.named_parameters():
        if "mlp" in name and name.endswith("bias"):  # LLaMA's may have some, and they may train
            nn.init.normal_(parameter)
            parameter.requires_grad_()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    originals = [m for m in model.modules() if fast_ffn(type(m))]
    assert len(originals) == 3
    faster = accelerate(model)
    there = [m for m in model.modules() if isinstance(m, type(originals[0]))]
    assert [type(module).__name__[:4] for module in there] == ["Fast"] * 3
    assert_all_close(gradients(model, tiny_batch()), expected)
    faster.remove()
    after = [m for m in model.modules() if fast_ffn(type(m))]
    assert all(one is other for one, other in zip(originals, after, strict=True))


def test_less_is_kept_for_the_backward_pass() -> None:
    kept = []
    for fast in (False, True):
        model = tiny_model("llama")
        if fast:
            accelerate(model)
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            if tensor.dim() > 1 and tensor.shape[-1] == 37 and tensor.numel() == 36 * 37:
                count += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**tiny_batch())
        kept.append(count)
    assert kept[1] == 2 * 3 < kept[0]


def test_lora_on_the_ffn_and_evaluation_go_the_original_way() -> None:
    model = with_lora_on_the_ffn("llama").double()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    accelerate(model)
    assert_all_close(gradients(model, tiny_batch()), expected)
    plain = tiny_model("llama").eval()
    logits = plain(**tiny_batch()).logits
    accelerate(plain)
    torch.testing.assert_close(plain(**tiny_batch()).logits, logits)


def test_bf16_under_autocast() -> None:
    model = tiny_model("llama")
    expected = gradients(copy.deepcopy(model), tiny_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = gradients(copy.deepcopy(model), tiny_batch())
    accelerate(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(model, tiny_batch())
    assert_as_near(got, dense, expected)


def test_others_are_left_alone() -> None:
    assert fast_ffn(nn.Linear) is None
    assert fast_ffn(LlamaMLP) is fast_ffn(LlamaMLP)
