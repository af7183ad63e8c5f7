"""What the sparse blocks of one model share: the switch, and the batch in hand."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.selector import Positions, positions_to_sample, sample_tokens, take
from sparselora.sparse.tokens import TokenSplit


class SparsityState:
    """The switch and the present batch of one sparse model."""

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
        self.attention_mask: Tensor | None = None
        """Of the tokens that are scored."""
        self.split: TokenSplit | None = None
        """Of the batch in hand; None where all its tokens are sparse."""
        self.labels: Tensor | None = None
        """Of the batch in hand, where they are needed."""
        self.forward_count: int | None = None
        """Which sparse training call of the backbone is running; None before the first, or where it is
        compiled. Dense steps and evaluation do not count, so that all ranks of a group count alike."""
        self._sampled: dict[tuple[Any, ...], Positions] = {}
        """The tokens that are scored in the call in hand, by shape."""
        self._unmatched_forwards = 0
        self._overtaken = False
        """Whether another call took what a recomputation needs before the backward pass was there."""
        self._backward_task = -1

    def switch(self, share: float) -> None:
        """Dense from now on where `share` is 0; what ran before is none of the next backward's."""
        self.enabled, self.share = share > 0.0, share
        self._unmatched_forwards, self._overtaken = 0, False

    def begin_forward(
        self,
        attention_mask: Tensor | None,
        training: bool = True,
        position_ids: Tensor | None = None,
    ) -> None:
        """Note a call of the backbone; its mask is None where it is not one of padding.

        Raises:
            UserError: output tokens are to stay dense and the call has no label for each token.
        """
        chooses = self.enabled and training and not self.fixed
        if self._unmatched_forwards and (self.context_only or chooses):
            self._overtaken = True
        self.attention_mask, self.split, self._sampled = attention_mask, None, {}
        labels, self.labels = self.labels, None
        if not (self.enabled and training):
            return
        if self.context_only:
            if labels is None or labels.dim() != 2:
                raise UserError(
                    "tokens=context: the model has to be called with labels, one for each token, to "
                    "tell output from context"
                )
            self.split = TokenSplit.of(labels, attention_mask, self.sink_tokens, position_ids)
            self.attention_mask = self.split.scored
        if torch.compiler.is_compiling():
            self.forward_count = None
            return
        self.forward_count = (self.forward_count or 0) + 1
        self._unmatched_forwards += torch.is_grad_enabled()

    def sample(self, hidden_states: Tensor, tokens: int | None) -> tuple[Tensor, Tensor | None]:
        """`sample_tokens` of the batch in hand; which they are is found out once a call, not a layer."""
        mask = self.attention_mask
        one_each = hidden_states.dim() == 3 and hidden_states.shape[1] == 1
        if one_each and mask is not None and mask.shape[1] > 1:
            mask = None  # first tokens of a last layer, which are read whatever the mask says
        if torch.compiler.is_compiling():  # a shape as a key would make one graph of each
            return sample_tokens(hidden_states, mask, tokens)
        key = (hidden_states.shape[:-1], hidden_states.device, tokens)
        if key not in self._sampled:
            self._sampled[key] = positions_to_sample(hidden_states, mask, tokens)
        return take(hidden_states, self._sampled[key])

    def check_recomputation(self) -> None:
        """Refuse a recomputation, under gradient checkpointing, whose forward call is not known.

        Raises:
            RuntimeError: inside a backward pass that several forward calls went before, or whose
                own was not the last call of the model.
        """
        if torch.compiler.is_compiling():
            return  # a graph that is compiled is recomputed by the compiler, not by this code
        task = torch._C._current_graph_task_id()
        if task in (-1, self._backward_task):
            return
        if self._unmatched_forwards > 1:
            raise RuntimeError(
                f"gradient checkpointing: {self._unmatched_forwards} forward calls before one "
                "backward pass; sparse blocks need a backward pass after each"
            )
        if self._overtaken:
            raise RuntimeError(
                "gradient checkpointing: another call of the model came between a forward pass and its "
                "backward pass; sparse blocks need the backward pass first"
            )
        self._backward_task, self._unmatched_forwards = task, 0


def padding_mask(
    backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """The (batch, length) attention mask among a backbone's arguments; None where there is none."""
    mask = argument(backbone, "attention_mask", args, kwargs)
    return mask if mask is not None and mask.dim() == 2 else None


def argument(
    module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """One argument of a call of `module`, however it is given; None where it is not."""
    if name in kwargs or not args:
        given: Tensor | None = kwargs.get(name)
        return given
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    return bound.get(name)


class NoteBatch:
    """Forward pre-hook of the backbone: tells the sparse blocks which batch is in hand.

    An object and not a closure, so that a deep copy of the model gets a hook and a state of its own.
    """

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.state.begin_forward(
            padding_mask(backbone, args, kwargs),
            backbone.training,
            argument(backbone, "position_ids", args, kwargs) if self.state.context_only else None,
        )


class NoteLabels:
    """Forward pre-hook of the whole model, which is what is called with labels."""

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.state.labels = argument(model, "labels", args, kwargs)
