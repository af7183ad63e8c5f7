"""Turn exceptions into a line for the person at the terminal."""

import re

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sparselora.config.keys import unknown_key
from sparselora.errors import UserError

USER_MISTAKES = (UserError, HydraException, OmegaConfBaseException)
"""What means a mistake in the command or its data, not a defect: exit code 2."""

MAX_LINES = 3
"""Of a message of Hydra's; ours have two at most, since Hydra may put a line before them."""


MERGING = "Error merging override "
KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
"""OmegaConf's word for what a value could not be converted to → ours."""


def _reason(text: str) -> str:
    """Say in a few words why OmegaConf does not take a value."""
    options = re.search(r"expected one of \[(.*)\]", text)
    if options:
        return f"must be one of {options[1]}"
    kind = re.search(r"could not be converted to (\w+)|is not a valid (bool)", text)
    if kind:
        word = kind[1] or kind[2]
        return f"{KINDS.get(word, word)} is allowed"
    if "is not a ListConfig" in text:
        return "a list, such as [a,b], is allowed"
    return text


def explain(error: BaseException) -> str:
    """Return a line that names the key, the value and what is allowed (ours may have two)."""
    if isinstance(error, UserError):
        return "\n".join(str(error).splitlines()[:MAX_LINES])
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    where = f"{text} {error.__cause__}"
    is_unknown = "not in" in where or "No match in the defaults list" in where
    if unknown and is_unknown and not unknown[1].startswith("hydra"):
        return unknown_key(unknown[1])
    misspelled = re.search(r"Key '([^']+)' not in '\w+'(?:\. Did you mean: '([^']+)')?", where)
    if unknown and misspelled:
        meant = f"; did you mean {unknown[1].rpartition('.')[0]}.{misspelled[2]}?"
        return f"{unknown[1]}: unknown key{meant if misspelled[2] else ''}"
    option = re.search(r"Could not (?:find|load) '([^']+)/([^'/]*)'", text)
    if option:
        allowed = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        choice = f"must be one of {', '.join(allowed)}" if allowed else "no such file"
        return f"{option[1]}={option[2]}: unknown; {choice}"
    if text.startswith("Cannot find primary config"):
        return text.splitlines()[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if error.__cause__ is not None and str(error.__cause__) not in text:
        lines += str(error.__cause__).splitlines()[:1]
    if lines and lines[0].startswith(MERGING) and len(lines) > 1:
        return f"{lines[0].removeprefix(MERGING)}: {_reason(lines[1])}"
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type"))]
    return "; ".join(line.rstrip(".:") for line in kept[:MAX_LINES]) or type(error).__name__
