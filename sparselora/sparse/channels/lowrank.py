"""Estimate a linear layer at low rank, plainly or fitted to the inputs that it sees."""

import torch
from torch import Tensor, nn

from sparselora.sparse.channels.moments import InputMoments


class SVDSparsityEstimator(nn.Module):
    """Estimate one linear layer at rank r: W x + b ≈ U_r S_r V_rᵀ x + b.

    SparseLoRA (Khaki et al., ICML 2025), section 3.2. Costs 2 · r · (d + f) FLOPs a token, where
    the layer itself costs 2 · d · f. The leading right singular vectors are eigenvectors of WᵀW, which is
    (d, d): U_r S_r = W V_r.

    With moments of the inputs, the error is the least over those and not over all directions alike: with
    C the inputs' covariance, the SVD is of W C^½, and C^-½ takes the input there (SVD-LLM, Wang et al.,
    ICLR 2025, section 3.1, whitens likewise). What the estimate leaves out is constant at the inputs'
    mean, which the bias takes in.

    Args:
        weight: (f, d).
        bias: (f,) or None.
        rank: r, from 1 to min(d, f).
        moments: of the inputs; None for the plain SVD.

    Raises:
        ValueError: the rank is out of that range.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, rank: int, moments: InputMoments | None = None
    ) -> None:
        super().__init__()
        if not 1 <= rank <= min(weight.shape):
            raise ValueError(f"rank={rank}: from 1 to {min(weight.shape)} is possible")
        self.rank = rank
        wide = weight.detach().double()
        offset = None if bias is None else bias.detach().double()
        if moments is None:
            down = _leading(wide.T @ wide, rank).T  # (r, d)
            up = wide @ down.T  # (f, r)
        else:
            root, inverse = _roots(moments.input_covariance())
            whitened = wide @ root
            leading = _leading(whitened.T @ whitened, rank)
            down, up = leading.T @ inverse, whitened @ leading
            left_out = wide @ moments.input_mean - up @ (down @ moments.input_mean)
            offset = left_out if offset is None else offset + left_out
        self.register_buffer("down", down.to(weight.dtype).contiguous())
        self.register_buffer("up", up.to(weight.dtype).contiguous())
        self.register_buffer("bias", None if offset is None else offset.to(weight.dtype))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the estimate: (n, d) → (n, f)."""
        hidden_states = hidden_states.to(self.down.dtype)
        return nn.functional.linear(
            nn.functional.linear(hidden_states, self.down), self.up, self.bias
        )


def _leading(gram: Tensor, rank: int) -> Tensor:
    """Return the eigenvectors of the `rank` largest eigenvalues, (d, r), largest first."""
    return eigh(gram)[1][:, -rank:].flip(1)


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return C^½ and C^-½; the faintest directions count as the faintest that still do."""
    values, vectors = eigh(covariance)
    values = values.clamp_min(1e-6 * values[-1]).clamp_min(1e-30).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors.

    On a CPU with one thread: LAPACK's threads wait for each other at every step, which beside another
    job on two cores made the decomposition of a (3072, 768) layer ten times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values, vectors = torch.linalg.eigh(symmetric)
        return values, vectors
    finally:
        torch.set_num_threads(threads)
