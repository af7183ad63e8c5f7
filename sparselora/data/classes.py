"""Find the classes of a data set: which labels there are, and what is odd about them."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparselora.data.cells import are_whole, whole
from sparselora.errors import UserError

if TYPE_CHECKING:
    from sparselora.config.groups import DataConfig

MAX_CLASSES = 1000
MAX_NAMES = 20
"""How many names a message lists."""
FEW = 8
"""As many classes as any table may have, however few its rows."""
MAX_FRACTIONS = 20
"""How many distinct numbers with fractions may be classes, such as half stars; likewise dates."""
ROWS_A_CLASS = 50
"""More such numbers are classes where each has as many rows."""
NEARLY_ALL = 0.6
"""Distinct labels over rows: with more, they are no classes."""
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d.*)?")
SECRET = "-1"
"""What hubs write for a label that is kept secret."""


def tidy(labels: dict[str, list[str | None]], config: "DataConfig") -> dict[str, list[str | None]]:
    """Return the labels of each split without blanks around them, missing ones as None.

    Where both 1 and 1.0 stand there, as in a split with missing labels beside one without, they are the
    same class. −1 is a missing label where a test split has nothing else, and where `data.missing_label`
    says so.
    """
    tidied = {
        name: [None if label is None else label.strip() or None for label in column]
        for name, column in labels.items()
    }
    there = {label for column in tidied.values() for label in column if label is not None}
    if are_whole(list(there)) and not all(label.endswith(".0") for label in there):
        tidied = {
            name: [None if label is None else whole(label) for label in column]
            for name, column in tidied.items()
        }
    missing = None if config.missing_label is None else key_of(config.missing_label)
    if missing is not None and missing not in {key_of(label) for label in there}:
        raise UserError(
            f"data.missing_label={missing}: is in no row of {config.path}; {config.label_column} has "
            f"{listed(sorted(there, key=_natural)) or 'none'}"
        )
    for name, column in tidied.items():
        keys = {key_of(label) for label in column if label is not None}
        secret = name == "test" and keys == {SECRET}
        gone = {missing, SECRET if secret else missing}
        tidied[name] = [
            None if label is None or key_of(label) in gone else label for label in column
        ]
    return tidied


def key_of(label: Any) -> str:
    """Return what a label is told by: -1, "-1" and -1.0 are one, and so are true and TRUE."""
    text = str(label).strip()
    if text.casefold() in ("true", "false"):  # which no command line can write in another case
        return text.casefold()
    return whole(text) if are_whole([text]) else text


def found(frames: Iterable[pd.DataFrame], config: "DataConfig") -> list[str]:
    """Return the classes that occur, in the order of their indices.

    Raises:
        UserError: fewer than two, or so many that they are no classes.
    """
    counts = Counter(label for frame in frames for label in frame["label"])
    names = sorted(counts, key=_natural)
    where = f"data.label_column={config.label_column}"
    if len(names) < 2:
        raise UserError(
            f"{where}: {config.path} has one class ({names[0]!r}); two or more are needed"
        )
    rows = counts.total()
    if len(names) > max(MAX_FRACTIONS, rows / ROWS_A_CLASS) and _are_fractions(names):
        raise UserError(
            f"{where}: {len(names)} distinct numbers with fractions in {rows} rows "
            f"({listed(names, 3)}); texts or whole numbers that come back are classes, a number to "
            "predict is none; data.labels=[…] names those to keep"
        )
    if len(names) > MAX_FRACTIONS and all(map(_DATE.fullmatch, names)):
        raise UserError(
            f"{where}: {len(names)} distinct dates ({listed(names, 3)}); a column of classes is needed"
        )
    if len(names) > max(FEW, NEARLY_ALL * rows):
        raise UserError(
            f"{where}: {len(names)} distinct labels in {rows} rows ({listed(names, 3)}); classes that "
            "come back are needed, or data.labels=[…] names those to keep"
        )
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{where}: {len(names)} distinct labels; at most {MAX_CLASSES} classes are allowed"
        )
    return names


def asked_for(config: "DataConfig", there: Collection[str]) -> list[str]:
    """Return the classes that `data.labels` names, in its order.

    Raises:
        UserError: fewer than two, one twice, or one that is not among the labels that are there.
    """
    keys = [key_of(label) for label in config.labels or ()]
    if len(set(keys)) < max(len(keys), 2):
        raise UserError(
            f"data.labels=[{', '.join(keys)}]: two or more labels, each once, are allowed"
        )
    written = {key_of(label): label for label in there}
    missing = [key for key in keys if key not in written]
    if missing:
        known = listed(sorted(there, key=_natural)) or "none"
        raise UserError(
            f"data.labels: {', '.join(missing)} is in no row of {config.path}; "
            f"{config.label_column} has {known}"
        )
    return [written[key] for key in keys]


def notes(names: Sequence[str], config: "DataConfig") -> list[str]:
    """Return what a user should know of the classes, a sentence each."""
    said = []
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[" ".join(name.casefold().split())].append(name)
    for same in alike.values():
        if len(same) > 1:
            said.append(
                f"data.label_column={config.label_column}: {', '.join(map(repr, same))} are "
                f"{len(same)} classes that differ by case or blanks alone"
            )
    if SECRET in map(key_of, names) and config.labels is None:
        said.append(
            f"data.label_column={config.label_column}: −1 is taken for a class; data.missing_label=-1 "
            "leaves those rows out"
        )
    return said


def listed(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Return the first names of many for a message, and how many more there are."""
    shown = ", ".join(name if len(name) <= 40 else f"{name[:39]}…" for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def _are_fractions(names: Sequence[str]) -> bool:
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
    return all(number.fullmatch(name) for name in names) and any(
        not float(name).is_integer() for name in names
    )


def _natural(label: str) -> tuple[int, float, str]:
    try:
        number = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)
