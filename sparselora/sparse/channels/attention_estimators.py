"""Score the channels of a layer's attention: norms of query, key and value from hidden states.

Such a module's forward takes hidden states, (n, d), and token weights, (n, 1) or None, and returns three
of (rows,). One is a function here, named by a row of `sparselora.sparse.estimators.ESTIMATORS`, or
registered with `register_estimator`.
"""

from torch import Tensor, nn

from sparselora.sparse.backbone.attention import Attention
from sparselora.sparse.channels.ffn_estimators import norms_over_tokens
from sparselora.sparse.channels.lowrank import SVDSparsityEstimator
from sparselora.sparse.channels.moments import InputMoments
from sparselora.sparse.channels.random_scores import RandomEstimator, checked_scorer
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.estimators import load_builder

SCORED = ("query", "key", "value")


class ProjectionNorms(nn.Module):
    """Give ‖estimate of the projection‖ of each channel over the tokens, for query, key and value."""

    def __init__(self, estimates: dict[str, nn.Module]) -> None:
        super().__init__()
        self.estimates = nn.ModuleDict(estimates)

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None) -> list[Tensor]:
        """Return three tensors of (rows,), at least float32.

        Args:
            hidden_states: (n, d).
            token_weights: (n, 1), or None where all tokens count alike.
        """
        estimated = (self.estimates[role](hidden_states) for role in SCORED)
        return [norms_over_tokens(each, token_weights) for each in estimated]


class FixedNorms(nn.Module):
    """Give the same norms whatever the batch."""

    def __init__(self, norms: dict[str, Tensor]) -> None:
        super().__init__()
        for role in SCORED:
            self.register_buffer(role, norms[role])

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None) -> list[Tensor]:
        """Return three tensors of (rows,)."""
        return [self.get_buffer(role) for role in SCORED]


class RandomNorms(nn.Module):
    """Draw norms anew each time."""

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        super().__init__()
        self.drawn = nn.ModuleDict(
            {
                role: RandomEstimator(size, 3 * seed + place)
                for place, (role, size) in enumerate(sizes.items())
            }
        )

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None) -> list[Tensor]:
        """Return three tensors of (rows,)."""
        return [self.drawn[role](hidden_states) for role in SCORED]


class _Exact(nn.Module):
    """Compute the frozen projection itself, without its adapter: what a channel left out leaves out."""

    def __init__(self, attention: Attention, role: str) -> None:
        super().__init__()
        self._source = (attention, role)

    def forward(self, hidden_states: Tensor) -> Tensor:
        attention, role = self._source
        x = hidden_states.to(attention.projections[role].dtype(hidden_states))
        bias = attention.bias(role)
        bias = None if bias is None else bias.to(x.dtype)
        return nn.functional.linear(x, attention.weight(role).to(x.dtype), bias)


def svd_norms(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> ProjectionNorms:
    """Build the truncated SVD of each projection at `svd_rank`, or its own where that is less."""
    return _lowrank_norms(attention, config, None)


def whitened_norms(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> ProjectionNorms:
    """Build estimates of the rank and cost of `svd_norms`, nearest on the inputs seen in calibration."""
    return _lowrank_norms(attention, config, moments)


def _lowrank_norms(
    attention: Attention, config: SparsityConfig, whitening: InputMoments | None
) -> ProjectionNorms:
    assert config.svd_rank is not None
    estimates: dict[str, nn.Module] = {}
    for role in SCORED:
        weight, bias = attention.weight(role).detach(), attention.bias(role)
        rank = min(config.svd_rank, *weight.shape)
        estimates[role] = SVDSparsityEstimator(weight, bias, rank, whitening)
    return ProjectionNorms(estimates)


def oracle_norms(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> ProjectionNorms:
    """Build norms of the true outputs of the frozen projections."""
    return ProjectionNorms({role: _Exact(attention, role) for role in SCORED})


def static_norms(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> FixedNorms:
    """Build norms that are root mean squares over the calibration batches."""
    assert moments is not None
    return FixedNorms(
        {
            role: _root_mean_square(attention.weight(role).detach(), attention.bias(role), moments)
            for role in SCORED
        }
    )


def _root_mean_square(weight: Tensor, bias: Tensor | None, moments: InputMoments) -> Tensor:
    # E[(w x + b)²] = w E[x xᵀ] wᵀ + 2 b w E[x] + b².
    wide = weight.double()
    square = ((wide @ moments.input_second) * wide).sum(1)
    if bias is not None:
        b = bias.detach().double()
        square = square + 2 * b * (wide @ moments.input_mean) + b.square()
    return square.clamp_min(0).sqrt().float()


def magnitude_norms(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> FixedNorms:
    """Build norms of the projections' rows: weights alone, no data."""
    return FixedNorms(
        {role: attention.weight(role).detach().float().norm(dim=1) for role in SCORED}
    )


def random_norms(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> RandomNorms:
    """Build uniform norms, seeded by the config's seed and the layer."""
    index = int(attention.name.rsplit(".", 1)[1])
    sizes = {role: len(attention.weight(role)) for role in SCORED}
    return RandomNorms(sizes, seed=(config.seed + 1) * 1_000_003 + index)


def build_norms(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> nn.Module:
    """Build what gives the norms of one layer's attention, by the config's estimator."""
    build = config.kind.build_attention
    assert build is not None  # a config whose estimator has none leaves attention dense
    return checked_scorer(config.estimator, load_builder(build)(attention, config, moments))
