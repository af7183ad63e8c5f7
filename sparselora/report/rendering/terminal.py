"""Comparisons → tables on a terminal."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.report.analysis.comparison import Comparison
from sparselora.report.analysis.statistics import MIN_SEEDS
from sparselora.report.analysis.verdict import headline
from sparselora.report.rendering.sweep_table import text_width

COLUMNS: dict[str, tuple[str, str]] = {
    "setting": ("setting", "{}"),
    "seeds": ("seeds", "{:.0f}"),
    "accuracy": ("accuracy, %", "{}"),
    "delta": ("points to LoRA (95 %)", "{}"),
    "ms_per_step": ("ms/step", "{:.1f}"),
    "speedup": ("× LoRA (95 %)", "{}"),
    "run_speedup": ("run ×", "{:.2f}"),
    "bound": ("bound", "{:.2f}"),
    "efficiency": ("of bound", "{:.0%}"),
    "step_memory_mb": ("step, MB", "{:,.0f}"),
    "realised_sparsity": ("sparsity", "{:.3f}"),
    "gflops": ("GFLOPs", "{:.1f}"),
}
"""Columns of the tables that people read, in terminals and documents."""
LEGEND = (
    "* most accurate; ≈ cannot be told from it, by the paired interval; ? too few seeds to tell"
)
_FIRST_TO_GO = ("gflops", "realised_sparsity", "step_memory_mb", "bound", "run_speedup")


def readable(comparison: Comparison) -> pd.DataFrame:
    """The table as text, with intervals in their figure's cell; `COLUMNS` without what is empty."""
    table = comparison.table
    told = table["as_good_as_best"].notna().sum() > 1
    rows = []
    for row in table.to_dict("records"):
        accuracy = f"{row['accuracy'] * 100:.2f}"
        if row["is_best"]:
            accuracy = f"{accuracy} *"
        elif row["as_good_as_best"] is True:
            accuracy = f"{accuracy} ≈"
        elif told and row["as_good_as_best"] is None:
            accuracy = f"{accuracy} ?"
        cells = {name: _cell(row.get(name), form) for name, (_, form) in COLUMNS.items()}
        cells["accuracy"] = accuracy
        cells["delta"] = with_interval(row, "delta_points", "delta_low", "delta_high", "+.2f")
        cells["speedup"] = with_interval(row, "speedup", "speedup_low", "speedup_high", ".2f")
        rows.append(cells)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame[[name for name in frame if frame[name].ne("–").any()]]


def with_interval(row: dict[Any, Any], middle: str, low: str, high: str, form: str) -> str:
    """`1.73 (1.70 to 1.76)`, or without the interval where there is none."""
    if pd.isna(row[middle]):
        return "–"
    text = f"{row[middle]:{form}}"
    if pd.isna(row[low]):
        return text
    return f"{text} ({row[low]:{form}} to {row[high]:{form}})"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """A row a setting, and the answer in a sentence below."""
    frame = readable(comparison)
    for name in _FIRST_TO_GO:
        titled = {COLUMNS[str(key)][0]: cells.to_list() for key, cells in frame.items()}
        if name in frame and text_width(titled) > console.width:
            frame = frame.drop(columns=name)
    table = Table(title=escape(comparison.title), title_justify="left")
    for name in map(str, frame):
        left = name == "setting"
        table.add_column(COLUMNS[name][0], justify="left" if left else "right", overflow="fold")
    for cells in frame.itertuples(index=False):
        bold = str(getattr(cells, "accuracy", "")).endswith("*")
        table.add_row(*map(escape, cells), style="bold" if bold else "")
    console.print(table)
    console.print(LEGEND, style="dim")
    if comparison.table["unstable"].gt(0).any():
        names = comparison.table.loc[comparison.table["unstable"].gt(0), "setting"]
        console.print(
            f"Unstable timing, stock against itself strayed from 1: {'; '.join(names)}",
            markup=False,
        )
    few = comparison.table["seeds"] < MIN_SEEDS
    if few.any():
        whose = "" if few.all() else f" in {few.sum()} of {len(few)} settings"
        console.print(f"Fewer than {MIN_SEEDS} seeds{whose}: no claim about accuracy there.")
    if comparison.runs["random_weights"].fillna(False).any():
        console.print("Random weights: the speed is real, the accuracy means nothing.")
    console.print(headline(comparison), style="bold", markup=False)


def print_problems(
    problems: pd.DataFrame, counts: pd.Series, console: Console, shown: int = 10
) -> None:
    """How many records there are by status, and which of them are of no or limited use."""
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{counts.sum()} records: {by_status}", markup=False)
    for row in problems.head(shown).to_dict("records"):
        console.print(f"  {row['folder']}: {row['problem']}", markup=False, soft_wrap=True)
    if len(problems) > shown:
        console.print(f"  and {len(problems) - shown} more; all are in problems.csv")


def print_titles(comparisons: Sequence[Comparison], console: Console) -> None:
    """That several tables follow, since their figures may not be ranked together."""
    if len(comparisons) > 1:
        console.print(
            f"{len(comparisons)} tables: runs of another model, data set, budget, LoRA or device "
            "are never ranked together."
        )


def _cell(value: Any, form: str) -> str:
    return "–" if value is None or pd.isna(value) else form.format(value)
