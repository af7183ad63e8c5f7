"""Linear layers read as (out, in), whatever holds them."""

from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from sparselora import UserError
from sparselora.sparse.backbone.linear_layer import LinearLayer, check_sliceable, whole_parameter


class Model(nn.Module):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.up = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.up(x)
        return output


def with_lora(linear: nn.Module, **settings: Any) -> Any:
    config = LoraConfig(r=2, target_modules=["up"], init_lora_weights=False, **settings)
    return get_peft_model(Model(linear), config).base_model.model


@pytest.mark.parametrize("part", [None, 0, 1])
@pytest.mark.parametrize("has_lora", [False, True])
@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 8), lambda: Conv1D(8, 3)])
def test_applies_what_the_module_does(make: Any, has_lora: bool, part: int | None) -> None:
    module = with_lora(make(), fan_in_fan_out=False).up if has_lora else make()
    linear = LinearLayer(module, part)
    x = torch.randn(5, 3)
    rows = slice(None) if part is None else (slice(0, 4), slice(4, 8))[part]
    torch.testing.assert_close(linear(x), module(x)[:, rows])
    assert linear.shape == tuple(linear.weight.shape) == (8 if part is None else 4, 3)
    assert (linear.adapter is not None) == has_lora
    if linear.adapter is not None:
        product = linear.adapter.scaling * linear.adapter.b @ linear.adapter.a
        expected = linear(x) - nn.functional.linear(x, linear.weight, linear.bias)
        torch.testing.assert_close(x @ product.T, expected)


def test_an_adapter_that_is_off_or_merged_is_none() -> None:
    module = with_lora(nn.Linear(3, 4)).up
    linear = LinearLayer(module)
    before = linear.merged
    module.enable_adapters(False)
    assert linear.adapter is None
    module.enable_adapters(True)
    assert linear.adapter is not None
    assert linear.merged == before
    module.merge()
    assert linear.adapter is None
    assert linear.merged != before


def test_a_weight_that_is_loaded_anew_is_another() -> None:
    linear = LinearLayer(nn.Linear(3, 4))
    before = linear.merged
    linear.module.load_state_dict(nn.Linear(3, 4).state_dict())
    assert linear.merged != before


def test_two_active_adapters_are_refused() -> None:
    module = with_lora(nn.Linear(3, 4)).up
    module.update_layer("other", r=2, lora_alpha=2, config=LoraConfig(r=2))
    module.set_adapter(["default", "other"])
    with pytest.raises(UserError, match=r"\['default', 'other'\] are active at once"):
        _ = LinearLayer(module).adapter


def test_autocast_says_the_dtype() -> None:
    linear = LinearLayer(nn.Linear(3, 4))
    x = torch.randn(2, 3)
    assert linear.dtype(x) == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear.dtype(x) == torch.bfloat16
        assert linear.returned(x, x).dtype == torch.bfloat16


def test_a_weight_that_is_no_parameter_is_refused() -> None:
    linear = nn.Linear(3, 4)
    assert whole_parameter(linear) is linear.weight
    weight = linear.weight
    del linear.weight
    linear.weight = weight.detach()  # type: ignore[assignment]
    with pytest.raises(UserError, match="sharded over devices"):
        whole_parameter(linear)


def frozen(linear: nn.Module) -> Model:
    return Model(linear.requires_grad_(False))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Model(nn.Linear(3, 4)), r"layer\.0\.up\.weight trains"),
        (frozen(nn.Bilinear(3, 3, 4)), "is a Bilinear; a linear layer"),
        (with_lora(nn.Linear(3, 4), use_dora=True), "carries a variant of LoRA"),
        (with_lora(nn.Embedding(3, 4)), r"is PEFT's Embedding \(LORA\); a linear layer"),
    ],
)
def test_what_slicing_does_not_take(layer: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_sliceable(layer, "up", "layer.0", "FFN")


@pytest.mark.parametrize(
    "layer",
    [frozen(nn.Linear(3, 4)), frozen(Conv1D(4, 3)), with_lora(nn.Linear(3, 4))],
)
def test_what_slicing_takes(layer: nn.Module) -> None:
    check_sliceable(layer, "up", "layer.0", "FFN")


def test_peft_is_the_library_that_is_meant() -> None:
    assert type(with_lora(nn.Linear(3, 4)).up) is peft.tuners.lora.layer.Linear
