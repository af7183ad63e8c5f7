"""Read frozen layers that hold weights in 4 bits, as QLoRA does (Dettmers et al. 2023, section 3).

They are bitsandbytes', which is looked up among what is loaded: a model that holds such layers has
loaded it, and no other needs it.
"""

import sys
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.errors import UserError

_PACKS = "support_avx512bf16_for_cpu"
"""The attribute of a layer, set by bitsandbytes where it is made, that it looks at in evaluation."""
_HOLDERS = "_sparselora_holders"
"""The attribute that holds how many keep it from packing, and what it was."""


def is_quantized(linear: nn.Module) -> bool:
    """Return whether a linear layer holds its weight in 4 bits."""
    library: Any = None if type(linear) is nn.Linear else sys.modules.get("bitsandbytes")
    return library is not None and isinstance(linear, library.nn.Linear4bit)


def dequantized(linear: nn.Module) -> Tensor:
    """Return the weight, (out, in), computed from the bits, in the dtype that was quantized.

    Raises:
        UserError: bitsandbytes has packed the layer for inference, which rounds it once more.
    """
    _check_trainable(linear)
    parameter: Any = linear.get_parameter("weight")
    library: Any = sys.modules["bitsandbytes"]
    weight: Tensor = library.functional.dequantize_4bit(parameter.data, _state(linear))
    return weight


def _state(linear: Any) -> Any:
    # A parameter that was pickled, or sharded, has lost it; its layer has it still.
    state = getattr(linear.weight, "quant_state", None)
    return linear.quant_state if state is None else state


def _check_trainable(linear: nn.Module) -> None:
    if getattr(_state(linear), "packing_format_for_cpu", False):
        raise UserError(
            "model: bitsandbytes has packed its 4-bit weights for inference, as it does in an evaluation "
            "on a CPU, and no gradient passes them; load the model anew, and evaluate it after sparsify "
            "or accelerate"
        )


def compute_dtype(linear: nn.Module, hidden_states: Tensor) -> torch.dtype:
    """Return the dtype that a layer of 4 bits multiplies in, autocast aside."""
    asked: Any = linear.compute_dtype
    return asked if isinstance(asked, torch.dtype) else hidden_states.dtype


class Version:
    """Stand for the weight that a layer of 4 bits holds: equal where it is the very same object.

    PEFT puts another in its place where it merges an adapter, and where it takes it out again.
    """

    def __init__(self, parameter: nn.Parameter | None = None) -> None:
        self._parameter = (lambda: None) if parameter is None else weakref.ref(parameter)

    def __eq__(self, other: object) -> bool:
        own = self._parameter()
        return own is not None and isinstance(other, Version) and other._parameter() is own

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Version, ()  # a copy is of another model


def keep_trainable(model: nn.Module) -> list[nn.Module]:
    """Have the 4-bit layers of a model stay as they are in evaluation.

    On a CPU with bfloat16 instructions bitsandbytes packs a layer anew in its first evaluation: scales
    are rounded to bfloat16, and what trains afterwards gets no gradient through it.

    Returns:
        What `give_back` takes.

    Raises:
        UserError: one is packed already.
    """
    held = [module for module in model.modules() if is_quantized(module)]
    for module in held:  # all of them before any is touched
        _check_trainable(module)
    for module in held:
        state = module.__dict__
        if _HOLDERS not in state:
            state[_HOLDERS] = [0, state.get(_PACKS, False)]
        state[_HOLDERS][0] += 1
        state[_PACKS] = False
    return held


def give_back(held: list[nn.Module]) -> None:
    """Undo `keep_trainable`; the last one that asked for it gives a layer its own way back."""
    for module in held:
        state = module.__dict__
        state[_HOLDERS][0] -= 1
        if not state[_HOLDERS][0]:
            state[_PACKS] = state.pop(_HOLDERS)[1]
