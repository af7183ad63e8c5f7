"""Compute a dense, frozen, gated FFN by the sparse one's function, with every channel kept.

It keeps two tensors of the intermediate width for the backward pass where autograd keeps four, and adds
the gate's part of the gradient in place.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sparselora.sparse.backbone.architectures import is_class_of_a_row
from sparselora.sparse.compat import is_bare
from sparselora.sparse.ops.ffn import SparseFFNFunction
from sparselora.sparse.swap import mixed


class _FastFFN:
    """Compute the block by one function where it is frozen; mixed into the class of a gated FFN."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        original: Any = super()
        module: Any = self
        up, gate, down = module.up_proj, module.gate_proj, module.down_proj
        output: Tensor
        if not (module.training and all(map(_is_frozen, (up, gate, down)))):
            output = original.forward(hidden_states)
            return output
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        dtype = up.weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        tensors = (up.weight, up.bias, down.weight.t(), down.bias, gate.weight, gate.bias)
        w1, b1, w2, b2, wg, bg = (None if each is None else each.to(dtype) for each in tensors)
        output = SparseFFNFunction.apply(
            x.to(dtype), w1, b1, w2, b2, module.act_fn, wg, bg, None, None
        )
        return output.view(hidden_states.shape)


def _is_frozen(linear: nn.Module) -> bool:
    # Its bias may train: the function has a gradient for it.
    return type(linear) is nn.Linear and not linear.weight.requires_grad and is_bare(linear)


def fast_ffn(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the class to put in the place of an FFN's, None where no row names that as one's."""
    return mixed(_FastFFN, kind) if is_class_of_a_row(kind, "gated_ffn_class") else None
