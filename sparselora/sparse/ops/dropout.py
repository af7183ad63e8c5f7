"""Drop values on a CPU at a small cost: `bernoulli_` takes longer than the products beside it there.

A mask is drawn as 16 random bits an element, by a generator of numpy's that is seeded from torch's: the
same `torch.manual_seed` gives the same masks, and a recomputation that restores torch's state gets its
mask again. The rate is exact to 2^-17. One byte an element is kept for the backward pass, where torch
keeps four.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEVELS = 1 << 16
_LARGEST = (1 << 64) - 1


def keep_mask(shape: torch.Size | tuple[int, ...], rate: float, device: torch.device) -> Tensor:
    """Draw a mask of bools, each True with probability 1 − rate.

    On a CPU the rate is rounded to a multiple of 2^-16.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():
        return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(1.0 - rate)
    count = math.prod(shape)
    seed = int(torch.randint(2**63 - 1, ()))
    # All of an integer's values: the raw words, in three quarters of the time of `random_raw`.
    generator = np.random.Generator(np.random.SFC64(seed))
    words = generator.integers(_LARGEST, size=-(-count // 4), dtype=np.uint64, endpoint=True)
    # numpy's comparison: torch's of 16 bits is not vectorised.
    keep = words.view(np.int16)[:count] >= round(rate * LEVELS) - LEVELS // 2
    return torch.from_numpy(keep).view(shape)


def mask(values: Tensor, keep: Tensor) -> Tensor:
    """Return the values where `keep`, 0 elsewhere."""
    return factor(keep, values.dtype).mul_(values)


def factor(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask as numbers, 1 and 0.

    To multiply by them takes half of what a product with bool does.
    """
    return keep.view(torch.int8).to(dtype)  # from bytes, which is vectorised


def drop(values: Tensor, rate: float) -> tuple[Tensor, Tensor, float]:
    """Drop some of the values; return those left times a scale, the mask, and the scale."""
    if values.is_cuda:  # one pass, and the masks of `nn.Dropout`
        dropped, keep = torch.native_dropout(values, rate, True)
        return dropped, keep, 1.0 / (1.0 - rate)
    keep = keep_mask(values.shape, rate, values.device)
    return mask(values, keep), keep, 1.0


def apply_mask(values: Tensor, keep: Tensor, rate: float) -> Tensor:
    """Return values / (1 − rate) where `keep`, 0 elsewhere."""
    nothing = values.new_zeros(())  # to add to: mask and scale in one pass
    return torch.addcmul(nothing, values, factor(keep, values.dtype), value=1.0 / (1.0 - rate))


def takes(values: Tensor, rate: float) -> bool:
    """Return whether this module's dropout is the one to use: on a CPU, at a rate with any effect.

    A compiled graph cannot hold numpy's generator; it fuses torch's own dropout instead.
    """
    on_cpu = values.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and 0.0 < rate < 1.0


class DropoutFunction(torch.autograd.Function):
    """Drop values of any shape at a rate in (0, 1); the gradient is masked and scaled alike."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rate: float) -> Tensor:
        """Draw a mask and apply it."""
        keep = keep_mask(values.shape, rate, values.device)
        ctx.rate = rate
        ctx.save_for_backward(keep)
        return apply_mask(values, keep, rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Mask and scale the gradient as the values were."""
        (keep,) = ctx.saved_tensors
        return apply_mask(grads[0], keep, ctx.rate), None
