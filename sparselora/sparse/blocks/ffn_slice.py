"""Gather the frozen weights of an FFN block's kept channels, and compute the block with them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparselora.sparse.backbone.ffn import FFNBlock
from sparselora.sparse.backbone.linear_layer import LinearLayer
from sparselora.sparse.channels.compensation import Compensation, Correction
from sparselora.sparse.channels.selector import FFNChannels
from sparselora.sparse.ops.ffn import SparseFFNFunction


@dataclass(eq=False)
class FFNSlice:
    """Hold the frozen weights of one choice of channels, and what stands in for the others."""

    channels: FFNChannels
    """The choice, of k channels, that they are of."""
    lin1: Tensor
    """(k, d); likewise the next two."""
    lin2: Tensor
    gate: Tensor | None
    correction: Correction | None
    merged: tuple[tuple[object, ...], ...]
    """Of each projection when it was sliced, see `LinearLayer.merged`."""

    @classmethod
    def of(
        cls, block: FFNBlock, channels: FFNChannels, compensation: Compensation, dtype: torch.dtype
    ) -> "FFNSlice":
        """Gather the rows and columns of a choice, and fit its correction; the shift keeps its dtype.

        Args:
            block: with its original modules.
            channels: the choice.
            compensation: what stands in for the others.
            dtype: that the step computes in.
        """
        indices = channels.indices
        lin1, lin2, gate = block.weights()
        lin2 = lin2.t().index_select(0, indices)
        lin1 = lin1.index_select(0, indices)
        gate = None if gate is None else gate.index_select(0, indices)
        correction = compensation.correction(indices, lin2)
        if correction is not None and correction.down is not None:
            assert correction.up is not None
            correction = correction._replace(  # the shift is added to a bias
                down=correction.down.to(dtype), up=correction.up.to(dtype)
            )
        return cls(
            channels,
            lin1.to(dtype),
            lin2.to(dtype),
            None if gate is None else gate.to(dtype),
            correction,
            block.merged,
        )

    def serves(self, block: FFNBlock, channels: FFNChannels, dtype: torch.dtype) -> bool:
        """Return whether this is a block's slice still: of that choice, dtype and weights."""
        return (
            self.channels is channels and self.lin1.dtype == dtype and self.merged == block.merged
        )

    def compute(self, block: FFNBlock, x: Tensor) -> Tensor:
        """Compute the block by its kept channels: (N, d) → (N, d), without its dropout."""
        indices, correction, dtype = self.channels.indices, self.correction, self.lin1.dtype
        b1, b2 = _bias(block.lin1, indices), block.lin2.bias
        bg = None if block.gate is None else _bias(block.gate, indices)
        if correction is not None:
            b2 = correction.shift if b2 is None else b2 + correction.shift
        b1, b2, bg = (None if bias is None else bias.to(dtype) for bias in (b1, b2, bg))
        if block.has_adapters:
            y = self._with_adapters(block, x.to(dtype), b1, b2, bg)
            return block.lin2.returned(y, x)
        y = SparseFFNFunction.apply(
            x.to(dtype),
            self.lin1,
            b1,
            self.lin2,
            b2,
            block.activation,
            self.gate,
            bg,
            None if correction is None else correction.down,
            None if correction is None else correction.up,
        )
        return block.lin2.returned(y, x)

    def _with_adapters(
        self,
        block: FFNBlock,
        x: Tensor,
        b1: Tensor | None,
        b2: Tensor | None,
        bg: Tensor | None,
    ) -> Tensor:
        """Compute a block whose projections carry LoRA: its rows and columns of the kept channels.

        A channel that is left out is zero to lin2 and to its adapter alike, so the adapters' part is
        exact for the channels that are there. Left to autograd, since adapters train.
        """
        indices = self.channels.indices
        z = nn.functional.linear(x, self.lin1, b1) + _adapted(block.lin1, x, indices)
        if block.gate is None:
            a = block.activation(z)
        else:
            assert self.gate is not None
            g = nn.functional.linear(x, self.gate, bg) + _adapted(block.gate, x, indices)
            a = block.activation(g) * z
        y = nn.functional.linear(a, self.lin2.t(), b2)
        last = block.lin2.adapter
        if last is not None:
            low = last.dropout(a) @ last.a.index_select(1, indices).to(a.dtype).t()
            y = y + last.scaling * (low @ last.b.to(a.dtype).t())
        if self.correction is not None and self.correction.down is not None:
            assert self.correction.up is not None
            y = y + (x @ self.correction.down) @ self.correction.up
        return y


def _adapted(linear: LinearLayer, x: Tensor, indices: Tensor) -> Tensor | float:
    adapter = linear.adapter
    if adapter is None:
        return 0.0
    low = adapter.dropout(x) @ adapter.a.to(x.dtype).t()
    return adapter.scaling * (low @ adapter.b.index_select(0, indices).to(x.dtype).t())


def _bias(linear: LinearLayer, indices: Tensor) -> Tensor | None:
    bias = linear.bias
    return None if bias is None else bias.index_select(0, indices)
