"""Compute a causal language model's loss, over a wide vocabulary, as one autograd function.

    loss = Σ (log Σⱼ exp zⱼ − z_label),   dz = softmax(z) − one-hot(label)

torch's makes a tensor of the logits' size for the logarithms, one for the gradient of those, zero but for
one in a row, and one for the gradient itself. Here the forward pass makes the gradient, of a sum, and the
backward pass scales it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.loss.loss_utils import ForCausalLMLoss


class CrossEntropyFunction(torch.autograd.Function):
    """Sum the cross entropy of rows of logits, with its gradient made in the forward pass.

    Shapes: logits (n, V); labels (n,), of which those equal to `ignored` do not count; result ().
    Gradient: logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
        """Return the sum of losses, and keep the gradient of the logits."""
        there = (labels != ignored).unsqueeze(1)
        at = labels.unsqueeze(1).where(there, 0)
        top = logits.amax(1, keepdim=True)
        exponentials = logits.sub(top).exp_()
        total = exponentials.sum(1, keepdim=True)
        losses = total.log().add_(top).sub_(logits.gather(1, at))
        if ctx.needs_input_grad[0]:
            grad = exponentials.mul_(there / total)
            ctx.save_for_backward(grad.scatter_add_(1, at, -there.to(grad.dtype)), there)
        return losses.where(there, 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient that the forward pass has made."""
        grad, there = ctx.saved_tensors
        # Of rows that do not count nothing comes back, even where all are such and the mean is 0 / 0.
        return grad * grads[0].where(there, 0.0), None, None


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Compute what transformers' `ForCausalLMLoss` does, whose arguments these are.

    Args:
        logits: (B, T, V).
        labels: (B, T), not shifted; looked at where `shift_labels` is None.
        vocab_size: V.
        num_items_in_batch: what the sum is divided by; None for the number of labels that count.
        ignore_index: the label of a token that does not count.
        shift_labels: (B, T), shifted.
        **kwargs: passed on where a compiled graph takes transformers' own.
    """
    if torch.compiler.is_compiling():
        original: Tensor = ForCausalLMLoss(
            logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **kwargs
        )
        return original
    if shift_labels is None:
        assert labels is not None
        shift_labels = torch.nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    targets = shift_labels.reshape(-1).to(logits.device)
    loss: Tensor = CrossEntropyFunction.apply(
        logits.float().view(-1, vocab_size), targets, ignore_index
    )
    if num_items_in_batch is None:
        return loss / (targets != ignore_index).sum()
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch
