"""Floating-point operations of the FFN blocks and their estimators; a multiply-add counts twice.

Per token, layer with f channels of which k are kept, hidden_size d, frozen weights:

    forward    lin1 2·d·k, lin2 2·k·d
    backward   the gradients to both maps' inputs, 2·k·d each; frozen weights have no gradient

so 8·d·k in all, and 8·d·f where the layer is dense.
"""


def ffn_flops(tokens: int, hidden_size: int, channels: int) -> int:
    """Forward and backward of one FFN block with `channels` computed, for `tokens` positions."""
    return 8 * tokens * hidden_size * channels


def svd_estimator_flops(tokens: int, hidden_size: int, intermediate_size: int, rank: int) -> int:
    """One estimate: x Vᵀ costs 2·d·r a scored token, times U S another 2·r·f."""
    return 2 * tokens * rank * (hidden_size + intermediate_size)
