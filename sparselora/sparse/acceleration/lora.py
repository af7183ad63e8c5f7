"""Compute PEFT's plain LoRA layer by one autograd function, dense as it is."""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from sparselora.sparse.compat import is_bare
from sparselora.sparse.ops.lora import LoRALinearFunction, adapter_rate
from sparselora.sparse.swap import mixed


class _FastLora:
    """Compute plain LoRA as one function, and anything else PEFT's way; mixed into PEFT's LoRA layer."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        original: Any = super()
        layer: Any = self
        if args or kwargs or not _is_plain(layer, x):
            other: Tensor = original.forward(x, *args, **kwargs)
            return other
        base: nn.Linear = layer.base_layer
        name = layer.active_adapters[0]
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        rate = adapter_rate(layer.lora_dropout[name])
        dtype = x.dtype
        weight: Tensor = base.weight
        bias: Tensor | None = base.bias
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            weight = weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        y: Tensor = LoRALinearFunction.apply(
            x.reshape(-1, x.shape[-1]).to(dtype),
            weight,
            bias,
            a,
            b,
            float(layer.scaling[name]),
            rate,
        )
        return y.view(*x.shape[:-1], y.shape[-1])


FastLoraLinear = mixed(_FastLora, LoraLinear)


def fast_lora(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the class to put in the place of PEFT's LoRA layer, None where `kind` is another."""
    return FastLoraLinear if kind is LoraLinear else None


def _is_plain(layer: LoraLinear, x: Tensor) -> bool:
    base, active = layer.base_layer, layer.active_adapters
    if layer.disable_adapters or layer.merged or len(active) != 1 or not layer.training:
        return False
    name = active[0]
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return False
    if type(base) is not nn.Linear or base.weight.requires_grad:
        return False
    dropout, a, b = layer.lora_dropout[name], layer.lora_A[name], layer.lora_B[name]
    if isinstance(dropout, nn.Dropout) and dropout.training and dropout.p >= 1.0:
        return False
    if not all(map(is_bare, (base, dropout, a, b))):
        return False  # what is called there sees what is in between
    same = x.dtype == base.weight.dtype == a.weight.dtype
    return same or torch.is_autocast_enabled(x.device.type)
