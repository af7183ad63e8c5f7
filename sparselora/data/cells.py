"""Turn a table's cells into texts: the same whatever the format that held them.

| cell | text |
| --- | --- |
| text | as it is |
| whole number, Decimal | its digits |
| number with a fraction | the shortest that reads back as it |
| true, false | True, False |
| a time | ISO 8601, with a blank between date and time |
| empty, null, NaN | missing |

Numbers of a column that has missing cells and no fraction are whole numbers: pandas writes 1.0 for a 1
beside a null. Of a CSV, where numbers are texts, that holds for labels and groups alone.
"""

import datetime
import decimal
import math
import numbers
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselora.errors import UserError

_WHOLE = re.compile(r"-?\d+\.0")


def texts(values: "pd.Series[Any]", key: str, source: str, names: bool = False) -> list[str | None]:
    """Return each cell of a column as its text, None where it is missing.

    Args:
        values: of any dtype.
        key: that names the column, with its value: for the message.
        source: of the column, for the message.
        names: whether cells name classes or groups, so that 1.0 beside an empty cell is a 1 in a CSV too.

    Raises:
        UserError: a cell is a list, a mapping, bytes or the like.
    """
    cells = [_plain(value, key, source) for value in values.astype(object)]
    if _is_narrow(values.dtype):  # widened, 0.1 would read 0.10000000149011612
        cells = [None if cell is None else np.float32(cell) for cell in cells]
    floats = [cell for cell in cells if isinstance(cell, float | np.float32)]
    if len(floats) < len(cells) and all(float(cell).is_integer() for cell in floats):
        others = [cell for cell in cells if cell is not None]
        if len(floats) == len(others) or not any(isinstance(cell, str) for cell in others):
            cells = [int(cell) if isinstance(cell, float | np.float32) else cell for cell in cells]
    written = [None if cell is None else str(cell) for cell in cells]
    there = [text for text in written if text is not None]
    try:
        "".join(there).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{key}: a cell of {source} holds half of a character (a lone surrogate, "
            f"{error.object[error.start]!r}); whole ones are allowed"
        ) from error
    if names and len(there) < len(written) and are_whole(there):
        return [None if text is None else whole(text) for text in written]
    return written


def are_whole(written: Sequence[str]) -> bool:
    """Return whether all are whole numbers, some of them written with a fraction of 0."""
    pointed = [text for text in written if _WHOLE.fullmatch(text)]
    return bool(pointed) and all(
        _WHOLE.fullmatch(text) or text.removeprefix("-").isdecimal() for text in written
    )


def whole(text: str) -> str:
    """Return a whole number without its fraction of 0."""
    return text.removesuffix(".0")


def _is_narrow(dtype: Any) -> bool:
    kind = getattr(dtype, "numpy_dtype", dtype)
    return isinstance(kind, np.dtype) and kind.kind == "f" and kind.itemsize < 8


def _plain(value: Any, key: str, source: str) -> Any:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, decimal.Decimal) and value.is_nan():
        return None
    times = (datetime.date, datetime.time, datetime.timedelta)
    if isinstance(value, (str, numbers.Real, decimal.Decimal, *times)):
        return value
    raise UserError(
        f"{key}: a cell of {source} is a {_kind(value)} ({_short(value)}); a text, a number, a date, or "
        "true or false is allowed"
    )


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple | set | np.ndarray):
        return "list"
    if isinstance(value, dict):
        return "mapping"
    return type(value).__name__


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"
