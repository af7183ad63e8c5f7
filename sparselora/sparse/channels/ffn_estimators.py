"""Score the channels of an FFN block: f scores from a batch's hidden states.

An estimator is a module whose forward takes hidden states, (n, d), and token weights, (n, 1) or None,
and returns scores, (f,). It holds no trainable state and never enters the model's state dict. One is a
function here, and a row of `sparselora.sparse.estimators.ESTIMATORS` that names it; one from outside is
registered with `register_estimator`.
"""

import torch
from torch import Tensor, nn

from sparselora.sparse.backbone.ffn import FFNBlock, find_blocks
from sparselora.sparse.backbone.linear_layer import LinearLayer
from sparselora.sparse.channels.lowrank import SVDSparsityEstimator
from sparselora.sparse.channels.moments import LayerMoments
from sparselora.sparse.channels.random_scores import RandomEstimator, checked_scorer
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.estimators import load_builder


class FFNEstimator(nn.Module):
    """Score an FFN block's channels: ‖act(estimate of lin1)‖₂ over the tokens.

    The activation is the block's own: a GELU block is scored by |gelu(z)|, and one with a gate by
    |act(estimate of the gate) · estimate of lin1|.

    Args:
        lin1: estimate of the first linear layer.
        activation: of the block; elementwise.
        gate: estimate of the gate, where there is one.
        centre: (f,), subtracted from the activations where compensation adds it.
        channel_weights: (f,), multiplies the scores.
    """

    centre: Tensor | None
    channel_weights: Tensor | None

    def __init__(
        self,
        lin1: nn.Module,
        activation: nn.Module,
        gate: nn.Module | None = None,
        centre: Tensor | None = None,
        channel_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.lin1 = lin1
        self.activation = activation
        self.gate = gate
        self.register_buffer("centre", centre)
        self.register_buffer("channel_weights", channel_weights)

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None = None) -> Tensor:
        """Return scores, (f,), at least float32.

        Args:
            hidden_states: (n, d).
            token_weights: (n, 1), or None where all tokens count alike.
        """
        activations = self.lin1(hidden_states)
        if self.gate is None:
            activations = self.activation(activations)
        else:
            activations = self.activation(self.gate(hidden_states)) * activations
        if self.centre is not None:
            activations = activations - self.centre
        scores = norms_over_tokens(activations, token_weights)
        return scores if self.channel_weights is None else scores * self.channel_weights


def norms_over_tokens(values: Tensor, token_weights: Tensor | None) -> Tensor:
    """Return ‖weight · value‖₂ of each channel, at least float32: (n, c), (n, 1) or None → (c,)."""
    if token_weights is not None:
        values = values * token_weights
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    # A norm along the first dimension takes a CPU twelve times as long.
    return wide.square().sum(0).sqrt_()


class ExactProjection(nn.Module):
    """Compute a projection itself in the place of an estimate of it; shares its weights."""

    def __init__(self, linear: LinearLayer) -> None:
        super().__init__()
        self._linear = (linear,)  # in a tuple: it stays out of this module's children and state

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the projection of hidden states: (n, d) → (n, f)."""
        linear = self._linear[0]
        result: Tensor = linear(hidden_states.to(linear.dtype(hidden_states)))
        return result


class FixedEstimator(nn.Module):
    """Give the same scores whatever the batch."""

    scores: Tensor

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.register_buffer("scores", scores)

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None = None) -> Tensor:
        """Return scores, (f,)."""
        return self.scores


def svd_estimator(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None
) -> FFNEstimator:
    """Build the paper's: truncated SVD of lin1, and of the gate, at `svd_rank`, bias kept."""
    return _lowrank_estimator(block, config, moments, None)


def whitened_estimator(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None
) -> FFNEstimator:
    """Build an estimate of the rank and cost of `svd`, nearest on the inputs seen in calibration."""
    return _lowrank_estimator(block, config, moments, moments)


def _lowrank_estimator(
    block: FFNBlock,
    config: SparsityConfig,
    moments: LayerMoments | None,
    whitening: LayerMoments | None,
) -> FFNEstimator:
    config.check_rank(block.hidden_size, block.intermediate_size)
    rank = config.svd_rank
    assert rank is not None
    estimates = [
        None
        if linear is None
        else SVDSparsityEstimator(linear.weight, linear.bias, rank, whitening)
        for linear in (block.lin1, block.gate)
    ]
    assert estimates[0] is not None
    return FFNEstimator(
        estimates[0], block.activation, estimates[1], *_extras(block, config, moments)
    )


def oracle_estimator(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None
) -> FFNEstimator:
    """Build the true activations: the upper reference, as dear as the projection that it saves."""
    return FFNEstimator(
        ExactProjection(block.lin1),
        block.activation,
        None if block.gate is None else ExactProjection(block.gate),
        *_extras(block, config, moments),
    )


def _extras(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None
) -> tuple[Tensor | None, Tensor | None]:
    centre = None
    if config.compensation != "none":
        assert moments is not None
        centre = moments.activation_mean.to(block.lin1.weight.dtype)
    return centre, _column_norms(block) if config.estimator_weighted else None


def static_estimator(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None
) -> FixedEstimator:
    """Score by root mean squares of activations over the calibration batches · ‖column of lin2‖.

    Where compensation adds the mean, only what departs from it counts: the standard deviation.
    """
    assert moments is not None
    plain = config.compensation == "none"
    square = moments.activation_square if plain else moments.activation_variance()
    return FixedEstimator(square.sqrt().float() * _column_norms(block))


def magnitude_estimator(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None
) -> FixedEstimator:
    """Score by ‖row of lin1‖ · ‖column of lin2‖, and · ‖row of the gate‖: weights alone, no data."""
    scores = _column_norms(block)
    for linear in (block.lin1, block.gate):
        if linear is not None:
            scores = scores * linear.weight.detach().float().norm(dim=1)
    return FixedEstimator(scores)


def random_estimator(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None
) -> RandomEstimator:
    """Build uniform scores, seeded by the config's seed and the layer."""
    index = int(block.name.rsplit(".", 1)[1])
    return RandomEstimator(block.intermediate_size, seed=config.seed * 1_000 + index)


def _column_norms(block: FFNBlock) -> Tensor:
    return block.lin2.weight.detach().float().norm(dim=0)


def build_estimator(
    block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None = None
) -> nn.Module:
    """Build the estimator that `config` names, for one block."""
    return checked_scorer(config.estimator, load_builder(config.kind.build)(block, config, moments))


def build_ffn_estimators(model: nn.Module, svd_rank: int) -> dict[str, FFNEstimator]:
    """Build an `FFNEstimator` for each layer, at the given rank: `layer.N` → estimator.

    Raises:
        UserError: the architecture is unknown, or the rank is out of range for it.
    """
    config = SparsityConfig(estimator="svd", svd_rank=svd_rank)
    return {block.name: svd_estimator(block, config, None) for block in find_blocks(model)}
