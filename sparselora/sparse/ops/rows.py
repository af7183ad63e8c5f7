"""Put rows of tokens in another order, or pad them with zeros."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Pad(torch.autograd.Function):
    """Pad with zeros; `torch.nn.functional.pad` takes several times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, length: int) -> Tensor:
        padded = first.new_zeros(first.shape[0], length, *first.shape[2:])
        padded[:, :1] = first
        return padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][:, :1].contiguous(), None


def pad(first: Tensor, length: int) -> Tensor:
    """Return a first token, (B, 1, …), with zeros behind it, (B, length, …)."""
    padded: Tensor = _Pad.apply(first, length)
    return padded


class _Permute(torch.autograd.Function):
    """Reorder rows; backward is the inverse order, where torch's own adds into zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse), None, None


def permute(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Return the rows of (N, d) in `order`, whose inverse is `inverse`."""
    permuted: Tensor = _Permute.apply(rows, order, inverse)
    return permuted
