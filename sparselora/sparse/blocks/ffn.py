"""Make one FFN block sparse: choose its channels and compute with them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.ffn import FFNBlock
from sparselora.sparse.blocks.choice import ChannelChoice
from sparselora.sparse.blocks.ffn_slice import FFNSlice
from sparselora.sparse.channels.compensation import Compensation
from sparselora.sparse.channels.ffn_estimators import build_estimator
from sparselora.sparse.channels.moments import LayerMoments
from sparselora.sparse.channels.random_scores import restore_generators, saved_generators
from sparselora.sparse.channels.selector import FFNChannels, select_ffn_channels
from sparselora.sparse.channels.state import SparsityState
from sparselora.sparse.channels.tokens import split_apply
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.copies import CopiedWithModel
from sparselora.sparse.schedule import kept_channels
from sparselora.sparse.swap import HELD
from sparselora.sparse.tensors import tensors_in


class SparseFFN(CopiedWithModel):
    """Compute one FFN block sparsely, by the channels that it chooses.

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
        self._dense_now = False
        """Whether the block's own modules are to compute all channels, inside a sparse call."""
        # Tensors, since a compiled graph would take a number for a constant and compile anew.
        self._calls = torch.zeros((), dtype=torch.int64)
        # Of real tokens: on the device where they are counted, so that nothing waits for it.
        self._tokens = torch.zeros((), dtype=torch.int64, device=block.lin1.device)
        self._computed = torch.zeros_like(self._tokens)
        self.estimator: nn.Module = build_estimator(block, config, moments)
        self.choice: ChannelChoice[FFNChannels] = ChannelChoice(
            block.name, config, state, self.estimator, self._pick
        )
        lin2 = block.lin2.weight.detach()
        # Fitted here, not in the first step.
        fits_one = config.kind.fixed and config.compensation == "lowrank"
        stays = self._fixed_choice(lin2) if fits_one else None
        self.compensation = Compensation.fitted(config, moments, lin2, stays)

    def computes(self) -> bool:
        """Return whether, in a sparse call, all modules of the block are there to compute it."""
        return not self._dense_now and self._is_there()

    @torch.compiler.assume_constant_result
    def _is_there(self) -> bool:
        return self.block.is_current and all(map(self._is_ready, self.modules))

    def _is_ready(self, module: nn.Module) -> bool:
        own = module.__dict__.get(HELD, (None,))[0] is self
        return own and module.training and "forward" not in module.__dict__

    @property
    def modules(self) -> list[nn.Module]:
        """Return the modules that compute the block's parts, each sparsely only while all are there."""
        return [self.block.found[path] for path in self.block.paths]

    def set_training(self, mode: bool) -> None:
        """Set the mode of those modules alone: in a model in evaluation mode nothing else drops then."""
        for module in self.modules:
            module.training = mode

    def follow(self, block: FFNBlock) -> None:
        """Go on with another block's modules and weights, which were put in the place of its own."""
        self.block = block
        self.choice.gathered.clear()

    @property
    def calls(self) -> int:
        """Return how many sparse forward passes there were; recomputed ones do not count."""
        return int(self._calls)

    @property
    def chosen(self) -> Tensor | None:
        """Return the channels of the last sparse call, (k,), sorted; None before the first."""
        return None if self.choice.chosen is None else self.choice.chosen.indices

    @property
    def realised_sparsity(self) -> float | None:
        """Return the share of channels left out, over the real tokens of all sparse calls.

        Tokens that stay dense in a sparse call are of it, padding is not. None before the first call.
        """
        if not int(self._tokens):
            return None
        return 1.0 - int(self._computed) / (int(self._tokens) * self.block.intermediate_size)

    def held(self) -> Iterator[Tensor]:
        """Return the tensors that stay from step to step beside the model's own."""
        return tensors_in((self.estimator, self.choice.gathered, self.compensation))

    @property
    def kept_now(self) -> int:
        """Return k at the present share of the sparsity, rounded as k itself is."""
        f = self.block.intermediate_size
        if self.state.share >= 1.0:
            return self.kept
        return kept_channels(self.state.share * (1.0 - self.kept / f), f)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next call depends on, or the report counts."""
        choice = self.choice.state_dict()
        return {
            "calls": self._calls.clone(),
            "tokens": self._tokens.cpu(),
            "computed": self._computed.cpu(),
            "chosen": None if choice["chosen"] is None else choice["chosen"][0],
            "expires": choice["expires"],
            **saved_generators(self.estimator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._calls.copy_(state["calls"])
        if "tokens" in state:  # counted by calls alone before
            self._tokens.copy_(state["tokens"])
            self._computed.copy_(state["computed"])
        device = self.block.lin1.device
        chosen = None if state["chosen"] is None else [state["chosen"]]
        choice = {"chosen": chosen, "expires": state["expires"]}
        self.choice.load_state_dict(choice, FFNChannels, device)
        restore_generators(self.estimator, state, device)

    def _pick(self, scores: Tensor, kept: int) -> FFNChannels:
        channels = self.block.intermediate_size
        if not isinstance(scores, Tensor) or scores.shape != (channels,):
            given = [*scores.shape] if isinstance(scores, Tensor) else type(scores).__name__
            raise UserError(
                f"estimator={self.config.estimator}: gave scores of {given} for "
                f"{self.block.name}, whose FFN has {channels} channels"
            )
        return FFNChannels(select_ffn_channels(scores, kept))

    @torch.no_grad()
    def _fixed_choice(self, lin2: Tensor) -> Tensor:
        scores = self.estimator(lin2.new_empty(0, self.block.hidden_size), None)
        return self._pick(scores, self.kept).indices

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Compute the block sparsely: (…, d) → (…, d), without its dropout, which its layer applies.

        Where the batch is split, output tokens go through the block's own modules, and are dense.
        """
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        chosen_before = self.choice.was_made()
        # Whatever this rank's batch holds: the others choose with it.
        channels = self.choice.select(hidden_states, self.kept_now)
        if not chosen_before:
            self._count(hidden_states, len(channels.indices))
        y = split_apply(
            self.state.split, x, lambda context: self._compute(context, channels), self._dense
        )
        return y.view(hidden_states.shape)

    def _dense(self, x: Tensor) -> Tensor:
        self._dense_now = True
        try:
            return self.block(x)
        finally:
            self._dense_now = False

    @torch.no_grad()
    def _count(self, hidden_states: Tensor, kept: int) -> None:
        if self._tokens.device != hidden_states.device:
            self._tokens = self._tokens.to(hidden_states.device)
            self._computed = self._computed.to(hidden_states.device)
        sparse, dense = self.state.real_tokens(hidden_states)
        self._calls.add_(1)
        self._tokens.add_(sparse).add_(dense)
        self._computed.add_(sparse, alpha=kept).add_(dense, alpha=self.block.intermediate_size)

    def _compute(self, x: Tensor, channels: FFNChannels) -> Tensor:
        return self._gather(channels, self.block.lin1.dtype(x)).compute(self.block, x)

    @torch.no_grad()
    def _gather(self, channels: FFNChannels, dtype: torch.dtype) -> FFNSlice:
        there: FFNSlice | None = self.choice.gathered.get("ffn")
        if there is not None and there.serves(self.block, channels, dtype):
            return there
        made = FFNSlice.of(self.block, channels, self.compensation, dtype)
        if self.choice.keeps and channels is self.choice.chosen:
            self.choice.gathered["ffn"] = made
        return made
