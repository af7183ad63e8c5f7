"""Rotations in attention modules as one function each, against transformers' own."""

import copy
import functools
from typing import Any

import pytest
import torch
import transformers.models.llama.modeling_llama as modeling_llama
from torch import Tensor
from transformers.models.phi3.modeling_phi3 import Phi3Attention

from sparselora import accelerate
from sparselora.sparse.acceleration import rotary
from sparselora.sparse.acceleration.rotary import fast_rotary
from sparselora.sparse.ops.rotary import RotaryFunction
from tests.conftest import tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, gradients

MODELS = ["gemma", "llama", "mistral", "qwen2", "qwen3", "smollm3"]


@pytest.mark.parametrize("model_type", MODELS)
def test_models_take_it_and_give_the_same(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Counted(RotaryFunction):
        @staticmethod
        def forward(ctx: object, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            calls.append(x.shape)
            return RotaryFunction.forward(ctx, x, cos, sin)

    model = tiny_model(model_type)
    expected = gradients(copy.deepcopy(model), tiny_batch())
    originals = [m for m in model.modules() if fast_rotary(type(m))]
    monkeypatch.setattr(rotary, "RotaryFunction", Counted)
    faster = accelerate(model)
    assert_all_close(gradients(model, tiny_batch()), expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == 2 * len(originals)
    faster.remove()
    after = [m for m in model.modules() if fast_rotary(type(m))]
    assert after
    assert all(one is other for one, other in zip(originals, after, strict=True))


def test_the_module_of_transformers_is_untouched() -> None:
    before, forward = dict(vars(modeling_llama)), modeling_llama.LlamaAttention.forward
    model = tiny_model("llama")
    accelerate(model)
    model(**tiny_batch()).loss.backward()
    assert vars(modeling_llama) == before
    assert modeling_llama.LlamaAttention.forward is forward


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_another_puts_in_its_place_is_called(
    wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An earlier version kept the globals of the first call, and took a wrapper for the original.
    original, calls = modeling_llama.apply_rotary_pos_emb, []

    def other(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0].shape)
        return original(*args, **kwargs)

    model = tiny_model("llama")
    accelerate(model)
    model(**tiny_batch())
    replaced = functools.wraps(original)(other) if wrapped else other
    monkeypatch.setattr(modeling_llama, rotary.APPLIED, replaced)
    model(**tiny_batch())
    assert len(calls) == model.config.num_hidden_layers
    monkeypatch.undo()
    eager = modeling_llama.eager_attention_forward
    monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", Interface(calls, eager))
    model(**tiny_batch())
    assert calls[-1] == "another interface"


class Interface:
    """Stands where the table of attention functions does."""

    def __init__(self, calls: list[Any], function: Any) -> None:
        self.calls, self.function = calls, function

    def get_interface(self, *_: Any) -> Any:
        self.calls.append("another interface")
        return self.function


def test_a_class_of_another_package_is_left_alone() -> None:
    kind = type("LlamaAttention", (modeling_llama.LlamaAttention,), {"__module__": "elsewhere"})
    assert fast_rotary(kind) is None


def test_others_are_left_alone() -> None:
    assert fast_rotary(Phi3Attention) is None  # which rotates a part of a head
    assert fast_rotary(torch.nn.Linear) is None


@pytest.mark.parametrize("checkpointed", [False, True])
def test_half_precision_is_the_originals(checkpointed: bool) -> None:
    model = tiny_model("llama").bfloat16()
    if checkpointed:
        model.gradient_checkpointing_enable()
    attentions = [m for m in model.modules() if fast_rotary(type(m))]
    expected = gradients(copy.deepcopy(model), tiny_batch())
    for module in attentions:
        kind = fast_rotary(type(module))
        assert kind is not None
        module.__class__ = kind
    got = gradients(model, tiny_batch())
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
