"""Find which of a setting's overrides have an effect beside the others, by the config's own rules."""

from collections.abc import Callable, Sequence

from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, WithoutEffectError

Check = Callable[[Sequence[str]], tuple[RunConfig, list[float]]]
"""Overrides → the checked run and the sparsity of its layers; raises a `UserError`."""


def remembered(check: Check) -> Check:
    """Return a check that keeps its answers: a search asks about one setting many times."""
    answers: dict[tuple[str, ...], tuple[RunConfig, list[float]] | UserError] = {}

    def ask(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
        key = tuple(overrides)
        if key not in answers:
            try:
                answers[key] = check(overrides)
            except UserError as error:
                answers[key] = error
        answer = answers[key]
        if isinstance(answer, UserError):
            raise answer
        return answer

    return ask


def effective(
    overrides: Sequence[str], check: Check, dropped: dict[str, WithoutEffectError] | None = None
) -> list[str]:
    """Return the overrides without those that have no effect beside the others.

    Args:
        overrides: of one setting.
        check: see `Check`.
        dropped: filled with the first reason for each key left out.

    Raises:
        UserError: what remains is wrong for another reason.
    """
    kept = list(overrides)
    while True:
        try:
            check(kept)
        except WithoutEffectError as error:
            fewer = [override for override in kept if key_of(override) != error.key]
            if len(fewer) == len(kept):
                raise
            kept = fewer
            if dropped is not None:
                dropped.setdefault(error.key, error)
        else:
            return kept


def key_of(override: str) -> str:
    """Return the key of an override: `a.b` of `+a.b=c`, or of `+a.b`."""
    return override.lstrip("+~").partition("=")[0]


def keys_of(overrides: Sequence[str]) -> set[str]:
    """Return the keys of overrides."""
    return {key_of(override) for override in overrides}


def has_effect(key: str, overrides: Sequence[str], check: Check) -> bool:
    """Return whether a key has an effect beside other overrides, among which it is."""
    try:
        return key_of(key) in keys_of(effective(overrides, check))
    except UserError:  # wrong for another reason, which the setting's own check will give
        return True
