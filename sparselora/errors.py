"""The one exception a user's mistake raises: `sparselora.run` prints it as a line, without traceback."""


class UserError(ValueError):
    """Something the user can mend. The message names the key, the value and what is allowed."""


class WithoutEffectError(UserError):
    """A setting that the user gave and that cannot do anything beside the others.

    Attributes:
        key: the setting's.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite). The message names the step."""


LONGEST_REASON = 300
"""Characters of another package's message that are passed on."""


def in_one_line(error: BaseException) -> str:
    """Return what an exception of another package says, as one short line."""
    text = " ".join(str(error).split())
    if not isinstance(error, OSError | ValueError) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
