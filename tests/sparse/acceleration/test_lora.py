"""PEFT's LoRA layer, made faster where it is plain LoRA."""

import copy

import peft
import pytest
import torch
import transformers
from torch import nn

from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.acceleration import lora
from sparselora.sparse.acceleration.lora import FastLoraLinear, fast_lora
from tests.conftest import tiny_batch, tiny_config, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, gradients


def test_peft_sees_its_own_layers() -> None:
    model = tiny_model("bert")
    with model.disable_adapter():
        bare = model(**tiny_batch()).logits
    accelerate(model)
    assert not torch.allclose(model(**tiny_batch()).logits, bare)
    with model.disable_adapter():
        torch.testing.assert_close(model(**tiny_batch()).logits, bare)
    expected = model.eval()(**tiny_batch()).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**tiny_batch()).logits, expected, atol=1e-5, rtol=1e-4)


def test_what_is_not_plain_lora_goes_pefts_way(monkeypatch: pytest.MonkeyPatch) -> None:
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert"))
    model = peft.get_peft_model(
        base,
        peft.LoraConfig(target_modules=["attention.self.query"], use_dora=True, r=4),
    )
    expected = gradients(copy.deepcopy(model.train()), tiny_batch())
    accelerate(model)
    monkeypatch.setattr(lora, "LoRALinearFunction", None)
    assert_all_close(gradients(model, tiny_batch()), expected)


def test_what_is_looked_at_inside_an_adapter_is_called() -> None:
    """The fast path computed with the weights of a map, past hooks that a user had put on it."""
    model = tiny_model("bert")
    seen: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("query.base_layer", "key.lora_A.default", "value.lora_B.default")):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    expected = len([seen for _ in [model(**tiny_batch())] for _ in seen])
    stock = copy.deepcopy(model)
    accelerate(model)
    seen.clear()
    assert_all_close(gradients(model, tiny_batch()), gradients(stock, tiny_batch()))
    assert len(seen) == 2 * expected


def test_others_are_left_alone() -> None:
    assert fast_lora(peft.tuners.lora.layer.Linear) is FastLoraLinear
    assert fast_lora(peft.tuners.lora.layer.Embedding) is None
    assert fast_lora(nn.Linear) is None
