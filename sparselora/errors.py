"""Name the errors of this package, and make one line of any other's."""

import argparse
import difflib
from typing import NoReturn


class UserError(ValueError):
    """Say what the user can mend: the message names the key, the value and what is allowed."""


class WithoutEffectError(UserError):
    """Say that a setting which the user gave cannot do anything beside the others.

    Attributes:
        key: the setting's.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class TrainingError(RuntimeError):
    """Say that training cannot go on (a loss that is not finite); the message names the step."""


LONGEST_REASON = 300
"""Characters of another package's message that are passed on."""


def in_one_line(error: BaseException) -> str:
    """Return what an exception of another package says, as one short line."""
    text = " ".join(str(error).split())
    if not isinstance(error, OSError | ValueError) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def refuse_in_a_line(parser: argparse.ArgumentParser) -> None:
    """Make a parser raise a `UserError` in place of its usage and an exit."""
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> NoReturn:
        prefix = "unrecognized arguments: "
        if not message.startswith(prefix):
            raise UserError(message)
        first = message.removeprefix(prefix).split()[0]
        key, equals, _ = first.lstrip("-").partition("=")
        close = difflib.get_close_matches(first.partition("=")[0], flags, n=1)
        if close:
            hint = f"; did you mean {close[0]}?"
        elif equals and key:
            hint = f"; settings have no dashes: {first.lstrip('-')}"
        else:
            hint = "; --help shows what there is"
        raise UserError(f"{first}: unknown flag{hint}")

    parser.error = refuse  # type: ignore[method-assign]
