"""torch's dropout module with the masks of `ops.dropout` on a CPU."""

from typing import Any

from torch import Tensor, nn

from sparselora.sparse.ops.dropout import DropoutFunction, takes
from sparselora.sparse.swap import mixed


class _Fast:
    """Mixed into the class of an `nn.Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        whole: Any = super()
        module: Any = self
        output: Tensor
        if module.training and not module.inplace and takes(input, module.p):
            output = DropoutFunction.apply(input, module.p)
        else:
            output = whole.forward(input)
        return output


FastDropout = mixed(_Fast, nn.Dropout)


def fast_dropout(kind: type[nn.Module]) -> type[nn.Module] | None:
    """What stands in for a dropout; None where it is of another class."""
    return FastDropout if kind is nn.Dropout else None
