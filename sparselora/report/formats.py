"""Write figures, the same in sentences, terminals, documents and pages.

The speed-up is stock PEFT LoRA's step over ours, and its head is `× stock` wherever it stands.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

MISSING = "–"
SPEEDUP = "× stock"
OWN_SPEEDUP = "× our dense"
RUN_SPEEDUP = "run ×"
BOUND = "bound"
OF_BOUND = "of the bound"
INTERVAL = "95 %"
POINTS = "points to LoRA"
MS = "ms/step"


def is_missing(value: Any) -> bool:
    """Return whether a cell holds no value."""
    return not isinstance(value, list | dict) and bool(pd.isna(value))


def cell(value: Any, form: str = "{}", scale: float = 1.0) -> str:
    """Write a value, or a dash where there is none.

    Args:
        value: a number, a text, or nothing.
        form: of `str.format`, such as `{:.2f}`.
        scale: a number is multiplied by it, such as 100 for a share in percent.
    """
    if is_missing(value):
        return MISSING
    return form.format(value if scale == 1.0 else value * scale)


def interval(low: Any, high: Any, form: str) -> str:
    """Write an interval, `1.70 to 1.76`, or a dash where there is none."""
    if is_missing(low) or is_missing(high):
        return MISSING
    return f"{form.format(low)} to {form.format(high)}"


def with_interval(middle: Any, low: Any, high: Any, *, form: str, unit: str = "") -> str:
    """Write `1.73 (1.70 to 1.76)`, without the brackets where there is no interval.

    Args:
        middle: a number, or nothing, which is a dash.
        low: lower end of its interval.
        high: upper end.
        form: of each of the three.
        unit: stands behind the first.
    """
    if is_missing(middle):
        return MISSING
    text = f"{form.format(middle)}{unit}"
    return text if is_missing(low) else f"{text} ({interval(low, high, form)})"


def text_width(columns: Mapping[str, Iterable[str]]) -> int:
    """Return how wide a table is on a terminal, from its heads and cells."""
    widths = [max(len(head), *map(len, cells)) for head, cells in columns.items()]
    return sum(widths) + 3 * len(widths) + 1
