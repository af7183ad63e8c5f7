"""Rows of a run's table that say what it was of: its data, and the curves of a calibrated schedule."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table


def input_rows(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each row on what a run was given: its examples, what is odd.

    Args:
        content: of a record; older ones do not say why rows were left out, nor what is odd.
    """
    data = content["data"]
    rows = ", ".join(f"{count:,} {name}" for name, count in data["rows"].items())
    dropped = data.get("dropped") or {}
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    left_out = f"; {data['dropped_rows']:,} left out" if data["dropped_rows"] else ""
    yield "rows", f"{rows}{left_out}{f' ({reasons})' if reasons else ''}"
    for note in [*data.get("notes", ()), *content.get("model", {}).get("notes", ())]:
        yield "note", note


def curves_table(schedule: Mapping[str, Any]) -> Table:
    """Return the error that each layer's sparsity causes, level by level, and what was chosen."""
    table = Table(title="Relative squared error of the model's output, one layer sparse at a time")
    table.add_column("layer")
    for level in schedule["levels"][1:]:
        table.add_column(f"{level:g}", justify="right")
    table.add_column("chosen", justify="right", style="bold")
    for index, errors in enumerate(schedule["errors"]):
        cells = [f"{error:.4f}" for error in errors[1:]]
        table.add_row(str(index), *cells, f"{schedule['sparsities'][index]:.3f}")
    return table
