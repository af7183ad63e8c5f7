"""One FFN block made sparse: chooses its channels and computes with them."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparselora.schedule import kept_channels
from sparselora.sparse.blocks import FFNBlock, LinearMap
from sparselora.sparse.calibration import LayerMoments
from sparselora.sparse.compensation import (
    Compensation,
    Correction,
    fixed_correction,
    lowrank_compensation,
    mean_compensation,
)
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.estimator import build_estimator
from sparselora.sparse.ffn import SparseFFNFunction
from sparselora.sparse.selector import sample_tokens, select_ffn_channels
from sparselora.sparse.state import SparsityState


@dataclass(eq=False)
class Slice:
    """The frozen weights of one choice of channels, and what stands in for the others."""

    indices: Tensor
    """(k,), sorted."""
    lin1: Tensor
    """(k, d); likewise the next two."""
    lin2: Tensor
    gate: Tensor | None
    correction: Correction | None

    def to(self, dtype: torch.dtype) -> "Slice":
        """The same in another dtype; the shift stays, since it is added to a bias."""
        correction = self.correction
        if correction is not None and correction.down is not None:
            assert correction.up is not None
            correction = Correction(
                correction.shift, correction.down.to(dtype), correction.up.to(dtype)
            )
        gate = None if self.gate is None else self.gate.to(dtype)
        return Slice(self.indices, self.lin1.to(dtype), self.lin2.to(dtype), gate, correction)


class SparseFFN:
    """One block made sparse.

    Args:
        block: with its original modules.
        config: how to choose.
        kept: k, from 1 to f, at the full sparsity.
        state: shared by the blocks of a model.
        moments: of the block, where the config needs calibration.
    """

    def __init__(
        self,
        block: FFNBlock,
        config: SparsityConfig,
        kept: int,
        state: SparsityState,
        moments: LayerMoments | None = None,
    ) -> None:
        self.block = block
        self.config = config
        self.kept = kept
        self.state = state
        self.training = True
        self.calls = 0
        self.channels_computed = 0
        self.estimator: nn.Module = build_estimator(block, config, moments)
        self._moments = moments if config.kind.fixed else None
        self._compensation = self._fit_compensation(moments)
        # What is kept from call to call is gathered once; what serves one batch is let go with it.
        self._keeps_slice = config.kind.fixed or config.estimator_every > 1
        self._slice: Slice | None = None
        self._chosen: Tensor | None = None
        self._expires = 0
        """The first call of the model, by its number, that chooses anew."""

    @property
    def chosen(self) -> Tensor | None:
        """The channels of the last sparse call, (k,), sorted; None before the first."""
        return self._chosen

    @property
    def realised_sparsity(self) -> float | None:
        """Share of channels left out over the calls so far, counted in the step; None before."""
        if not self.calls:
            return None
        return 1.0 - self.channels_computed / (self.calls * self.block.intermediate_size)

    @property
    def kept_now(self) -> int:
        """k at the present share of the sparsity, rounded as k itself is."""
        f = self.block.intermediate_size
        if self.state.share >= 1.0:
            return self.kept
        return kept_channels(self.state.share * (1.0 - self.kept / f), f)

    @torch.no_grad()
    def select(self, hidden_states: Tensor) -> Tensor:
        """The channels for this batch: (B, T, d) or (N, d) → (k,), sorted.

        Within one call of the model the choice is made once, so that a recomputation under gradient
        checkpointing takes the same channels. Under `torch.distributed` all ranks choose alike.
        """
        self.state.check_recomputation()
        count, kept = self.state.forward_count, self.kept_now
        holds = self.config.kind.fixed or (count is not None and count < self._expires)
        if self._chosen is not None and holds and len(self._chosen) == kept:
            return self._chosen
        device, mask = hidden_states.device, self.state.attention_mask
        if any(buffer.device != device for buffer in self.estimator.buffers()):
            self.estimator.to(device)
        tokens = self.config.estimator_tokens if self.config.kind.uses_tokens else 1
        sample, weights = sample_tokens(hidden_states, mask, tokens)
        scores = self.estimator(sample, weights)
        if self.config.kind.uses_tokens and dist.is_available() and dist.is_initialized():
            squares = scores.square()  # norms over the tokens of all ranks
            dist.all_reduce(squares)
            scores = squares.sqrt_()
        self._chosen = select_ffn_channels(scores, kept)
        self._expires = 0 if count is None else count + self.config.estimator_every
        self._slice = None
        return self._chosen

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, d) → (…, d), without the block's dropout, which its layer applies."""
        indices = self.select(hidden_states)
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        self.calls += 1
        self.channels_computed += indices.numel()
        dtype = self.block.lin1.weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        weights = self._gather(indices, dtype)
        block, correction = self.block, weights.correction
        b1, b2 = _bias(block.lin1, indices), block.lin2.bias
        bg = None if block.gate is None else _bias(block.gate, indices)
        if correction is not None:
            b2 = correction.shift if b2 is None else b2 + correction.shift
        b1, b2, bg = (None if bias is None else bias.to(dtype) for bias in (b1, b2, bg))
        y: Tensor = SparseFFNFunction.apply(
            x.to(dtype),
            weights.lin1,
            b1,
            weights.lin2,
            b2,
            block.activation,
            weights.gate,
            bg,
            None if correction is None else correction.down,
            None if correction is None else correction.up,
        )
        return y.view(hidden_states.shape)

    @torch.no_grad()
    def _gather(self, indices: Tensor, dtype: torch.dtype) -> Slice:
        kept = self._slice
        if kept is not None and kept.lin1.dtype == dtype and kept.lin1.device == indices.device:
            return kept
        block = self.block
        lin2 = block.lin2.weight.t().index_select(0, indices)
        gate = None if block.gate is None else block.gate.weight.index_select(0, indices)
        weights = Slice(
            indices,
            block.lin1.weight.index_select(0, indices),
            lin2,
            gate,
            self._correction(indices, lin2),
        ).to(dtype)
        if self._keeps_slice:
            self._slice = weights
        return weights

    def _correction(self, indices: Tensor, lin2: Tensor) -> Correction | None:
        if self._compensation is not None:
            return self._compensation.to(indices.device).correction(indices, lin2)
        if self.config.compensation == "none":
            return None
        assert self._moments is not None
        return fixed_correction(
            self._moments.to(indices.device),
            self.block.lin2.weight,
            indices,
            self.config.compensation_rank,
        )

    def _fit_compensation(self, moments: LayerMoments | None) -> Compensation | None:
        kind, lin2 = self.config.compensation, self.block.lin2.weight.detach()
        if kind == "none" or (kind == "lowrank" and self.config.kind.fixed):
            return None
        assert moments is not None
        if kind == "mean":
            return mean_compensation(moments, lin2)
        return lowrank_compensation(moments, lin2, self.config.compensation_rank)


def _bias(linear: LinearMap, indices: Tensor) -> Tensor | None:
    bias = linear.bias
    return None if bias is None else bias.index_select(0, indices)
