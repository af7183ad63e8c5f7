"""Read a linear layer, whatever holds it: plain, transposed, fused, in 4 bits, with LoRA on it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sparselora.errors import UserError
from sparselora.sparse.backbone.paths import kind_of, required
from sparselora.sparse.backbone.quantized import Version, compute_dtype, dequantized, is_quantized
from sparselora.sparse.compat import PARAMETERS, VERSION
from sparselora.sparse.swap import unmixed


class Adapter(NamedTuple):
    """Hold the LoRA adapter of one linear layer: s · D(x) Aᵀ Bᵀ."""

    a: Tensor
    """A, (r, in)."""
    b: Tensor
    """B, (out, r)."""
    scaling: float
    dropout: nn.Module


def whole_parameter(base: nn.Module) -> nn.Parameter:
    """Return the weight of a frozen linear layer as the model stores it.

    Raises:
        UserError: it has been sharded over devices.
    """
    weight = getattr(base, PARAMETERS).get("weight")
    # FSDP has views in place of parameters, its successor tensors over a mesh of devices.
    if not isinstance(weight, nn.Parameter) or hasattr(weight, "device_mesh"):
        raise UserError(
            "model: its frozen weights are sharded over devices (FSDP); sparse blocks need whole ones: "
            "train by DistributedDataParallel, or leave sparsify out"
        )
    return weight


@dataclass(frozen=True)
class LinearLayer:
    """Read one linear layer as (out, in), whatever module holds it: views of that module's parameters.

    Weights are read anew each time, since a patch or a move to another device changes what lies
    behind the parameter.
    """

    module: nn.Module
    """A linear layer, or PEFT's LoRA layer around one."""
    part: int | None = None
    """0 for the first half of a fused layer's rows, 1 for the second, None for all of them."""

    @property
    def base(self) -> nn.Module:
        """Return the frozen layer, without its adapter, of whatever kind that is."""
        inner: Any = self.module
        while isinstance(inner, BaseTunerLayer):
            inner = inner.base_layer
        base: nn.Module = inner
        return base

    @property
    def weight(self) -> Tensor:
        """Return the weight, (out, in); where it is held in 4 bits, computed from them each time."""
        base = self.base
        if is_quantized(base):
            rows = dequantized(base)
        else:
            parameter = whole_parameter(base)
            rows = parameter.t() if isinstance(base, Conv1D) else parameter
        return rows if self.part is None else rows.chunk(2)[self.part]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the weight's shape, (out, in)."""
        base: Any = self.base
        if isinstance(base, Conv1D):
            rows, columns = base.nf, base.nx
        else:
            rows, columns = base.out_features, base.in_features
        return rows if self.part is None else rows // 2, columns

    @property
    def device(self) -> torch.device:
        """Return the weight's device."""
        return whole_parameter(self.base).device

    def dtype(self, hidden_states: Tensor) -> torch.dtype:
        """Return the dtype that the frozen layer multiplies these in, autocast included."""
        if torch.is_autocast_enabled(hidden_states.device.type):
            return torch.get_autocast_dtype(hidden_states.device.type)
        if is_quantized(self.base):
            return compute_dtype(self.base, hidden_states)
        return whole_parameter(self.base).dtype

    def returned(self, output: Tensor, hidden_states: Tensor) -> Tensor:
        """Return an output in the dtype that the layer gives.

        One of 4 bits gives that of its input, under autocast too.
        """
        own = is_quantized(self.base)
        return output.to(hidden_states.dtype if own else self.dtype(hidden_states))

    @property
    def bias(self) -> Tensor | None:
        """Return the bias, (out,), or None."""
        bias: Tensor | None = self.base.bias  # type: ignore[assignment]
        return bias if bias is None or self.part is None else bias.chunk(2)[self.part]

    @property
    def merged(self) -> tuple[object, ...]:
        """Return what may change of the weight, to compare with what it was.

        That is its version, what is merged into it, and of 4 bits which parameter it is.
        """
        layer: Any = self.module
        names = tuple(layer.merged_adapters) if isinstance(layer, LoraLayer) else ()
        weight = whole_parameter(self.base)
        if is_quantized(self.base):
            return *names, Version(weight)
        if torch.compiler.is_compiling() or weight.is_inference():
            return names
        return *names, getattr(weight, VERSION)  # as a checkpoint that is loaded raises it

    @property
    def adapter(self) -> Adapter | None:
        """Return the active adapter, None where it is switched off, merged or there is none.

        Raises:
            UserError: more than one is active.
        """
        layer: Any = self.module
        if not isinstance(layer, LoraLayer) or layer.disable_adapters or layer.merged:
            return None
        active = [name for name in layer.active_adapters if name in layer.lora_A]
        if not active:
            return None
        if len(active) > 1:
            raise UserError(f"model: adapters {active} are active at once; one is allowed")
        name = active[0]
        b = layer.lora_B[name].weight
        return Adapter(
            layer.lora_A[name].weight,
            b if self.part is None else b.chunk(2)[self.part],
            float(
                layer.scaling[name]
            ),  # a tensor, where a compiled model is to take other adapters
            layer.lora_dropout[name],
        )

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """Apply the layer and its adapter, without the adapter's dropout.

        Shapes: hidden states (…, in); result (…, out).
        """
        dtype = hidden_states.dtype  # PEFT keeps adapters of bfloat16 models in float32
        bias = None if self.bias is None else self.bias.to(dtype)
        output = nn.functional.linear(hidden_states, self.weight.to(dtype), bias)
        adapter = self.adapter
        if adapter is None:
            return output
        low = nn.functional.linear(hidden_states, adapter.a.to(dtype))
        return output + adapter.scaling * nn.functional.linear(low, adapter.b.to(dtype))


