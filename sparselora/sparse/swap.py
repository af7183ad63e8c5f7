"""Put other methods before a module's own, on that one module, and take them off again.

What computes in place of a module of transformers' or PEFT's *is* that module, of a class derived from
its own: wherever others move it, wrap it or copy it, it keeps its parameters, hooks, mode and name, and
no class of theirs is touched. Whoever puts a mixin on is an owner; it goes with the last of them.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

HELD = "_sparselora_held"
"""The attribute by which a module has what it computes by."""
_OWNERS = "_sparselora_owners"
"""The attribute that says who put what on."""
_MIXED: dict[tuple[type, type[nn.Module]], type[nn.Module]] = {}
_NUMBERS = itertools.count()
_PREPARATIONS: list[Callable[[], None]] = []


def new_owner() -> int:
    """Return a number of its own for whoever puts mixins on; a deep copy has its original's."""
    return next(_NUMBERS)


def mixed(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    """Return `kind` with the methods of `mixin` before its own; the same class each time."""
    if (mixin, kind) not in _MIXED:
        name = f"{mixin.__name__.removeprefix('_')}{kind.__name__}"
        _MIXED[mixin, kind] = type(name, (mixin, kind), {"__reduce__": _reduce, "_mixed": True})
    return _MIXED[mixin, kind]


def run_on_load(prepare: Callable[[], None]) -> None:
    """Have a function run wherever a copy or a pickle of a mixed module is made into one again.

    A pickle names it, so that a process which has imported nothing of this finds it.

    Args:
        prepare: a function of a module, to be called any number of times.
    """
    _PREPARATIONS.append(prepare)


def unmixed(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class that mixins were put before."""
    return _taken_apart(kind)[0]


def mixin_of(kind: type[nn.Module]) -> type:
    """Return what `mixed` put first in a class."""
    mixin: type = kind.__bases__[0]
    return mixin


def sharing(original: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Return a module of class `kind` with the very state of `original`."""
    view = kind.__new__(kind)
    object.__setattr__(view, "__dict__", original.__dict__)
    return view


def plain_view(module: nn.Module) -> nn.Module:
    """Return a module of the class without mixins that shares the very state of this one."""
    return sharing(module, unmixed(type(module)))


def put_on(module: nn.Module, mixin: type, owner: int) -> None:
    """Have a module compute by `mixin`'s methods before its own; those of higher `RANK` come first."""
    owners = module.__dict__.setdefault(_OWNERS, {})
    owners.setdefault(mixin, []).append(owner)
    kind, mixins = _taken_apart(type(module))
    if mixin not in mixins:
        place = sum(_rank(each) > _rank(mixin) for each in mixins)
        _become(module, kind, [*mixins[:place], mixin, *mixins[place:]])


def take_off(module: nn.Module, owner: int) -> list[type]:
    """Undo each `put_on` of an owner's; return the mixins that nobody else put there, which are gone."""
    owners: dict[type, list[int]] = module.__dict__.get(_OWNERS, {})
    gone = []
    for mixin, numbers in list(owners.items()):
        if owner in numbers:
            numbers[:] = [number for number in numbers if number != owner]
            if not numbers:
                del owners[mixin]
                gone.append(mixin)
    if gone:
        kind, mixins = _taken_apart(type(module))
        if mixins:  # else another class was set since, as torch's parametrizations do
            _become(module, kind, [each for each in mixins if each not in gone])
    if not owners:
        module.__dict__.pop(_OWNERS, None)
    return gone


def owned(modules: Iterable[nn.Module], owner: int) -> list[nn.Module]:
    """Return the modules that an owner put something on, and copies that others made of them."""
    return [
        module
        for module in modules
        if any(owner in numbers for numbers in module.__dict__.get(_OWNERS, {}).values())
    ]


def _rank(mixin: type) -> int:
    rank: int = getattr(mixin, "RANK", 0)
    return rank


def _become(module: nn.Module, kind: type[nn.Module], mixins: list[type]) -> None:
    for mixin in reversed(mixins):
        kind = mixed(mixin, kind)
    object.__setattr__(module, "__class__", kind)


def _taken_apart(kind: type[nn.Module]) -> tuple[type[nn.Module], list[type]]:
    """Return the class, and the mixins before it, the outermost first."""
    mixins: list[type] = []
    while "_mixed" in kind.__dict__:
        mixin, kind = kind.__bases__
        mixins.append(mixin)
    return kind, mixins


def _reduce(module: nn.Module) -> tuple[Any, ...]:
    # No module's attribute names such a class, so a pickle names what it is made of.
    kind, mixins = _taken_apart(type(module))
    return _empty, (kind, tuple(reversed(mixins)), tuple(_PREPARATIONS)), module.__dict__


def _empty(
    kind: type[nn.Module], mixins: tuple[type, ...], preparations: tuple[Callable[[], None], ...]
) -> nn.Module:
    for prepare in preparations:
        prepare()
    for mixin in mixins:
        kind = mixed(mixin, kind)
    return kind.__new__(kind)
