"""transformers' RMSNorm modules with a frozen weight, each computed by one function."""

from typing import Any

import torch
from torch import Tensor, nn

from sparselora.sparse.ops.rms_norm import RMSNormFunction
from sparselora.sparse.swap import mixed

CLASSES = frozenset(
    f"{name}RMSNorm" for name in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3", "SmolLM3")
)
"""transformers' classes of this very formula, with `variance_epsilon`; each model has its own."""

_FUSED = (torch.float32, torch.bfloat16, torch.float16)


class _FastNorm:
    """Mixed into such a class, whose instance's state it shares."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        whole: Any = super()
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
            output = whole.forward(hidden_states)
        return output


def fast_norm(kind: type[nn.Module]) -> type[nn.Module] | None:
    """What stands in for a norm of class `kind`; None where it is none of `CLASSES`."""
    return mixed(_FastNorm, kind) if kind.__name__ in CLASSES else None
