"""One FFN block made sparse: chooses its channels and computes with them."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.ffn import FFNBlock
from sparselora.sparse.backbone.linear_map import LinearMap
from sparselora.sparse.channels.compensation import (
    Compensation,
    Correction,
    fixed_correction,
    lowrank_compensation,
    mean_compensation,
)
from sparselora.sparse.channels.ffn_estimators import build_estimator, left_alone
from sparselora.sparse.channels.moments import LayerMoments
from sparselora.sparse.channels.selector import select_ffn_channels
from sparselora.sparse.channels.state import Call, SparsityState
from sparselora.sparse.channels.tokens import split_apply
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.copies import CopiedWithModel
from sparselora.sparse.ops.ffn import SparseFFNFunction
from sparselora.sparse.schedule import kept_channels
from sparselora.sparse.swap import HELD
from sparselora.sparse.tensors import tensors_in


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
    merged: tuple[tuple[object, ...], ...]
    """Of each map when it was sliced, see `LinearMap.merged`."""

    def to(self, dtype: torch.dtype) -> "Slice":
        """The same in another dtype; the shift stays, since it is added to a bias."""
        correction = self.correction
        if correction is not None and correction.down is not None:
            assert correction.up is not None
            correction = correction._replace(
                down=correction.down.to(dtype), up=correction.up.to(dtype)
            )
        gate = None if self.gate is None else self.gate.to(dtype)
        lin1, lin2 = self.lin1.to(dtype), self.lin2.to(dtype)
        return Slice(self.indices, lin1, lin2, gate, correction, self.merged)


class SparseFFN(CopiedWithModel):
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
        self._whole_now = False
        """Whether the block's own modules are to compute all channels, inside a sparse call."""
        # Tensors, since a compiled graph would take a number for a constant and compile anew.
        self._calls = torch.zeros((), dtype=torch.int64)
        # Of real tokens: on the device where they are counted, so that nothing waits for it.
        self._tokens = torch.zeros((), dtype=torch.int64, device=block.lin1.device)
        self._computed = torch.zeros_like(self._tokens)
        self.estimator: nn.Module = build_estimator(block, config, moments)
        self._compensation = self._fit_compensation(moments)
        # What is kept from call to call is gathered once; what serves one batch is let go with it.
        self._keeps_slice = config.kind.fixed or config.estimator_every > 1
        self._slice: Slice | None = None
        self._chosen: Tensor | None = None
        self._expires = 0
        """The first sparse call of the model, by its number, that chooses anew."""
        self._fixed = self._fit_fixed(moments)
        self._fixed_kept = kept

    def computes(self) -> bool:
        """Whether, in a sparse call, all modules of the block are there, and training, to compute it."""
        return not self._whole_now and self._is_there()

    @torch.compiler.assume_constant_result
    def _is_there(self) -> bool:
        return self.block.is_current and all(map(self._is_ready, self.modules))

    def _is_ready(self, module: nn.Module) -> bool:
        own = module.__dict__.get(HELD, (None,))[0] is self
        return own and module.training and "forward" not in module.__dict__

    @property
    def modules(self) -> list[nn.Module]:
        """What stands in for the block: each computes its part of it only while all are there."""
        return [self.block.found[path] for path in self.block.paths]

    def set_training(self, mode: bool) -> None:
        """Set the mode of those modules alone: in a model in evaluation mode nothing else drops then."""
        for module in self.modules:
            module.training = mode

    def follow(self, block: FFNBlock) -> None:
        """Go on with another block's modules and weights, which were put in the place of its own."""
        self.block, self._slice = block, None

    @property
    def calls(self) -> int:
        """How many sparse forward passes there were; what checkpointing recomputes is not one."""
        return int(self._calls)

    @property
    def chosen(self) -> Tensor | None:
        """The channels of the last sparse call, (k,), sorted; None before the first."""
        return self._chosen

    @property
    def realised_sparsity(self) -> float | None:
        """Share of channels left out, over the real tokens of all sparse calls; None before the first.

        Tokens that stay dense in a sparse call are of it, padding is not.
        """
        if not int(self._tokens):
            return None
        return 1.0 - int(self._computed) / (int(self._tokens) * self.block.intermediate_size)

    def held(self) -> Iterator[Tensor]:
        """What stays from step to step beside the model's own tensors."""
        return tensors_in((self.estimator, self._slice, self._compensation, self._fixed))

    @property
    def kept_now(self) -> int:
        """k at the present share of the sparsity, rounded as k itself is."""
        f = self.block.intermediate_size
        if self.state.share >= 1.0:
            return self.kept
        return kept_channels(self.state.share * (1.0 - self.kept / f), f)

    def state_dict(self) -> dict[str, Any]:
        """What the next call depends on, or the report counts."""
        generator = getattr(self.estimator, "generator", None)
        return {
            "calls": self._calls.clone(),
            "tokens": self._tokens.cpu(),
            "computed": self._computed.cpu(),
            "chosen": None if self._chosen is None else self._chosen.cpu(),
            "expires": self._expires,
            "generator": None if generator is None else generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._calls.copy_(state["calls"])
        if "tokens" in state:  # counted by calls alone before
            self._tokens.copy_(state["tokens"])
            self._computed.copy_(state["computed"])
        device = self.block.lin1.device
        self._chosen = None if state["chosen"] is None else state["chosen"].to(device)
        self._expires, self._slice = state["expires"], None
        if state["generator"] is not None:
            generator = torch.Generator(device=device)
            generator.set_state(state["generator"])
            setattr(self.estimator, "generator", generator)  # noqa: B010 (a module's attribute)

    @torch.no_grad()
    def select(self, hidden_states: Tensor) -> Tensor:
        """The channels for this batch: (B, T, d) or (N, d) → (k,), sorted.

        Within one call of the model the choice is made once, so that a recomputation under gradient
        checkpointing takes the same channels. Under `torch.distributed` all ranks choose alike. A call
        that trains nothing leaves kept choices and generators as they were.
        """
        call = self.state.in_hand()
        found: Tensor | None = None if call.choices is None else call.choices.get(self.block.name)
        if found is not None and found.device == hidden_states.device:
            return found
        count, kept = call.number, self.kept_now
        if call.number is None and call.choices is None and self.config.estimator_every > 1:
            raise RuntimeError("estimator_every over 1 is not possible under torch.compile")
        holds = self.config.kind.fixed or (count is not None and count < self._expires)
        there = self._chosen
        same = there is not None and len(there) == kept and there.device == hidden_states.device
        if there is None or not (same and holds):
            there = self._choose(hidden_states, kept, call)
        if call.choices is not None:
            call.choices[self.block.name] = there
        return there

    def _choose(self, hidden_states: Tensor, kept: int, call: Call) -> Tensor:
        if any(buffer.device != hidden_states.device for buffer in self.estimator.buffers()):
            self.estimator.to(hidden_states.device)
        tokens = self.config.estimator_tokens if self.config.kind.uses_tokens else 1
        sample, weights = self.state.sample(hidden_states.detach(), tokens)
        with nullcontext() if call.trains else left_alone(self.estimator):
            scores = self.estimator(sample, weights)
        if scores.shape != (self.block.intermediate_size,):
            raise UserError(
                f"estimator={self.config.estimator}: gave scores of {[*scores.shape]} for "
                f"{self.block.name}, whose FFN has {self.block.intermediate_size} channels"
            )
        if self.config.kind.uses_tokens and dist.is_available() and dist.is_initialized():
            squares = scores.square()  # norms over the tokens of all ranks
            dist.all_reduce(squares)
            scores = squares.sqrt_()
        chosen = select_ffn_channels(scores, kept)
        if not call.trains:
            return chosen
        # What a batch without context chose serves no other batch.
        alone = not (dist.is_available() and dist.is_initialized())
        nothing = alone and call.split is not None and not call.split.context
        every = 1 if nothing else self.config.estimator_every
        self._expires = 0 if call.number is None else call.number + every
        self._chosen, self._slice = chosen, None
        return chosen

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, d) → (…, d), without the block's dropout, which its layer applies.

        Where the batch is split, output tokens go through the whole block.
        """
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        chosen_before = self.block.name in (self.state.in_hand().choices or ())
        # Whatever this rank's batch holds: the others choose with it.
        indices = self.select(hidden_states)
        if not chosen_before:
            self._count(hidden_states, indices.numel())
        y = split_apply(
            self.state.split, x, lambda context: self._compute(context, indices), self._whole
        )
        return y.view(hidden_states.shape)

    def _whole(self, x: Tensor) -> Tensor:
        self._whole_now = True
        try:
            return self.block(x)
        finally:
            self._whole_now = False

    @torch.no_grad()
    def _count(self, hidden_states: Tensor, kept: int) -> None:
        if self._tokens.device != hidden_states.device:
            self._tokens = self._tokens.to(hidden_states.device)
            self._computed = self._computed.to(hidden_states.device)
        sparse, dense = self.state.real_tokens(hidden_states)
        self._calls.add_(1)
        self._tokens.add_(sparse).add_(dense)
        self._computed.add_(sparse, alpha=kept).add_(dense, alpha=self.block.intermediate_size)

    def _compute(self, x: Tensor, indices: Tensor) -> Tensor:
        """(N, d) → (N, d)."""
        dtype = self.block.lin1.dtype(x)
        weights = self._gather(indices, dtype)
        block, correction = self.block, weights.correction
        b1, b2 = _bias(block.lin1, indices), block.lin2.bias
        bg = None if block.gate is None else _bias(block.gate, indices)
        if correction is not None:
            b2 = correction.shift if b2 is None else b2 + correction.shift
        b1, b2, bg = (None if bias is None else bias.to(dtype) for bias in (b1, b2, bg))
        if block.has_adapters:
            y = self._with_adapters(x.to(dtype), weights, b1, b2, bg)
            return block.lin2.returned(y, x)
        y = SparseFFNFunction.apply(
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
        return block.lin2.returned(y, x)

    def _with_adapters(
        self,
        x: Tensor,
        weights: Slice,
        b1: Tensor | None,
        b2: Tensor | None,
        bg: Tensor | None,
    ) -> Tensor:
        """The same where maps of the block carry LoRA: its rows and columns of the kept channels.

        A channel that is left out is zero to lin2 and to its adapter alike, so the adapters' part is
        exact for the channels that are there. Left to autograd, since adapters train.
        """
        block, indices = self.block, weights.indices
        z = nn.functional.linear(x, weights.lin1, b1) + _adapted(block.lin1, x, indices)
        if block.gate is None:
            a = block.activation(z)
        else:
            assert weights.gate is not None
            g = nn.functional.linear(x, weights.gate, bg) + _adapted(block.gate, x, indices)
            a = block.activation(g) * z
        y = nn.functional.linear(a, weights.lin2.t(), b2)
        last = block.lin2.adapter
        if last is not None:
            low = last.dropout(a) @ last.a.index_select(1, indices).to(a.dtype).t()
            y = y + last.scaling * (low @ last.b.to(a.dtype).t())
        if weights.correction is not None and weights.correction.down is not None:
            assert weights.correction.up is not None
            y = y + (x @ weights.correction.down) @ weights.correction.up
        return y

    @torch.no_grad()
    def _gather(self, indices: Tensor, dtype: torch.dtype) -> Slice:
        kept, block = self._slice, self.block
        same = kept is not None and kept.lin1.dtype == dtype and kept.indices is indices
        if kept is not None and same and kept.merged == block.merged:
            return kept
        lin1, lin2, gate = block.weights()
        lin2 = lin2.t().index_select(0, indices)
        weights = Slice(
            indices,
            lin1.index_select(0, indices),
            lin2,
            None if gate is None else gate.index_select(0, indices),
            self._correction(indices, lin2),
            block.merged,
        ).to(dtype)
        if self._keeps_slice and indices is self._chosen:
            self._slice = weights
        return weights

    def _correction(self, indices: Tensor, lin2: Tensor) -> Correction | None:
        if self._fixed is not None and len(indices) == self._fixed_kept:
            if self._fixed.shift.device != indices.device:
                self._fixed = self._fixed.to(indices.device)
            return self._fixed
        if self._compensation is None:
            return None
        if self._compensation.intercepts.device != indices.device:
            self._compensation = self._compensation.to(indices.device)
        return self._compensation.correction(indices, lin2)

    def _fit_compensation(self, moments: LayerMoments | None) -> Compensation | None:
        kind, lin2 = self.config.compensation, self.block.lin2.weight.detach()
        if kind == "none":
            return None
        assert moments is not None
        if kind == "mean":
            return mean_compensation(moments, lin2)
        return lowrank_compensation(moments, lin2, self.config.compensation_rank)

    @torch.no_grad()
    def _fit_fixed(self, moments: LayerMoments | None) -> Correction | None:
        """The map for the one choice of a fixed estimator: fitted here, not in its first step."""
        if self.config.compensation != "lowrank" or not self.config.kind.fixed:
            return None
        assert moments is not None
        lin2 = self.block.lin2.weight.detach()
        scores = self.estimator(lin2.new_empty(0, self.block.hidden_size), None)
        kept = select_ffn_channels(scores, self.kept)
        return fixed_correction(moments, lin2, kept, self.config.compensation_rank)


def _adapted(linear: LinearMap, x: Tensor, indices: Tensor) -> Tensor | float:
    adapter = linear.adapter
    if adapter is None:
        return 0.0
    low = adapter.dropout(x) @ adapter.a.to(x.dtype).t()
    return adapter.scaling * (low @ adapter.b.index_select(0, indices).to(x.dtype).t())


def _bias(linear: LinearMap, indices: Tensor) -> Tensor | None:
    bias = linear.bias
    return None if bias is None else bias.index_select(0, indices)
