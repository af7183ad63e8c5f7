"""Stand in for the channels left out, by a constant or a low-rank linear map of the block's input.

With L the channels left out, the block loses Σ_{j∈L} a_j w_j, w_j being column j of lin2. Each a_j is
approximated by an affine function of the input, a_j ≈ ν_j + x P q_j with P (d, r) and q_j (r,), so that

    y = a_I W2[I] + b2 + Σ_{j∈L} ν_j w_j + (x P) Σ_{j∈L} q_j w_j

`mean` has no P, and ν is the mean activation. `lowrank` fits P and q by reduced-rank regression
(Izenman, 1975) on the calibration batches: on the summed contribution where the choice is fixed, and
where it changes on all activations, each weighed by ‖w_j‖, since one P has to serve every choice.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sparselora.sparse.channels.lowrank import eigh
from sparselora.sparse.channels.moments import LayerMoments
from sparselora.sparse.config import SparsityConfig

RIDGE = 1e-6
"""Added to the covariance of the inputs, relative to its mean diagonal."""


class Correction(NamedTuple):
    """Hold what is added to the sparse output for one choice: shift + (x @ down) @ up."""

    shift: Tensor
    """(d,)."""
    down: Tensor | None = None
    """(d, r)."""
    up: Tensor | None = None
    """(r, d)."""

    def to(self, device: torch.device) -> "Correction":
        """Return the same on another device."""
        down = None if self.down is None else self.down.to(device)
        up = None if self.up is None else self.up.to(device)
        return Correction(self.shift.to(device), down, up)


def reduced_rank(covariance: Tensor, cross_covariance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the linear map of rank r from x to y that is nearest in mean square, both centred.

    Args:
        covariance: of x, (d, d).
        cross_covariance: E[x yᵀ], (d, m).
        rank: r.

    Returns:
        (d, r) and (r, m), whose product is the map.
    """
    factor = _factor(covariance)
    # In whitened coordinates the best map of rank r is the regression projected on its r leading
    # left singular vectors.
    whitened = torch.linalg.solve_triangular(factor, cross_covariance, upper=False)
    leading = eigh(whitened @ whitened.T)[1][:, -rank:]
    down = torch.linalg.solve_triangular(factor.T, leading, upper=True)
    return down, leading.T @ whitened


