"""Find the tensors in nested values."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain

from torch import Tensor, nn


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield every tensor in a tensor, a module, a dataclass, a mapping or a tuple of such."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from chain(value.parameters(), value.buffers())
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, tuple):
        for each in value:
            yield from tensors_in(each)
