"""Check single values: each raises a `UserError` with the key, the value and what is allowed."""

import math

from sparselora.errors import UserError

PHASE_KEYS = ("sparse_warmup_ratio", "sparse_rampup_ratio", "sparse_cooldown_ratio")


def check_sparsity(key: str, value: float) -> None:
    """Raise a `UserError` that names `key` unless 0 ≤ value < 1."""
    if not isinstance(value, int | float) or math.isnan(value) or not 0.0 <= value < 1.0:
        raise UserError(
            f"{key}={shown(value)}: a sparsity from 0 up to, not including, 1 is allowed"
        )


def check_at_least(key: str, value: float | None, least: float) -> None:
    """Raise a `UserError` that names `key` unless it is null or a finite number ≥ least."""
    if value is not None and not (math.isfinite(value) and value >= least):
        raise UserError(f"{key}={shown(value)}: a finite number of at least {least:g} is allowed")


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a `UserError` that names `key` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{key}={value}: must be one of {', '.join(allowed)}")


def check_share(key: str, value: float) -> None:
    """Raise a `UserError` that names `key` unless 0 ≤ value < 1."""
    if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise UserError(f"{key}={shown(value)}: a share from 0 up to, not including, 1 is allowed")


def check_phases(warmup: float, rampup: float, cooldown: float) -> None:
    """Raise a `UserError` unless each is a share in [0, 1) and together they leave some steps."""
    for name, value in zip(PHASE_KEYS, (warmup, rampup, cooldown), strict=True):
        check_share(name, value)
    total = warmup + rampup + cooldown
    if total >= 1.0:
        raise UserError(
            f"{' + '.join(PHASE_KEYS)} = {total:g}: together less than 1 is allowed, or no step would "
            "run at the sparsity asked for"
        )


def shown(value: object) -> str:
    """Return a value as it stands on a command line."""
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, int | float) else repr(value)


def is_count(value: object) -> bool:
    """Return whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
