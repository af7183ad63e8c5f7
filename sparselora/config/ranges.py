"""Declare what a setting may be, beside its field: its range, and where it has an effect.

Both stand in the metadata of a dataclass field, which OmegaConf leaves alone; the checks walk over the
fields and need no list of their own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from sparselora.errors import UserError
from sparselora.sparse.validate import check_at_least, check_choice, check_share

if TYPE_CHECKING:
    from sparselora.config.schema import RunConfig

Check = Callable[[str, Any], None]
"""(dotted key, value) → nothing; raises a `UserError` for a value that is not allowed."""
Idle = Callable[["RunConfig"], str | None]
"""run → why a setting is without effect in it, None where it has one."""
_RANGE, _IDLE, _SPARSE_ONLY = "range", "idle", "sparse_only"


def setting(
    default: Any = MISSING,
    check: Check | None = None,
    *,
    idle: tuple[Idle, ...] = (),
    sparse_only: bool = False,
) -> Any:
    """Return a dataclass field with what the checks need to know of it.

    Args:
        default: what it is where nobody says; a list and a dict are copied, a group is made; `MISSING`: a
            value is needed.
        check: of its range.
        idle: why it may be without effect, as far as the settings tell.
        sparse_only: whether it is without effect where every layer is dense.
    """
    metadata = {_RANGE: check, _IDLE: idle, _SPARSE_ONLY: sparse_only}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def walk(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield the dotted key, value and metadata of each field, groups before what is in them."""
    for each in fields(settings):
        key, value = f"{prefix}{each.name}", getattr(settings, each.name)
        yield key, value, each.metadata
        if is_dataclass(value):
            yield from walk(value, f"{key}.")


def check_ranges(settings: Any) -> None:
    """Check each value of a run's settings against the range that stands beside its field.

    Raises:
        UserError: names the first that is out of its range, and what is allowed.
    """
    for key, value, metadata in walk(settings):
        check = metadata.get(_RANGE)
        if check is not None:
            check(key, value)


def idle_settings(run: Any) -> Iterator[tuple[str, str]]:
    """Yield the keys of settings that cannot have an effect, whatever the model, and why not."""
    for key, _, metadata in walk(run):
        for why in metadata.get(_IDLE, ()):
            since = why(run)
            if since is not None:
                yield key, since


def sparse_settings(run: Any) -> list[str]:
    """Return the keys of the settings and groups that only a sparse layer looks at."""
    return [key for key, _, metadata in walk(run) if metadata.get(_SPARSE_ONLY)]


def at_least(least: float) -> Check:
    """Return a check for null or a finite number of at least `least`."""
    return lambda key, value: check_at_least(key, value, least)


def one_of(allowed: tuple[str, ...]) -> Check:
    """Return a check for one of some words."""
    return lambda key, value: check_choice(key, value, allowed)


def some_of(allowed: tuple[str, ...]) -> Check:
    """Return a check for a list of one or more of some words."""

    def check(key: str, value: list[str]) -> None:
        for each in value:
            check_choice(key, each, allowed)
        if not value:
            raise UserError(f"{key}=[]: at least one of {', '.join(allowed)} is needed")

    return check


def share(key: str, value: float) -> None:
    """Check a number from 0 up to, not including, 1."""
    check_share(key, value)


def positive(key: str, value: float | None) -> None:
    """Check for null or a finite number over 0."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UserError(f"{key}={value:g}: a finite number over 0 is allowed")


def path(key: str, value: str | None) -> None:
    """Check for null or what can be a file, a folder or a name."""
    if value is None:
        return
    if not value.strip():
        raise UserError(f"{key}={value}: a file, folder or name is needed")
    try:
        Path(value).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}={value}: there is no such user's home on this machine") from error


def device(key: str, value: str) -> None:
    """Check for auto, cpu, cuda or cuda:N."""
    kind, _, index = value.partition(":")
    plain = value in ("auto", "cpu", "cuda")
    if not plain and not (kind == "cuda" and index.isdigit()):
        raise UserError(f"{key}={value}: auto, cpu, cuda or cuda:N is allowed")
