"""Choose the channels of one part of a layer, and keep the choice for as long as its config says."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparselora.sparse.channels.head_channels import AttentionChannels
from sparselora.sparse.channels.random_scores import left_alone
from sparselora.sparse.channels.selector import FFNChannels
from sparselora.sparse.channels.state import Call, SparsityState
from sparselora.sparse.config import SparsityConfig

Channels = TypeVar("Channels", FFNChannels, AttentionChannels)


class ChannelChoice(Generic[Channels]):
    """Hold what is chosen, until when it holds, and what was gathered for it.

    Within one call of the model the choice is made once, so that a recomputation under gradient
    checkpointing takes the same channels. Under `torch.distributed` all ranks choose alike. A call that
    trains nothing leaves kept choices and generators as they were.

    Args:
        name: under which a call of the model has it.
        config: how to choose, and for how many calls.
        state: shared by what is sparse in a model.
        scorer: gives the scores, one tensor or several, from hidden states (n, d) and token weights
            (n, 1) or None.
        pick: (scores, *kept) → the channels; `kept` are the numbers that `select` is called with.
    """

    def __init__(
        self,
        name: str,
        config: SparsityConfig,
        state: SparsityState,
        scorer: nn.Module,
        pick: Callable[..., Channels],
    ) -> None:
        self.name, self.config, self.state = name, config, state
        self.scorer = scorer
        self.pick: Callable[..., Channels] = pick
        self.chosen: Channels | None = None
        """The last choice of a call that trains; None before the first."""
        self.expires = 0
        """The first sparse call of the model, by its number, that chooses anew."""
        self.keeps = config.kind.fixed or config.estimator_every > 1
        """Whether a choice serves several calls, so that what is gathered for it is kept too."""
        self.gathered: dict[str, Any] = {}
        """By name, what was gathered for `chosen`; emptied when another is kept."""

    def current(self) -> Channels | None:
        """Return what was chosen for the call in hand; None where nothing was."""
        call = self.state.in_hand()
        if call.choices is not None:
            found: Channels | None = call.choices.get(self.name)
            return found
        holds = self.config.kind.fixed or call.number is None or call.number < self.expires
        return self.chosen if holds else None

    def was_made(self) -> bool:
        """Return whether the call in hand has chosen before."""
        return self.name in (self.state.in_hand().choices or ())

    @torch.no_grad()
    def select(self, hidden_states: Tensor, *kept: int, first: bool = True) -> Channels:
        """Return the channels for this batch, chosen or kept.

        Args:
            hidden_states: (B, T, d) or (N, d), of the call in hand.
            kept: how many, as `Channels.kept` of the choice will have it.
            first: whether this is the first to ask in its call; a compiled call has nothing to tell by.

        Raises:
            RuntimeError: a choice is to serve several calls, and the call is compiled.
        """
        call, device = self.state.in_hand(), hidden_states.device
        if call.choices is not None:
            found: Channels | None = call.choices.get(self.name)
            if found is not None and found[0].device == device:
                return found
        elif call.number is None and self.config.estimator_every > 1:
            raise RuntimeError("estimator_every over 1 is not possible under torch.compile")
        holds = self.config.kind.fixed or (
            not first if call.number is None else call.number < self.expires
        )
        there = self.chosen
        same = there is not None and there[0].device == device and there.kept == kept
        if there is None or not (same and holds):
            there = self._choose(hidden_states, kept, call)
        if call.choices is not None:
            call.choices[self.name] = there
        return there

    def _choose(self, hidden_states: Tensor, kept: tuple[int, ...], call: Call) -> Channels:
        if any(buffer.device != hidden_states.device for buffer in self.scorer.buffers()):
            self.scorer.to(hidden_states.device)
        uses_tokens = self.config.kind.uses_tokens
        tokens = self.config.estimator_tokens if uses_tokens else 1
        sample, weights = self.state.sample(hidden_states.detach(), tokens)
        with nullcontext() if call.trains else left_alone(self.scorer):
            scores: Any = self.scorer(sample, weights)
        distributed = dist.is_available() and dist.is_initialized()
        if uses_tokens and distributed:
            scores = _summed(scores) if isinstance(scores, Tensor) else [*map(_summed, scores)]
        chosen = self.pick(scores, *kept)
        if not call.trains:
            return chosen
        # What a batch without context chose serves no other batch; ranks that had some chose with it.
        # Padding is context too, but nothing is chosen by it.
        nothing = not distributed and call.split is not None and not call.split.scored_count
        every = 1 if nothing else self.config.estimator_every
        self.expires = 0 if call.number is None else call.number + every
        self.chosen, self.gathered = chosen, {}
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return what the next call depends on: the choice as a list of tensors, and until when."""
        return {
            "chosen": None if self.chosen is None else [rows.cpu() for rows in self.chosen],
            "expires": self.expires,
        }

    def load_state_dict(
        self, state: Mapping[str, Any], kind: type[Channels], device: torch.device
    ) -> None:
        """Put back what `state_dict` gave, on a device."""
        chosen = state["chosen"]
        self.chosen = None if chosen is None else kind(*(rows.to(device) for rows in chosen))
        self.expires, self.gathered = state["expires"], {}


def _summed(norms: Tensor) -> Tensor:
    """Return norms over the tokens of all ranks."""
    squares = norms.square()
    dist.all_reduce(squares)
    return squares.sqrt_()
