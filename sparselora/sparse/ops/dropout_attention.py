"""Compute attention with dropout on a CPU, where torch's fused kernels do not take dropout.

With P = softmax(s · Q Kᵀ + mask) and D dropout, O = D(P) V; backward, with dD = dO Vᵀ,

    dV = D(P)ᵀ dO,   dP = D'(dD),   dS = P ∘ (dP − rowsum(dP ∘ P)),   dQ = s · dS K,   dK = s · dSᵀ Q
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparselora.sparse.compat import safe_softmax, softmax_backward
from sparselora.sparse.ops.dropout import keep_mask
from sparselora.sparse.ops.dropout import mask as mask_out


def scaled_bmm(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Return scale · left @ right at no cost of a pass over the result for the scale.

    Shapes: left (b, m, k), right (b, k, n); result (b, m, n).
    """
    result = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    return result.baddbmm_(left, right, beta=0.0, alpha=scale)


class DropoutAttentionFunction(torch.autograd.Function):
    """Compute attention with dropout on its weights, with the weights kept for the backward pass.

    Shapes: query, key, value and result (B, h, T, e); the mask broadcasts to (B, h, T, T): bool, True
    where a query attends, or numbers that are added to the scores, or None. Gradients: query, key, value.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        rate: float,
        scaling: float,
    ) -> Tensor:
        """Attend with some of the weights dropped, and keep the weights and the mask."""
        heads = query.shape[:2]
        q, k, v = (tensor.reshape(-1, *tensor.shape[2:]) for tensor in (query, key, value))
        scores = scaled_bmm(q, k.transpose(1, 2), scaling)
        if mask is not None:
            four = scores.view(*heads, *scores.shape[1:])
            if mask.dtype == torch.bool:
                four.masked_fill_(~mask, float("-inf"))
            else:
                four.add_(mask)
        # In float32 at least; a row with nothing to attend to gets zeros, as from torch.
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = safe_softmax(scores, -1, dtype=wide).to(scores.dtype)
        keep = keep_mask(weights.shape, rate, weights.device)
        output = scaled_bmm(mask_out(weights, keep), v, 1.0 / (1.0 - rate))
        ctx.rate, ctx.scaling, ctx.heads = rate, scaling, heads
        ctx.save_for_backward(q, k, v, weights, keep)
        return output.view(*heads, *output.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value, as far as they are needed."""
        q, k, v, weights, keep = ctx.saved_tensors
        grad_output = grads[0].reshape(-1, *grads[0].shape[2:])
        needs_q, needs_k, needs_v = ctx.needs_input_grad[:3]
        grad_q = grad_k = grad_v = None
        kept_scale = 1.0 / (1.0 - ctx.rate)
        if needs_v:
            dropped = mask_out(weights, keep)
            grad_v = scaled_bmm(dropped.transpose(1, 2), grad_output, kept_scale)
        if needs_q or needs_k:
            grad_weights = mask_out(torch.bmm(grad_output, v.transpose(1, 2)), keep)
            grad_scores = softmax_backward(grad_weights, weights, -1, weights.dtype)
            scale = ctx.scaling * kept_scale  # of the weights' gradient too: it is linear in that
            grad_q = scaled_bmm(grad_scores, k, scale) if needs_q else None
            grad_k = scaled_bmm(grad_scores.transpose(1, 2), q, scale) if needs_k else None
        shaped = (
            None if grad is None else grad.view(*ctx.heads, *grad.shape[1:])
            for grad in (grad_q, grad_k, grad_v)
        )
        return (*shaped, None, None, None)
