"""Tell the modules of a last layer that the first token alone is read, and have them compute that."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sparselora.sparse.backbone.calls import argument
from sparselora.sparse.compat import REPLICA
from sparselora.sparse.ops.rows import pad

HELD = "_sparselora_first_token"
"""The attribute by which the last layer's modules have a `FirstToken`."""
ASKED_FOR = ("output_hidden_states", "output_attentions")


class FirstToken:
    """Hold whether the call in hand reads the first token alone, for the modules that share it."""

    def __init__(self) -> None:
        self.announced = False
        """Whether the head has said so of its next call of the backbone."""
        self.alone = False
        self.length = 0
        """T of what the FFN's first layer was given."""


def first_token_alone(module: nn.Module) -> bool:
    """Return whether what this module computes is read at position 0 alone, in the call in hand."""
    first: FirstToken | None = module.__dict__.get(HELD)
    return first is not None and first.alone and module.training


def _asks(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    config: Any = module.config
    return any(
        argument(module, name, args, kwargs) or getattr(config, name, False) for name in ASKED_FOR
    )


class AnnounceHead:
    """Announce that a classifier will read the first token alone: a forward pre-hook of it."""

    def __init__(self, first: FirstToken) -> None:
        self.first = first

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note whether this call of the classifier reads the first token alone."""
        replica = getattr(model, REPLICA, False)  # of nn.DataParallel: all share this object
        self.first.announced = model.training and not replica and not _asks(model, args, kwargs)


class NoteCall:
    """Take up what the head has announced: a forward pre-hook of the backbone.

    Others than the head may call the backbone; of them it is true that they read all tokens.

    Args:
        is_intact: whether nobody looks at, or has changed, what is computed for one token alone.
    """

    def __init__(self, first: FirstToken, is_intact: Callable[[], bool]) -> None:
        self.first, self.is_intact = first, is_intact

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note whether the call in hand reads the first token alone."""
        announced, self.first.announced = self.first.announced, False
        wanted = announced and backbone.training
        self.first.alone = wanted and not _asks(backbone, args, kwargs) and self.is_intact()


class EndCall:
    """End a call, so that others get all tokens again: a forward hook of the backbone."""

    def __init__(self, first: FirstToken) -> None:
        self.first = first

    def __call__(self, backbone: nn.Module, args: Any, output: Any) -> None:
        """End the call in hand."""
        self.first.alone = False


class FirstTokenOnly:
    """Mark a class that is mixed into a module of the last layer, before all others."""

    RANK = 2


class TokenByToken(FirstTokenOnly):
    """Compute what is made of each token by itself for the first alone, then pad it."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute all tokens, or the first alone and zeros for the others."""
        original: Any = super()
        module: Any = self
        output: Tensor
        if not first_token_alone(module) or hidden_states.dim() != 3:
            output = original.forward(hidden_states, *args, **kwargs)
            return output
        output = original.forward(hidden_states[:, :1].contiguous(), *args, **kwargs)
        return pad(output, hidden_states.shape[1])


class Query(TokenByToken):
    """Project the first token alone to its query, but where channels are chosen by all tokens."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute as the full layer does where all tokens are needed."""
        module: Any = self
        original: Any = (
            super(TokenByToken, module) if getattr(module, "needs_all_tokens", False) else super()
        )
        output: Tensor = original.forward(hidden_states, *args, **kwargs)
        return output


class FFNInput(FirstTokenOnly):
    """Hand the first token alone to an FFN's first layer."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute all tokens, or the first alone."""
        original: Any = super()
        module: Any = self
        first: FirstToken | None = module.__dict__.get(HELD)
        if first is not None and first.alone and hidden_states.dim() == 3:
            first.length = hidden_states.shape[1]
            if module.training:
                hidden_states = hidden_states[:, :1].contiguous()
        output: Tensor = original.forward(hidden_states, *args, **kwargs)
        return output


class FFNOutput(FirstTokenOnly):
    """Pad what an FFN's last layer gives, where its first gave one token."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute what is given, and zeros for tokens that were left out."""
        original: Any = super()
        module: Any = self
        first: FirstToken | None = module.__dict__.get(HELD)
        output: Tensor = original.forward(hidden_states, *args, **kwargs)
        if first is None or not first.alone or hidden_states.dim() != 3:
            return output
        return pad(output, first.length) if hidden_states.shape[1] == 1 else output
