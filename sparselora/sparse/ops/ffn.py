"""Compute only the kept channels of both projections of an FFN, forward and backward.

With kept indices I, |I| = k:

    z = x W1[I]ᵀ + b1[I]      (N, k)
    y = act(z) W2[:, I]ᵀ + b2   (N, d)

and, the weights being frozen, backward is two products of the same size:

    dz = (dy W2[:, I]) · act'(z),   dx = dz W1[I]

Where the block has a gate Wg, act(z) becomes act(g) · z with g = x Wg[I]ᵀ + bg[I], and its gradient
goes to x through both layers. Compensation adds (x P) M + c; c is folded into b2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUTanh, NewGELUActivation, SiLUActivation


def _activation_backward(activation: nn.Module, grad: Tensor, pre_activation: Tensor) -> Tensor:
    """Return grad · act'(pre_activation), elementwise, from the pre-activation alone."""
    if isinstance(activation, nn.GELU):
        approximate = activation.approximate
        return torch.ops.aten.gelu_backward(grad, pre_activation, approximate=approximate)
    # transformers' GELUActivation holds the function that it applies.
    if getattr(activation, "act", None) is nn.functional.gelu:
        return torch.ops.aten.gelu_backward(grad, pre_activation)
    if isinstance(activation, GELUTanh | NewGELUActivation):
        return torch.ops.aten.gelu_backward(grad, pre_activation, approximate="tanh")
    if isinstance(activation, nn.SiLU | SiLUActivation):
        return torch.ops.aten.silu_backward(grad, pre_activation)
    with torch.enable_grad():
        variable = pre_activation.detach().requires_grad_()
        return torch.autograd.grad(activation(variable), variable, grad)[0]


def _times(activated: Tensor, factor: Tensor, pre_activation: Tensor) -> Tensor:
    """Return activated · factor, where `activated` lies: new memory costs more than the product."""
    # An identity gives back what it got, which the backward pass needs.
    return activated * factor if activated is pre_activation else activated.mul_(factor)


class SparseFFNFunction(torch.autograd.Function):
    """Compute act(x w1ᵀ + b1) w2 + b2, saving the pre-activations and the gathered, frozen weights.

    With a gate it is (act(x wgᵀ + bg) · (x w1ᵀ + b1)) w2 + b2; with compensation, + (x down) up.

    Shapes: x (N, d); w1, wg, w2 (k, d); b1, bg (k,); b2 (d,); down (d, r); up (r, d); result (N, d).
    Biases may be None, and so may wg, and down with up. Gradients: x, b1, bg, b2. What else there is,
    is frozen and gets none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        activation: nn.Module,
        wg: Tensor | None = None,
        bg: Tensor | None = None,
        down: Tensor | None = None,
        up: Tensor | None = None,
    ) -> Tensor:
        """Compute the block, and keep the pre-activations."""
        z = nn.functional.linear(x, w1, b1)
        g = None if wg is None else nn.functional.linear(x, wg, bg)
        a = activation(z) if g is None else _times(activation(g), z, g)
        y = a @ w2 if b2 is None else torch.addmm(b2, a, w2)
        if down is not None and up is not None:
            y.addmm_(x @ down, up)
        ctx.activation = activation
        ctx.save_for_backward(z, w1, w2, g, wg, down, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the biases, as far as they are needed."""
        (grad_y,) = grads
        z, w1, w2, g, wg, down, up = ctx.saved_tensors
        needs_x, _, needs_b1, _, needs_b2, _, _, needs_bg, _, _ = ctx.needs_input_grad
        grad_x = grad_b1 = grad_bg = None
        if needs_x or needs_b1 or needs_bg:
            grad_a = grad_y @ w2.t()
            if g is None:
                grad_z = _activation_backward(ctx.activation, grad_a, z)
                grad_x = grad_z @ w1 if needs_x else None
            else:
                grad_g = _activation_backward(ctx.activation, grad_a * z, g)
                grad_z = _times(ctx.activation(g), grad_a, g)
                grad_x = (grad_z @ w1).addmm_(grad_g, wg) if needs_x else None
                grad_bg = grad_g.sum(0) if needs_bg else None
            if grad_x is not None and down is not None:
                grad_x.addmm_(grad_y @ up.t(), down.t())
            grad_b1 = grad_z.sum(0) if needs_b1 else None
        grad_b2 = grad_y.sum(0) if needs_b2 else None
        return grad_x, None, grad_b1, None, grad_b2, None, None, grad_bg, None, None
