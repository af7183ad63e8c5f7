"""Hooks that tell a model's sparse blocks which call of the backbone is in hand."""

from typing import Any

from torch import nn

from sparselora.sparse.backbone.calls import argument, padding_mask
from sparselora.sparse.backbone.lookup import get_called
from sparselora.sparse.channels.state import SparsityState


class NoteBatch:
    """Forward pre-hook of the backbone: tells the sparse blocks which batch is in hand.

    An object and not a closure, so that a deep copy of the model gets a hook and a state of its own.
    """

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.state.enter(
            padding_mask(backbone, args, kwargs),
            backbone.training,
            argument(backbone, "position_ids", args, kwargs) if self.state.context_only else None,
        )


class NoteEnd:
    """Forward hook of the backbone, called where it fails too: tells that the call has ended."""

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self.state.leave(output)


class NoteLabels:
    """Forward pre-hook of the whole model, which is what is called with labels."""

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.state.labels = argument(model, "labels", args, kwargs)


def state_of(model: nn.Module) -> SparsityState | None:
    """Return the state of a sparse model, None of any other; see `get_called` for what it raises."""
    hooks = get_called(model)._forward_pre_hooks.values()
    return next((hook.state for hook in hooks if isinstance(hook, NoteBatch)), None)
