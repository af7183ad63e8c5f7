"""Replace transformers' attention function where a CPU is better served by another."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sparselora.sparse.acceleration.first_token import first_token_alone
from sparselora.sparse.ops.causal_attention import causal_attention
from sparselora.sparse.ops.dropout import takes
from sparselora.sparse.ops.dropout_attention import DropoutAttentionFunction
from sparselora.sparse.ops.rows import pad
from sparselora.sparse.swap import run_on_load

NAME = "sparselora_sdpa"
"""The name by which transformers finds `attention_forward`; set on a model's own config."""


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute transformers' SDPA attention, with dropout or a causal mask by functions of our own.

    Arguments and result, (B, T, h, e), are those of `sdpa_attention_forward`.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = not any(kwargs.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    length = query.shape[2]
    if length > 1 and plain and not causal and first_token_alone(module):
        mask = attention_mask
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., :1, :]
        first, _ = attention_forward(
            module, query[:, :, :1], key, value, mask, dropout, scaling, is_causal, **kwargs
        )
        return pad(first, length), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if plain and causal and not dropout:
        blocked = causal_attention(query, key, value, attention_mask, scale)
        if blocked is not None:
            return blocked, None
    masked_or_full = attention_mask is not None or not causal
    same_heads = query.shape[:2] == key.shape[:2]
    if not (takes(query, dropout) and plain and masked_or_full and same_heads):
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return output
    attended: Tensor = DropoutAttentionFunction.apply(
        query, key, value, attention_mask, dropout, scale
    )
    return attended.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make `NAME` known to transformers, beside what it has."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


# A config that is loaded may name this attention, which another process has not registered.
run_on_load(register)
