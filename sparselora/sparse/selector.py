"""Scores → the channels that are kept."""

import torch
from torch import Tensor

from sparselora.schedule import get_layer_sparsity_ratio

__all__ = ["get_layer_sparsity_ratio", "sample_tokens", "select_ffn_channels"]


def select_ffn_channels(scores: Tensor, kept: int) -> Tensor:
    """The `kept` channels with the highest scores, sorted, so that gathers walk forward in memory.

    Args:
        scores: (f,), any real dtype.
        kept: how many, from 1 to f. A number of the host: the shape does not depend on the scores,
            so nothing waits for the device.

    Returns:
        (kept,) int64, ascending, on the device of `scores`.
    """
    if not 1 <= kept <= scores.numel():
        raise ValueError(f"kept={kept}: from 1 to {scores.numel()} channels can be kept")
    return scores.topk(kept, sorted=False).indices.sort().values


def sample_tokens(
    hidden_states: Tensor, attention_mask: Tensor | None, tokens: int | None
) -> tuple[Tensor, Tensor | None]:
    """The tokens to score, padding left out, without waiting for the device.

    With `tokens` given, that many are taken, evenly spaced over the real tokens: their positions
    are found by a search in the running count of the mask, so the shape is known on the host. Fewer
    real tokens than asked for means that some are taken more than once.

    Args:
        hidden_states: (N, d), N = batch · length.
        attention_mask: (N,), nonzero where the token is real, or None where all are.
        tokens: how many to take; None takes all.

    Returns:
        (n, d), and (n, 1) weights, 0 for padding and 1 otherwise, or None where all count.
    """
    count = hidden_states.shape[0]
    if tokens is None or tokens >= count:
        if attention_mask is None:
            return hidden_states, None
        return hidden_states, (attention_mask != 0).to(hidden_states.dtype).unsqueeze(1)
    device = hidden_states.device
    centres = torch.arange(tokens, device=device, dtype=torch.float64).add_(0.5).div_(tokens)
    if attention_mask is None:
        return hidden_states.index_select(0, (centres * count).long()), None
    running = (attention_mask != 0).cumsum(0)
    ranks = (centres * running[-1]).floor() + 1
    positions = torch.searchsorted(running, ranks.to(running.dtype)).clamp_(max=count - 1)
    return hidden_states.index_select(0, positions), None
