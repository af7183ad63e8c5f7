"""Let dataclasses stand for objects of JSON: built strictly by a writer, read leniently from a file."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

Read = TypeVar("Read", bound="Section")


@dataclass(kw_only=True)
class Section:
    """Hold one object of a JSON file.

    A field without a default is one that every writer gives; one with the default None stands in the file
    only where it has a value. `X | None` may be null, or missing in a file that an older version wrote.
    """

    NULLS: ClassVar[frozenset[str]] = frozenset()
    """Fields with the default None that stand in the file as null."""

    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    """Keys of a file that no field takes, as they stood there: another version's."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, keys in the order of the fields."""
        plain = {}
        for item in declared(type(self)):
            value = getattr(self, item.name)
            if value is not None or item.default is MISSING or item.name in self.NULLS:
                plain[item.name] = _plain(value)
        return plain | self.extra


def declared(section: type[Section]) -> list[Field[Any]]:
    """Return the fields that stand in a file, in their order there."""
    return [item for item in fields(section) if item.name != "extra"]


def build(section: type[Read], values: Mapping[str, Any]) -> Read:
    """Make a section of what a writer measured.

    Raises:
        TypeError: a key is unknown or missing, or a value is not of its field's type.
    """
    return _make(section, values, strict=True)


def read(section: type[Read], values: Any) -> Read | None:
    """Make a section of what stands in a file; None where it lacks what a section cannot be without.

    What cannot be read of an optional field is None there, and stays in `extra`.
    """
    try:
        return _make(section, values, strict=False)
    except TypeError:
        return None


def _make(section: type[Read], values: Any, strict: bool) -> Read:
    if not isinstance(values, Mapping):
        raise TypeError(f"{section.__name__}: {values!r} is no object")
    found: dict[str, Any] = {}
    hints = _hints(section)
    extra = {key: value for key, value in values.items() if key not in hints}
    if strict and extra:
        raise TypeError(f"{section.__name__} has no {', '.join(extra)}")
    for item in declared(section):
        hint = hints[item.name]
        may_be_none = type(None) in get_args(hint)
        if item.name in values:
            try:
                found[item.name] = _convert(values[item.name], hint, strict)
            except TypeError as error:
                if strict or not may_be_none:
                    raise TypeError(f"{section.__name__}.{item.name}: {error}") from error
                found[item.name] = None
                extra[item.name] = values[item.name]
        elif item.default is MISSING and item.default_factory is MISSING:
            if strict or not may_be_none:
                raise TypeError(f"{section.__name__} lacks {item.name}")
            found[item.name] = None
    return section(**found, extra=extra)


def _convert(value: Any, hint: Any, strict: bool) -> Any:
    """Return a value of the type that a hint names, or raise a `TypeError`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(value, inner, strict)
    if is_dataclass(hint):
        return value if isinstance(value, hint) else _make(hint, value, strict)  # type: ignore[type-var, arg-type]
    if origin is list and isinstance(value, list):
        return [_convert(item, arguments[0], strict) for item in value]
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _convert(item, arguments[1], strict) for key, item in value.items()}
    # JSON has one kind of number; and Python takes a truth value for one.
    accepted = (int, float) if hint is float else hint
    is_truth = isinstance(value, bool)
    if origin is None and isinstance(value, accepted) and is_truth == (hint is bool):
        return value
    raise TypeError(f"{value!r} is no {hint}")


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _hints(section: type) -> dict[str, Any]:
    return {
        name: hint
        for name, hint in get_type_hints(section).items()
        if name != "extra" and get_origin(hint) is not ClassVar
    }
