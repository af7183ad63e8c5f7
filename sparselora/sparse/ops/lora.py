"""Compute PEFT's LoRA on a frozen linear layer as one autograd function.

    y = x Wᵀ + b + s · D(x) Aᵀ Bᵀ

with D dropout. PEFT's own path makes a tensor of y's size for the adapter's output, one for its scaled
value and one for the sum, and keeps D(x) and a float mask for the backward pass; here the adapter's
product is added where y lies, and x, shared with the other layers on it, is kept with a mask of bytes:

    h = D(x) Aᵀ,   dh = s · dy B,   dB = s · dyᵀ h,   dA = dhᵀ D(x),   dx = dy W + Dᵀ(dh A)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparselora.sparse.ops.dropout import drop, factor


def _add_adapter(
    y: Tensor | None, x: Tensor, a: Tensor, b: Tensor, scaling: float, rate: float
) -> tuple[Tensor, Tensor | None, Tensor, float]:
    """Add s D(x) Aᵀ Bᵀ to y, where that lies; a y of None is 0.

    Returns:
        The sum; the mask; D(x) Aᵀ without the mask's scale; and s with it.
    """
    dropped, keep, scale = drop(x, rate) if rate else (x, None, 1.0)
    low = dropped @ (a if scale == 1.0 else a / scale).to(x.dtype).t()
    # The mask's own scale, 1 / (1 − rate), is applied where it is cheap: to (N, r).
    scaling = scaling / (1.0 - rate)
    up = b.to(x.dtype).t()
    if y is None:
        y = x.new_empty(len(x), len(b)).addmm_(low, up, beta=0.0, alpha=scaling)
    else:
        y.addmm_(low, up, alpha=scaling)
    return y, keep, low, scaling


def _adapter_backward(
    grad_y: Tensor,
    x: Tensor,
    keep: Tensor | None,
    low: Tensor,
    a: Tensor,
    b: Tensor,
    scaling: float,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return dA, dB and s dy B, (N, r), which dx takes its part of; None for what is not needed.

    The mask, `keep`, is given as a factor; `needs` says whether dx, dA and dB are needed.
    """
    needs_x, needs_a, needs_b = needs
    grad_a = grad_b = grad_low = None
    if needs_b:
        # This way around: a CPU takes seven times as long for (o, N) by (N, r).
        grad_b = (low.t() @ grad_y).mul_(scaling).t().to(b.dtype)
    if needs_a or needs_x:
        # By columns: at rank 8 a CPU takes twice as long by rows, from rank 16 on the same.
        columns = b.to(grad_y.dtype).t().contiguous().t()
        grad_low = (grad_y @ columns).mul_(scaling)
        if needs_a:
            grad_a = (grad_low.t() @ (x if keep is None else x * keep)).to(a.dtype)
    return grad_a, grad_b, grad_low


def _add_adapter_input(
    grad_x: Tensor | None, grad_low: Tensor, a: Tensor, keep: Tensor | None
) -> Tensor:
    """Add Dᵀ(dh A) to grad_x, where that lies; a grad_x of None is 0."""
    a = a.to(grad_low.dtype)
    if grad_x is not None and keep is None:
        return grad_x.addmm_(grad_low, a)
    part = grad_low @ a
    if keep is None:
        return part
    return part.mul_(keep) if grad_x is None else grad_x.addcmul_(part, keep)


class LoRALinearFunction(torch.autograd.Function):
    """Compute a frozen linear layer and its adapter at once.

    Shapes: x (N, d); weight (o, d); bias (o,) or None; a (r, d); b (o, r); result (N, o).
    Gradients: x, bias, a, b. The base weight is frozen and gets none. Under autocast the products are in
    its dtype, and gradients of a and b in theirs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        rate: float,
    ) -> Tensor:
        """Add the adapter's product to the base layer's, where that lies."""
        y = nn.functional.linear(x, weight, bias)
        y, keep, low, ctx.scaling = _add_adapter(y, x, a, b, scaling, rate)
        ctx.save_for_backward(x, keep, low, weight, a, b)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, the bias, a and b, as far as they are needed."""
        (grad_y,) = grads
        x, keep, low, weight, a, b = ctx.saved_tensors
        keep = None if keep is None else factor(keep, x.dtype)
        needs_x, _, needs_bias, needs_a, needs_b, _, _ = ctx.needs_input_grad
        grad_a, grad_b, grad_low = _adapter_backward(
            grad_y, x, keep, low, a, b, ctx.scaling, (needs_x, needs_a, needs_b)
        )
        grad_x = None
        if needs_x:
            assert grad_low is not None
            grad_x = _add_adapter_input(grad_y @ weight, grad_low, a, keep)
        grad_bias = grad_y.sum(0) if needs_bias else None
        return grad_x, None, grad_bias, grad_a, grad_b, None, None


class SlicedLoRAFunction(torch.autograd.Function):
    """Compute some rows, or some columns, of a frozen layer, and all of its adapter, if it has one.

    With kept indices I: y = b + D(x) Aᵀ Bᵀ s, and of rows y[:, I] += x W[I]ᵀ, of columns
    y += x[:, I] W[:, I]ᵀ. x (N, d); weight (k, d) for rows, (k, o) for columns, which are held as rows;
    a (r, d); b (o, r). Gradients: x, bias, a, b.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        indices: Tensor,
        width: int | None,
        a: Tensor | None,
        b: Tensor | None,
        scaling: float,
        rate: float,
    ) -> Tensor:
        """Compute the kept part of the base layer, and add the adapter's product to it.

        `width` is o where rows are kept, and None where columns are.
        """
        keep = low = y = None
        if width is None:
            part = x.index_select(1, indices)
            y = part @ weight if bias is None else torch.addmm(bias, part, weight)
        elif bias is not None:
            y = bias.repeat(len(x), 1)
        elif a is None:
            y = x.new_zeros(len(x), width)
        if a is not None and b is not None:
            y, keep, low, ctx.scaling = _add_adapter(y, x, a, b, scaling, rate)
        assert y is not None
        if width is not None:
            y.index_add_(1, indices, x @ weight.t())
        ctx.rows = width is not None
        ctx.save_for_backward(x, keep, low, weight, indices, a, b)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, the bias, a and b, as far as they are needed."""
        (grad_y,) = grads
        x, keep, low, weight, indices, a, b = ctx.saved_tensors
        keep = None if keep is None else factor(keep, x.dtype)
        needs_x, _, needs_bias, _, _, needs_a, needs_b, _, _ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = grad_low = None
        if a is not None and b is not None:
            grad_a, grad_b, grad_low = _adapter_backward(
                grad_y, x, keep, low, a, b, ctx.scaling, (needs_x, needs_a, needs_b)
            )
        if needs_x and ctx.rows:
            grad_x = grad_y.index_select(1, indices) @ weight
        if needs_x and a is not None and grad_low is not None:
            grad_x = _add_adapter_input(grad_x, grad_low, a, keep)
        if needs_x and not ctx.rows:
            # Where the adapter's part lies: zeros to write into would be one more tensor to go through.
            grad_x = torch.zeros_like(x) if grad_x is None else grad_x
            grad_x.index_add_(1, indices, grad_y @ weight.t())
        grad_bias = grad_y.sum(0) if needs_bias else None
        return grad_x, None, grad_bias, None, None, grad_a, grad_b, None, None


def adapter_rate(dropout: nn.Module) -> float:
    """Return the rate that an adapter's dropout has now: 0 where it is none, or not training."""
    return dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
