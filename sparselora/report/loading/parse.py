"""Parse a record's text to plain values that tables, pictures, pages and terminals can hold."""

import json
import math
from pathlib import Path
from typing import Any


def parse_record(file: Path) -> dict[str, Any]:
    """Read one record; what is not finite is None, and what cannot be drawn is replaced.

    Raises:
        OSError, ValueError, RecursionError: it is no whole record.
    """
    text = file.read_text(encoding="utf-8")
    # NaN and infinities are no JSON, and no figures.
    record = json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_number)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    # Of what cannot be drawn, JSON lets these alone stand as they are.
    if "\\u" in text or "\ufffe" in text or "\uffff" in text:
        record = _printable(record)
    return record


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _number(text: str) -> int | float | None:
    # A whole number that no column holds is a float, or none.
    return int(text) if len(text) < 19 else _finite(text)


_UNDRAWABLE = tuple(chr(code) for code in (*range(32), 0xFFFE, 0xFFFF) if chr(code) not in "\t\n\r")
"""What XML, and so a picture, cannot hold, and a terminal takes for orders."""
_DRAWABLE = str.maketrans(dict.fromkeys(_UNDRAWABLE, "\ufffd"))


def _printable(value: Any) -> Any:
    # Half of a surrogate pair can stand in JSON, but in no file or page.
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode().translate(_DRAWABLE)
