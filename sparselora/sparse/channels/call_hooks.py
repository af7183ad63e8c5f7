"""Tell a model's sparse blocks, by hooks, which call of the backbone is in hand."""

from typing import Any

from torch import nn

from sparselora.sparse.backbone.calls import argument, padding_mask
from sparselora.sparse.backbone.lookup import get_called
from sparselora.sparse.channels.state import SparsityState
from sparselora.sparse.compat import FORWARD_PRE_HOOKS


class NoteBatch:
    """Tell the sparse blocks which batch is in hand: a forward pre-hook of the backbone.

    An object and not a closure, so that a deep copy of the model gets a hook and a state of its own.
    """

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a call."""
        self.state.enter(
            padding_mask(backbone, args, kwargs),
            backbone.training,
            argument(backbone, "position_ids", args, kwargs) if self.state.context_only else None,
        )


class NoteEnd:
    """Tell the sparse blocks that the call has ended, or failed: a forward hook of the backbone."""

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """End the call."""
        self.state.leave(output)


class NoteLabels:
    """Take the labels of a batch up: a forward pre-hook of what is called with them."""

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the labels until the backbone is called."""
        self.state.labels = argument(model, "labels", args, kwargs)


def state_of(model: nn.Module) -> SparsityState | None:
    """Return the state of a sparse model, None of any other; see `get_called` for what it raises."""
    hooks = getattr(get_called(model), FORWARD_PRE_HOOKS).values()
    return next((hook.state for hook in hooks if isinstance(hook, NoteBatch)), None)
