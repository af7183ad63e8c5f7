"""Compute causal attention on a CPU by blocks of queries, each with the keys up to its end.

    O[a:b] = softmax(s · Q[a:b] K[:b]ᵀ + M[a:b, :b]) V[:b]

torch's fused kernel computes all T · T products where there is a mask, and without one leaves out
whole blocks of 512 keys alone; here it is called for one block of queries after the other, forward and
backward, and dK[:b] and dV[:b] are summed over the blocks. Without a mask that takes a quarter off
attention's time at 256 tokens, a third at 512, a fifth at 1,024 and nothing at 2,048; as much is kept
for the backward pass.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from sparselora.sparse.compat import (
    VERSION,
    flash_attention_for_cpu,
    flash_attention_for_cpu_backward,
)

BLOCK = 64
"""Queries in a block. Of 32, 64, 128 and 256 the fastest, or as fast, at 256 to 1,024 tokens."""
_ADDITIVE = WeakTensorKeyDictionary()
"""For a mask: its version, and what is added to the scores for it, None where it is not causal; one for
all layers."""


class CausalAttentionFunction(torch.autograd.Function):
    """Compute causal attention, forward and backward, by one block of queries after the other.

    Shapes: query (B, h, T, e), key and value (B, g, T, e), h a multiple of g; result (B, T, h, e). The
    mask, of which nothing is above the diagonal, is added to the scores, (B or 1, 1, T, T); None is the
    whole triangle. Gradients: query, key, value.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        """Attend block by block, and keep each block's logarithms of sums."""
        batch, heads, length, size = query.shape
        output = query.new_empty(batch, length, heads, size)
        sums = []
        for start, stop in _blocks(length):
            part, logarithms = flash_attention_for_cpu(
                query[:, :, start:stop],
                key[:, :, :stop],
                value[:, :, :stop],
                attn_mask=_of_block(mask, start, stop, query),
                scale=scaling,
            )
            output[:, start:stop] = part.transpose(1, 2)
            sums.append(logarithms)
        ctx.scaling = scaling
        ctx.save_for_backward(query, key, value, mask, output, *sums)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value, summed over the blocks."""
        query, key, value, mask, output, *sums = ctx.saved_tensors
        grad_output, output = grads[0].transpose(1, 2), output.transpose(1, 2)
        grad_query = torch.empty_like(query)
        # Sums over blocks, in float32 whatever their terms are.
        grad_key, grad_value = (
            torch.zeros_like(each, dtype=torch.float32) for each in (key, value)
        )
        for (start, stop), logarithms in zip(_blocks(query.shape[2]), sums, strict=True):
            of_query, of_key, of_value = flash_attention_for_cpu_backward(
                grad_output[:, :, start:stop],
                query[:, :, start:stop],
                key[:, :, :stop],
                value[:, :, :stop],
                output[:, :, start:stop],
                logarithms,
                0.0,
                False,
                attn_mask=_of_block(mask, start, stop, query),
                scale=ctx.scaling,
            )
            grad_query[:, :, start:stop] = of_query
            grad_key[:, :, :stop] += of_key
            grad_value[:, :, :stop] += of_value
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor | None:
    """Return causal attention, (B, T, h, e), by blocks; None where these inputs do not fit that.

    Args:
        query: (B, h, T, e).
        key: (B, g, T, e), h a multiple of g.
        value: the same.
        mask: (B, 1, T, T), True where a query attends; None where it does to all up to itself.
        scaling: what the products of query and key are multiplied by.
    """
    length = query.shape[2]
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return None
    if not BLOCK < length == key.shape[2] or not _fit(query, key, value):
        return None
    if mask is not None:
        mask = _additive(mask, length, query.dtype)
        if mask is None:
            return None
    output: Tensor = CausalAttentionFunction.apply(query, key, value, mask, scaling)
    return output


def _fit(query: Tensor, key: Tensor, value: Tensor) -> bool:
    # What the kernel takes for granted. Subclasses are not data on a CPU, or not all of it.
    for each in (query, key, value):
        if type(each) is not Tensor or each.device.type != "cpu" or each.stride(-1) != 1:
            return False
    one_type = query.dtype == key.dtype == value.dtype
    if not one_type or query.dtype not in (torch.float32, torch.bfloat16):
        return False
    same = key.shape == value.shape and query.shape[::3] == key.shape[::3]
    return same and query.shape[1] % key.shape[1] == 0


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _of_block(mask: Tensor | None, start: int, stop: int, query: Tensor) -> Tensor:
    if mask is not None:
        return mask[:, :, start:stop, :stop]
    length = query.shape[2]
    return _triangle(length, query.dtype)[:, :, BLOCK - (stop - start) :, length - stop :]


@lru_cache(maxsize=8)
def _triangle(length: int, dtype: torch.dtype) -> Tensor:
    # (1, 1, BLOCK, T): of the last block; what another one takes ends at its diagonal too.
    later = torch.ones(BLOCK, length, dtype=torch.bool, device="cpu").triu(length - BLOCK + 1)
    mask = torch.zeros(1, 1, BLOCK, length, dtype=dtype, device="cpu")
    return mask.masked_fill_(later, float("-inf"))


def _additive(mask: Tensor, length: int, dtype: torch.dtype) -> Tensor | None:
    if mask.is_inference() or torch.is_inference_mode_enabled():
        return _made(mask, length, dtype)
    version, made = _ADDITIVE.get(mask, (-1, None))
    now = getattr(mask, VERSION)
    if version != now:  # a buffer may be filled anew
        made = _made(mask, length, dtype)
        _ADDITIVE[mask] = now, made
    return made if made is None or made.dtype == dtype else made.to(dtype)


def _made(mask: Tensor, length: int, dtype: torch.dtype) -> Tensor | None:
    usable = mask.dtype == torch.bool and mask.dim() == 4 and mask.shape[1] == 1
    if not usable or mask.shape[2:] != (length, length) or mask.triu(1).any():
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
