"""Read the arguments of a call of a model, however they are given."""

import inspect
from typing import Any

from torch import Tensor, nn


def padding_mask(
    backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """Return the (batch, length) attention mask among a backbone's arguments, None where there is none.

    It is of the tokens of this call alone: keys of earlier ones, such as a tuned prefix, have no states.
    """
    mask = argument(backbone, "attention_mask", args, kwargs)
    if mask is None or mask.dim() != 2:
        return None
    tokens = argument(backbone, "input_ids", args, kwargs)
    if tokens is None:
        tokens = argument(backbone, "inputs_embeds", args, kwargs)
    return mask if tokens is None else mask[:, -tokens.shape[1] :]


def argument(
    module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """Return one argument of a call of `module`, however it is given; None where it is not."""
    if name in kwargs or not args:
        given: Tensor | None = kwargs.get(name)
        return given
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    return bound.get(name)
