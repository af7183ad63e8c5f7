"""Compute the rotary position embedding of one tensor as one autograd function.

With the halves of a head as 1 and 2 (Su et al., RoFormer, 2021, section 3.4.2):

    y₁ = x₁ cos₁ − x₂ sin₁,        y₂ = x₂ cos₂ + x₁ sin₂
    dx₁ = dy₁ cos₁ + dy₂ sin₂,     dx₂ = dy₂ cos₂ − dy₁ sin₁

transformers' own makes five tensors of x's size, forward, and as many backward; this makes one each.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class RotaryFunction(torch.autograd.Function):
    """Rotate the channels of each head by its position's angles.

    Shapes: x and result (B, h, T, e); cos and sin, constant, broadcast to it. Gradient: x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the two halves of each head into each other."""
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        y = x * cos
        y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        y[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Rotate the gradient back."""
        cos, sin = ctx.saved_tensors
        (grad,) = grads
        half = grad.shape[-1] // 2
        grad_x = grad * cos
        grad_x[..., :half].addcmul_(grad[..., half:], sin[..., half:])
        grad_x[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
        return grad_x, None, None
