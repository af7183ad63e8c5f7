"""A module's class with other methods before its own, and a module of it with another's very state.

What stands in for a module of transformers' or PEFT's is made so: it is an instance of the original's
class still, and no class of theirs is touched.
"""

from typing import Any

from torch import nn

_MIXED: dict[tuple[type, type[nn.Module]], type[nn.Module]] = {}


def sharing(original: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of class `kind` with the very state of `original`."""
    stand_in = kind.__new__(kind)
    object.__setattr__(stand_in, "__dict__", original.__dict__)
    return stand_in


def mixed(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    """`kind` with the methods of `mixin` before its own; the same class each time."""
    if (mixin, kind) not in _MIXED:
        name = f"{mixin.__name__.removeprefix('_')}{kind.__name__}"
        _MIXED[mixin, kind] = type(name, (mixin, kind), {"__reduce__": _reduce, "_mixed": True})
    return _MIXED[mixin, kind]


def unmixed(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that mixins were put before."""
    return _taken_apart(kind)[0]


def _taken_apart(kind: type[nn.Module]) -> tuple[type[nn.Module], list[type]]:
    """The class, and the mixins before it, the last one that was put there first."""
    mixins: list[type] = []
    while "_mixed" in kind.__dict__:
        mixin, kind = kind.__bases__
        mixins.append(mixin)
    return kind, mixins


def _reduce(module: nn.Module) -> tuple[Any, ...]:
    # No module's attribute names such a class, so a pickle names what it is made of.
    kind, mixins = _taken_apart(type(module))
    return _empty, (kind, *reversed(mixins)), module.__dict__


def _empty(kind: type[nn.Module], *mixins: type) -> nn.Module:
    for mixin in mixins:
        kind = mixed(mixin, kind)
    return kind.__new__(kind)
