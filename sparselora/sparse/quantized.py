"""Frozen linear maps that hold their weights in 4 bits, as QLoRA does (Dettmers et al. 2023, section 3).

They are bitsandbytes', which is looked up among what is loaded: a model that holds such maps has loaded
it, and no other needs it.
"""

import sys
from typing import Any

import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn

from sparselora.errors import UserError

_PACKS = "support_avx512bf16_for_cpu"
"""The attribute of a map, set by bitsandbytes where it is made, that it looks at in evaluation."""


def is_quantized(linear: nn.Module) -> bool:
    """Whether a map holds its weight in 4 bits."""
    library: Any = None if type(linear) is nn.Linear else sys.modules.get("bitsandbytes")
    return library is not None and isinstance(linear, library.nn.Linear4bit)


def dequantized(linear: nn.Module) -> Tensor:
    """(out, in), computed from the bits each time, in the dtype that was quantized.

    Raises:
        UserError: bitsandbytes has packed the map for inference, which rounds it once more.
    """
    parameter: Any = linear.get_parameter("weight")
    if getattr(parameter.quant_state, "packing_format_for_cpu", False):
        raise UserError(
            "model: bitsandbytes has packed its 4-bit weights for inference, as it does in an evaluation "
            "on a CPU, and no gradient passes them; load the model anew, and evaluate it after sparsify "
            "or accelerate"
        )
    weight: Tensor = dequantize_bnb_weight(parameter)
    return weight


def compute_dtype(linear: nn.Module, hidden_states: Tensor) -> torch.dtype:
    """What a map that holds 4 bits multiplies in, autocast aside."""
    asked: Any = linear.compute_dtype
    return asked if isinstance(asked, torch.dtype) else hidden_states.dtype


def keep_trainable(model: nn.Module) -> list[nn.Module]:
    """Have the 4-bit maps of `model` stay as they are in evaluation; → those that this changed.

    On a CPU with bfloat16 instructions bitsandbytes packs a map anew in its first evaluation: its scales
    are rounded to bfloat16, and what trains afterwards gets no gradient through it.
    """
    changed = [
        module
        for module in model.modules()
        if is_quantized(module) and getattr(module, _PACKS, False)
    ]
    for module in changed:
        setattr(module, _PACKS, False)
    return changed


def give_back(changed: list[nn.Module]) -> None:
    """Undo `keep_trainable`."""
    for module in changed:
        setattr(module, _PACKS, True)
