"""The faster path around the FFN against PEFT's and torch's own, output and every gradient."""

import copy
import pickle

import pytest
import torch

from sparselora import sparsify
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.acceleration.dropout import FastDropout
from sparselora.sparse.acceleration.lora import FastLoraLinear
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, assert_as_near, gradients

CPU = torch.device("cpu")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_equals_peft_where_nothing_is_dropped(model_type: str) -> None:
    model = tiny_model(model_type).double()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    accelerate(model)
    fast = [module for module in model.modules() if isinstance(module, FastLoraLinear)]
    assert fast
    assert_all_close(gradients(model, tiny_batch()), expected)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama"])
def test_remove_is_an_exact_inverse(model_type: str) -> None:
    model = tiny_model(model_type, dropout=0.2)
    modules = dict(model.named_modules())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    implementation = model.config._attn_implementation
    acceleration = accelerate(model)
    assert any(isinstance(module, FastDropout) for module in model.modules())
    assert model.state_dict().keys() == state.keys()
    model(**tiny_batch()).loss.backward()
    model.eval()
    acceleration.remove()
    after = dict(model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert not any(module.training for module in model.modules())
    assert model.config._attn_implementation == implementation
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    acceleration.remove()


def test_checkpointing_draws_the_same_masks_again() -> None:
    results = []
    for checkpointing in (False, True):
        model = tiny_model("bert", dropout=0.2).double()
        accelerate(model)
        sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
        # Who looks gets the whole last layer, as under checkpointing.
        model.get_base_model().bert.encoder.register_forward_hook(lambda *_: None)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(4)
        results.append(gradients(model, tiny_batch()))
    assert_all_close(results[1], results[0])


def test_bf16_under_autocast() -> None:
    model = tiny_model("distilbert")
    exact = gradients(copy.deepcopy(model), tiny_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stock = gradients(copy.deepcopy(model), tiny_batch())
        accelerate(model)
        fast = gradients(model, tiny_batch())
    assert all(tensor.dtype == stock[name].dtype for name, tensor in fast.items())
    assert_as_near(fast, stock, exact)


def test_a_deep_copy_is_accelerated_and_on_its_own() -> None:
    model = tiny_model("bert", dropout=0.1)
    accelerate(model)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.add_(1.0)
    assert any(isinstance(module, FastLoraLinear) for module in clone.modules())
    fast = next(m for m in model.modules() if isinstance(m, FastLoraLinear))
    other = next(m for m in clone.modules() if isinstance(m, FastLoraLinear))
    assert not torch.equal(fast.base_layer.weight, other.base_layer.weight)


def test_an_accelerated_model_is_pickled_whole() -> None:
    model = tiny_model("llama")
    accelerate(model)
    again = pickle.loads(pickle.dumps(model))
    assert [type(module) for module in again.modules()] == [type(m) for m in model.modules()]
    torch.testing.assert_close(again(**tiny_batch()).logits, model(**tiny_batch()).logits)
