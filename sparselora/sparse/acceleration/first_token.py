"""What the modules of a last layer share that is computed for the first token alone."""

from collections.abc import Callable
from typing import Any

from torch import nn

from sparselora.sparse.backbone.calls import argument

HELD = "_sparselora_first_token"
"""Where the last layer's modules hold a `FirstToken`."""
ASKED_FOR = ("output_hidden_states", "output_attentions")


class FirstToken:
    """Whether the call in hand reads the first token alone."""

    def __init__(self) -> None:
        self.announced = False
        """By the head, of its next call of the backbone."""
        self.alone = False
        self.length = 0
        """T of what the FFN's first map was given."""


def first_token_alone(module: nn.Module) -> bool:
    """Whether what this module computes is read at position 0 alone, in the call in hand."""
    first: FirstToken | None = module.__dict__.get(HELD)
    return first is not None and first.alone and module.training


def _asks(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    config: Any = module.config
    return any(
        argument(module, name, args, kwargs) or getattr(config, name, False) for name in ASKED_FOR
    )


class AnnounceHead:
    """Forward pre-hook of a classifier."""

    def __init__(self, first: FirstToken) -> None:
        self.first = first

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        replica = getattr(model, "_is_replica", False)  # of nn.DataParallel: all share this object
        self.first.announced = model.training and not replica and not _asks(model, args, kwargs)


class NoteCall:
    """Forward pre-hook of the backbone, which others than the head may call.

    Args:
        is_intact: whether nobody looks at, or has changed, what is computed for one token alone.
    """

    def __init__(self, first: FirstToken, is_intact: Callable[[], bool]) -> None:
        self.first, self.is_intact = first, is_intact

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        announced, self.first.announced = self.first.announced, False
        wanted = announced and backbone.training
        self.first.alone = wanted and not _asks(backbone, args, kwargs) and self.is_intact()


class EndCall:
    """Forward hook of the backbone: what others call afterwards is whole."""

    def __init__(self, first: FirstToken) -> None:
        self.first = first

    def __call__(self, backbone: nn.Module, args: Any, output: Any) -> None:
        self.first.alone = False