def _factor(covariance: Tensor) -> Tensor:
    """Return Cholesky's factor of the covariance and a ridge: a LayerNorm leaves a null direction."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    ridge = RIDGE * float(covariance.diagonal().mean().clamp_min(1e-30))
    while True:
        factor, info = torch.linalg.cholesky_ex(covariance + ridge * eye)
        if int(info) == 0:
            return factor
        ridge *= 10


@dataclass(eq=False)
class ChannelFit:
    """Approximate every channel of one block: ν (f,), and for `lowrank` P (d, r) and q (r, f).

    Args:
        intercepts: ν.
        down: P.
        up: q.
        all_shift: Σ_j ν_j w_j over all channels, (d,).
        all_up: Σ_j q_j w_j over all channels, (r, d).
    """

    intercepts: Tensor
    all_shift: Tensor
    down: Tensor | None = None
    up: Tensor | None = None
    all_up: Tensor | None = None

    def to(self, device: torch.device) -> "ChannelFit":
        """Return the same on another device."""
        return replace(
            self,
            **{
                field.name: part.to(device)
                for field in fields(self)
                if (part := getattr(self, field.name)) is not None
            },
        )

    def correction(self, indices: Tensor, rows: Tensor) -> Correction:
        """Return the correction for a choice of channels; it takes 2·k·d·(1 + r) FLOPs.

        Args:
            indices: of the kept channels, (k,).
            rows: theirs of lin2ᵀ, (k, d).
        """
        # Differences of large sums, so in float32 at least, whatever the step computes in.
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.to(self.intercepts.dtype)
            shift = self.all_shift - self.intercepts.index_select(0, indices) @ rows
            if self.down is None or self.up is None or self.all_up is None:
                return Correction(shift)
            up = self.all_up - self.up.index_select(1, indices) @ rows
        return Correction(shift, self.down, up)


@dataclass(eq=False)
class Compensation:
    """Stand in for the channels left out of one block, on whatever device they are.

    A choice that stays has a correction of its own, fitted once; any other is corrected by what was
    fitted for every channel. Of both None, nothing is added.
    """

    every_channel: ChannelFit | None = None
    one_choice: Correction | None = None
    """Of the choice that stays at the full sparsity."""
    kept: int = 0
    """How many channels that choice keeps: a smaller share of the sparsity keeps more."""

    @classmethod
    @torch.no_grad()
    def fitted(
        cls,
        config: SparsityConfig,
        moments: LayerMoments | None,
        lin2: Tensor,
        stays: Tensor | None,
    ) -> "Compensation":
        """Fit what a config asks for to the calibration batches.

        Args:
            config: says which compensation, and of which rank.
            moments: of the block; needed unless the compensation is `none`.
            lin2: (d, f).
            stays: the channels of a choice that stays, (k,); None where the choice changes.
        """
        kind, rank = config.compensation, config.compensation_rank
        if kind == "none":
            return cls()
        assert moments is not None
        if kind == "mean":
            return cls(mean_compensation(moments, lin2))
        fit = lowrank_compensation(moments, lin2, rank)
        if stays is None:
            return cls(fit)
        return cls(fit, fixed_correction(moments, lin2, stays, rank), len(stays))

    def correction(self, indices: Tensor, rows: Tensor) -> Correction | None:
        """Return what to add for a choice of channels; arguments as of `ChannelFit.correction`."""
        if self.one_choice is not None and len(indices) == self.kept:
            if self.one_choice.shift.device != indices.device:
                self.one_choice = self.one_choice.to(indices.device)
            return self.one_choice
        if self.every_channel is None:
            return None
        if self.every_channel.intercepts.device != indices.device:
            self.every_channel = self.every_channel.to(indices.device)
        return self.every_channel.correction(indices, rows)


def mean_compensation(moments: LayerMoments, lin2: Tensor) -> ChannelFit:
    """Approximate each channel by its mean over the calibration batches; `lin2` is (d, f)."""
    mean = moments.activation_mean
    dtype = torch.promote_types(lin2.dtype, torch.float32)
    return ChannelFit(mean.to(dtype), (lin2.double() @ mean).to(dtype))


def lowrank_compensation(moments: LayerMoments, lin2: Tensor, rank: int) -> ChannelFit:
    """Approximate each channel by one map of rank r, fitted on all of them, for choices that change."""
    wide = lin2.double()
    norms = wide.norm(dim=0).clamp_min(1e-12)
    down, up = reduced_rank(moments.input_covariance(), moments.cross_covariance() * norms, rank)
    up = up / norms
    intercepts = moments.activation_mean - (moments.input_mean @ down) @ up
    dtype = torch.promote_types(lin2.dtype, torch.float32)
    parts = (intercepts, wide @ intercepts, down, up, up @ wide.T)
    return ChannelFit(*(part.to(dtype) for part in parts))


def fixed_correction(moments: LayerMoments, lin2: Tensor, kept: Tensor, rank: int) -> Correction:
    """Fit, for one choice that stays, the map of rank r to what its left-out channels add."""
    out = torch.ones(lin2.shape[1], dtype=torch.bool, device=lin2.device)
    out[kept] = False
    columns = lin2[:, out].double()  # (d, |L|)
    cross = moments.cross_covariance()[:, out] @ columns.T
    down, up = reduced_rank(moments.input_covariance(), cross, rank)
    shift = columns @ moments.activation_mean[out] - (moments.input_mean @ down) @ up
    dtype = torch.promote_types(lin2.dtype, torch.float32)
    return Correction(shift.to(dtype), down.to(dtype), up.to(dtype))
