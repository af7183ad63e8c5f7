"""Give torch's dropout module the masks of `ops.dropout` on a CPU."""

from typing import Any

from torch import Tensor, nn

from sparselora.sparse.ops.dropout import DropoutFunction, takes
from sparselora.sparse.swap import mixed


class _FastDropout:
    """Draw masks by numpy; mixed into the class of an `nn.Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        original: Any = super()
        module: Any = self
        output: Tensor
        if module.training and not module.inplace and takes(input, module.p):
            output = DropoutFunction.apply(input, module.p)
        else:
            output = original.forward(input)
        return output


FastDropout = mixed(_FastDropout, nn.Dropout)


def fast_dropout(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the class to put in the place of torch's dropout, None where `kind` is another."""
    return FastDropout if kind is nn.Dropout else None
