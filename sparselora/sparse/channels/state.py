"""Hold what the sparse blocks of one model share: the switch, and the call in hand."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparselora.errors import UserError
from sparselora.sparse.channels.sampling import Positions, positions_to_sample, sample_tokens, take
from sparselora.sparse.channels.tokens import TokenSplit
from sparselora.sparse.compat import current_graph_task, tree_leaves


@dataclass(eq=False)
class Call:
    """Hold one call of the backbone: whether it is sparse, of which batch, and what was chosen in it.

    The autograd graph that a call makes keeps it, so that gradient checkpointing recomputes with what
    the forward pass had, whatever ran in between, and a graph that is dropped takes it along.
    """

    sparse: bool
    trains: bool = True
    """Whether it counts: channels are kept for later calls, and generators drawn from."""
    number: int | None = None
    """Which sparse training call it is; None where it is compiled, or none."""
    attention_mask: Tensor | None = None
    """Of the tokens that are scored."""
    split: TokenSplit | None = None
    """None where all tokens are sparse."""
    choices: dict[str, Any] | None = None
    """By name of the block; None where nothing is to be found again (a compiled or a direct call)."""
    sampled: dict[tuple[Any, ...], Positions] = field(default_factory=dict)
    """The tokens that are scored, by shape."""
    tokens: tuple[Tensor | int, Tensor | int] | None = None
    """How many real tokens are sparse, and dense; None where every position is real."""
    before: "Call | None" = None
    """The call in hand when this one, which leaves no trace, began."""


class SparsityState:
    """Hold the switch and the present call of one sparse model."""

    def __init__(
        self, context_only: bool = False, sink_tokens: int = 0, fixed: bool = False
    ) -> None:
        self.context_only, self.sink_tokens = context_only, sink_tokens
        """Whether output tokens stay dense, and how many of the first ones with them."""
        self.fixed = fixed
        """Whether channels are chosen once, whatever the batch."""
        self.enabled = False
        self.share = 1.0
        """Of the way from dense to the sparsity asked for: below 1 while sparsity ramps up."""
        self.without_gradients = False
        """Whether calls that train nothing are sparse too, see `SparsityHandle.without_gradients`."""
        self.call: Call | None = None
        """The last call of the backbone that trains, or the one in hand; None after a switch."""
        self.labels: Tensor | None = None
        """Of the batch in hand, where they are needed."""
        self.forward_count: int | None = None
        """How many sparse training calls of the backbone there were; None before the first, or where it
        is compiled. Dense steps and evaluation do not count, so all ranks of a group count alike."""
        self.warning: str | None = None
        """What the next sparse call is to warn of."""
        self._looks_for_context = context_only
        """Until a batch had any."""
        self.handle: Any = None
        """The `SparsityHandle` of this model; None of a copy's."""

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or what was pickled, is of another model: its calls and its handle are not this one's.
        return self.__dict__ | {"handle": None, "call": None, "labels": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "SparsityState":
        copy = object.__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__.update(self.__getstate__())
        return copy

    @property
    def sparse(self) -> bool:
        """Return whether what runs now is sparse."""
        return self.enabled if self.call is None else self.call.sparse

    @property
    def split(self) -> TokenSplit | None:
        """Return the split of the call in hand; None where all its tokens are sparse."""
        return None if self.call is None else self.call.split

    def switch(self, share: float) -> None:
        """Make calls dense from now on where `share` is 0, and sparse to that share where it is not."""
        self.enabled, self.share = share > 0.0, share
        self.call = None

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Make what runs inside dense, and leave everything as it was before."""
        before = self.enabled, self.share, self.call
        self.enabled, self.call = False, None
        try:
            yield
        finally:
            self.enabled, self.share, self.call = before

    def in_hand(self) -> Call:
        """Return the call in hand, or one that stands for a direct call of a block."""
        if self.call is None:
            self.call = Call(self.enabled, number=self.forward_count)
        return self.call

    def enter(
        self,
        attention_mask: Tensor | None,
        training: bool = True,
        position_ids: Tensor | None = None,
    ) -> None:
        """Note that the backbone is called; its mask is None where it is not one of padding.

        Here alone it is decided whether the call is sparse: a reentrant checkpoint runs its first pass
        without gradients inside the backbone, and blocks that asked for themselves would be of two
        minds.

        Raises:
            UserError: output tokens are to stay dense and the call has no label for each token, or
                checkpointing runs around the whole model.
        """
        labels, self.labels = self.labels, None
        trains = training and torch.is_grad_enabled()
        if not trains and not (self.enabled and self.without_gradients):
            self.call = Call(False, trains=False, before=self.call)
            return
        if not self.enabled:
            self.call = Call(False)
            return
        compiling = torch.compiler.is_compiling()
        if not compiling and trains and current_graph_task() != -1:
            raise UserError(
                "gradient checkpointing: the whole model is called again inside a backward pass; sparse "
                "blocks need its layers checkpointed instead (model.gradient_checkpointing_enable())"
            )
        split: TokenSplit | None = None
        tokens: tuple[Tensor | int, Tensor | int] | None = None
        if self.context_only:
            if labels is None or labels.dim() != 2:
                raise UserError(
                    "tokens=context: the model has to be called with labels, one for each token, to "
                    "tell output from context; a trainer that computes the loss itself (a label "
                    "smoothing factor, a loss function of its own) may have taken them out: leave that "
                    "out, or use tokens=all"
                )
            split = TokenSplit.of(labels, attention_mask, self.sink_tokens, position_ids)
            attention_mask, tokens = split.scored, (split.scored_count, split.dense_count)
            self._look_for_context(split)
        elif attention_mask is not None:
            tokens = (attention_mask.count_nonzero(), 0)
        before = None if trains else self.call
        self.call = Call(True, trains, None, attention_mask, split, tokens=tokens, before=before)
        if compiling:
            self.forward_count = None
            return
        self.call.choices = {}
        if trains:
            self.forward_count = self.call.number = (self.forward_count or 0) + 1
            if self.warning is not None:
                message, self.warning = self.warning, None
                warnings.warn(message, stacklevel=2)

    def leave(self, output: object) -> None:
        """Note that the backbone's call has ended, with what it gave; None where it failed."""
        call = self.call
        if call is None:
            return
        if not call.trains:
            self.call = call.before
        elif call.choices is not None or not call.sparse:
            self._tie(call, output)

    def _tie(self, call: Call, output: object) -> None:
        """Have the backward pass of a call begin with that call in hand."""
        if torch.compiler.is_compiling():
            return  # a graph that is compiled is recomputed by the compiler, not by this code

        def take_up(_: Tensor) -> None:
            self.call = call

        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(take_up)

    def _look_for_context(self, split: TokenSplit) -> None:
        if not self._looks_for_context:
            return
        self._looks_for_context = False
        if not split.scored_count and not torch.compiler.is_compiling():
            warnings.warn(
                "tokens=context: every token of the first batch has a label, so that all of them are "
                "computed densely and nothing is saved; label the completion alone (−100 elsewhere), or "
                "use tokens=all",
                stacklevel=2,
            )

    def sample(self, hidden_states: Tensor, tokens: int | None) -> tuple[Tensor, Tensor | None]:
        """Return `sample_tokens` of the batch in hand; which they are is found once in a call."""
        call = self.in_hand()
        mask = call.attention_mask
        if is_first_token_alone(hidden_states) and mask is not None and mask.shape[1] > 1:
            mask = None  # first tokens of a last layer, which are read whatever the mask says
        if torch.compiler.is_compiling():  # a shape as a key would make one graph of each
            return sample_tokens(hidden_states, mask, tokens)
        key = (hidden_states.shape[:-1], hidden_states.device, tokens)
        if key not in call.sampled:
            call.sampled[key] = positions_to_sample(hidden_states, mask, tokens)
        return take(hidden_states, call.sampled[key])

    def real_tokens(self, hidden_states: Tensor) -> tuple[Tensor | int, Tensor | int]:
        """Return how many of a block's tokens are sparse, and dense; padding is neither."""
        call = self.in_hand()
        if call.tokens is None or is_first_token_alone(hidden_states):
            return hidden_states.shape[:-1].numel(), 0
        return call.tokens


def is_first_token_alone(hidden_states: Tensor) -> bool:
    """Return whether these are (B, 1, d): rows of one token, as a last layer may have them."""
    return hidden_states.dim() == 3 and hidden_states.shape[1] == 1
