"""Compute transformers' RMSNorm modules with a frozen weight by one function each."""

from typing import Any

import torch
from torch import Tensor, nn

from sparselora.sparse.backbone.architectures import is_class_of_a_row
from sparselora.sparse.ops.rms_norm import RMSNormFunction
from sparselora.sparse.swap import mixed

_FUSED = (torch.float32, torch.bfloat16, torch.float16)


class _FastNorm:
    """Normalise by one function; mixed into the class of a norm."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        original: Any = super()
        module: Any = self
        weight: Tensor = module.weight
        output: Tensor
        same = hidden_states.dtype == weight.dtype and not weight.requires_grad
        if same and hidden_states.is_cuda and weight.dtype in _FUSED:
            # torch's one kernel each way, which rounds once where the original does twice.
            with torch.autocast("cuda", enabled=False):
                output = nn.functional.rms_norm(
                    hidden_states, weight.shape, weight, module.variance_epsilon
                )
        elif same and weight.dtype == torch.float32:
            # Of other types the original computes in float32, and its casts are part of the result.
            output = RMSNormFunction.apply(hidden_states, weight, module.variance_epsilon)
        else:
            output = original.forward(hidden_states)
        return output


def fast_norm(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the class to put in the place of a norm's, None where no row names that as one's."""
    return mixed(_FastNorm, kind) if is_class_of_a_row(kind, "rms_norm_class") else None
