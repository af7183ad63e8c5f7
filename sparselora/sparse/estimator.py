"""What scores the channels of an FFN block: f scores from a batch's hidden states.

An estimator is a module whose forward takes hidden states, (n, d), and token weights, (n, 1) or None,
and returns scores, (f,). It holds no trainable state and never enters the model's state dict.
"""

import torch
from torch import Tensor, nn

from sparselora.sparse.blocks import FFNBlock, find_blocks
from sparselora.sparse.config import ESTIMATORS, SparsityConfig


class SVDSparsityEstimator(nn.Module):
    """A rank-r estimate of one linear map: W x + b ≈ U_r S_r V_rᵀ x + b.

    SparseLoRA (Khaki et al., ICML 2025), section 3.2. Costs 2 · r · (d + f) FLOPs a token, where
    the map itself costs 2 · d · f.

    Args:
        weight: (f, d).
        bias: (f,) or None.
        rank: r, from 1 to min(d, f).

    Raises:
        ValueError: the rank is out of that range.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= min(weight.shape):
            raise ValueError(f"rank={rank}: from 1 to {min(weight.shape)} is possible")
        self.rank = rank
        left, singular, right = _svd(weight.detach())
        self.register_buffer("down", right[:rank].to(weight.dtype).contiguous())  # (r, d)
        scaled = left[:, :rank] * singular[:rank]
        self.register_buffer("up", scaled.to(weight.dtype).contiguous())  # (f, r)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(n, d) → (n, f)."""
        hidden_states = hidden_states.to(self.down.dtype)
        return nn.functional.linear(
            nn.functional.linear(hidden_states, self.down), self.up, self.bias
        )


def _svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, Vᵀ in at least float32.

    On a CPU with one thread: LAPACK's threads wait for each other at every step, so that beside another
    job on two cores a (3072, 768) map took 10.7 s with two threads and 1.1 s with one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return torch.linalg.svd(wide, full_matrices=False)
    finally:
        torch.set_num_threads(threads)


class FFNEstimator(nn.Module):
    """Scores of an FFN block's channels: ‖act(estimate of lin1)‖₂ over the tokens.

    The activation is the block's own: a GELU block is scored by |gelu(z)|, and one with a gate by
    |act(estimate of the gate) · estimate of lin1|.

    Args:
        lin1: estimate of the first linear map.
        activation: of the block; elementwise.
        gate: estimate of the gate, where there is one.
    """

    def __init__(
        self,
        lin1: SVDSparsityEstimator,
        activation: nn.Module,
        gate: SVDSparsityEstimator | None = None,
    ) -> None:
        super().__init__()
        self.lin1 = lin1
        self.activation = activation
        self.gate = gate

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None = None) -> Tensor:
        """(n, d), (n, 1) or None → (f,), at least float32."""
        activations = self.lin1(hidden_states)
        if self.gate is None:
            activations = self.activation(activations)
        else:
            activations = self.activation(self.gate(hidden_states)) * activations
        if token_weights is not None:
            activations = activations * token_weights
        dtype = torch.promote_types(activations.dtype, torch.float32)
        return torch.linalg.vector_norm(activations, dim=0, dtype=dtype)


class RandomEstimator(nn.Module):
    """Scores drawn anew each time: the lower reference that every estimator has to beat."""

    def __init__(self, intermediate_size: int, seed: int) -> None:
        super().__init__()
        self.intermediate_size = intermediate_size
        self.seed = seed
        self.generator: torch.Generator | None = None

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None = None) -> Tensor:
        """→ (f,), uniform in [0, 1), on the device of `hidden_states`."""
        device = hidden_states.device
        if self.generator is None or self.generator.device != device:
            self.generator = torch.Generator(device=device).manual_seed(self.seed)
        return torch.rand(self.intermediate_size, generator=self.generator, device=device)


def svd_estimator(block: FFNBlock, config: SparsityConfig) -> FFNEstimator:
    """The paper's: truncated SVD of lin1, and of the gate, at `svd_rank`, bias kept."""
    config.check_rank(block.hidden_size, block.intermediate_size)
    assert config.svd_rank is not None
    lin1, gate = block.lin1, block.gate
    return FFNEstimator(
        SVDSparsityEstimator(lin1.weight, lin1.bias, config.svd_rank),
        block.activation,
        None if gate is None else SVDSparsityEstimator(gate.weight, gate.bias, config.svd_rank),
    )


def random_estimator(block: FFNBlock, config: SparsityConfig) -> RandomEstimator:
    """Uniform scores, seeded by the config's seed and the layer."""
    index = int(block.name.rsplit(".", 1)[1])
    return RandomEstimator(block.intermediate_size, seed=config.seed * 1_000 + index)


def build_estimator(block: FFNBlock, config: SparsityConfig) -> nn.Module:
    """The estimator that `config` names, for one block."""
    estimator: nn.Module = globals()[ESTIMATORS[config.estimator].build](block, config)
    return estimator


def build_ffn_estimators(model: nn.Module, svd_rank: int) -> dict[str, FFNEstimator]:
    """One `FFNEstimator` a layer, at the given rank: `layer.N` → estimator.

    Raises:
        UserError: the architecture is unknown, or the rank is out of range for it.
    """
    config = SparsityConfig(svd_rank=svd_rank)
    return {block.name: svd_estimator(block, config) for block in find_blocks(model)}