def _is_lora(linear: nn.Module) -> bool:
    # AdaLoRA's layers and others are of classes of their own below PEFT's `LoraLayer`.
    kind = unmixed(type(linear))
    of_peft = kind.__module__ in ("peft.tuners.lora.layer", "peft.tuners.lora.bnb")
    return isinstance(linear, LoraLayer) and of_peft and kind.__name__ in ("Linear", "Linear4bit")


def check_sliceable(layer: nn.Module, path: str, name: str, kind: str) -> None:
    """Raise a `UserError` unless the linear layer at a path is what slicing takes.

    Args:
        layer: the model's layer that it is in.
        path: its path below that.
        name: the layer's name, for messages.
        kind: the name of its part (FFN, attention), for messages.

    Raises:
        UserError: it is not a plain, frozen linear layer, with or without one plain LoRA adapter.
    """
    linear: Any = required(layer, path, name)
    where = f"{name}.{path}"
    base = linear.base_layer if _is_lora(linear) else linear
    if unmixed(type(base)) not in (nn.Linear, Conv1D) and not is_quantized(base):
        of = "" if base is linear else f" on {kind_of(base)}"
        raise UserError(
            f"model: {where} is {kind_of(linear)}{of}; a linear layer, plain or in bitsandbytes' 4 "
            f"bits, or PEFT's LoRA on one, is allowed in a sparse {kind}"
        )
    if whole_parameter(base).requires_grad:
        raise UserError(
            f"model: {where}.weight trains; only frozen {kind} weights can be left out "
            "(wrap the model with peft.get_peft_model first)"
        )
    active = [] if base is linear else [n for n in linear.active_adapters if n in linear.lora_A]
    if len(active) > 1:
        raise UserError(f"model: {where} has the adapters {active} active; one is allowed")
    if active and (active[0] in linear.lora_variant or linear.lora_bias[active[0]]):
        raise UserError(
            f"model: {where} carries a variant of LoRA (DoRA, a bias, …); plain LoRA is allowed in a "
            f"sparse {kind}"
        )
