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
