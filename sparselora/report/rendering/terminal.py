"""Render comparisons as tables on a terminal."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.report import formats
from sparselora.report.analysis.comparison import Comparison
from sparselora.report.analysis.statistics import MIN_SEEDS
from sparselora.report.analysis.verdict import headline

COLUMNS: dict[str, tuple[str, str]] = {
    "setting": ("setting", "{}"),
    "seeds": ("seeds", "{:.0f}"),
    "accuracy": ("accuracy, %", "{}"),
    "delta": (f"{formats.POINTS} ({formats.INTERVAL})", "{}"),
    "ms_per_step": (formats.MS, "{:.1f}"),
    "speedup": (f"{formats.SPEEDUP} ({formats.INTERVAL})", "{}"),
    "run_speedup": (formats.RUN_SPEEDUP, "{:.2f}"),
    "bound": (formats.BOUND, "{:.2f}"),
    "efficiency": (formats.OF_BOUND, "{:.0%}"),
    "step_memory_mb": ("step, MB", "{:,.0f}"),
    "realised_sparsity": ("sparsity", "{:.3f}"),
    "gflops": ("GFLOPs", "{:.1f}"),
}
"""Columns of the tables that people read, in terminals and documents."""
LEGEND = (
    "* most accurate; ≈ cannot be told from it, by the paired interval; ? too few seeds to tell; "
    f"{formats.SPEEDUP}: the step of stock PEFT LoRA over the setting's"
)
_FIRST_TO_GO = ("gflops", "realised_sparsity", "step_memory_mb", "bound", "run_speedup")


def readable(comparison: Comparison) -> pd.DataFrame:
    """Return a comparison's table as text, with intervals in their figures' cells.

    Columns that hold nothing are left out.
    """
    table = comparison.table
    any_compared = table["as_good_as_best"].notna().sum() > 1
    rows = []
    for row in table.to_dict("records"):
        accuracy = f"{row['accuracy'] * 100:.2f}"
        if row["is_best"]:
            accuracy = f"{accuracy} *"
        elif row["as_good_as_best"] is True:
            accuracy = f"{accuracy} ≈"
        elif any_compared and row["as_good_as_best"] is None:
            accuracy = f"{accuracy} ?"
        cells = {name: formats.cell(row.get(name), form) for name, (_, form) in COLUMNS.items()}
        cells["accuracy"] = accuracy
        gap, speedup = (row[name] for name in ("delta_points", "speedup"))
        cells["delta"] = formats.with_interval(
            gap, row["delta_low"], row["delta_high"], form="{:+.2f}"
        )
        cells["speedup"] = formats.with_interval(
            speedup, row["speedup_low"], row["speedup_high"], form="{:.2f}"
        )
        rows.append(cells)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame[[name for name in frame if frame[name].ne(formats.MISSING).any()]]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a row for each setting, and the verdict in a sentence below."""
    frame = readable(comparison)
    for name in _FIRST_TO_GO:
        titled = {COLUMNS[str(key)][0]: cells.to_list() for key, cells in frame.items()}
        if name in frame and formats.text_width(titled) > console.width:
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
    """Print how many records there are by status, and which are of no or limited use."""
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{counts.sum()} records: {by_status}", markup=False)
    for row in problems.head(shown).to_dict("records"):
        console.print(f"  {row['folder']}: {row['problem']}", markup=False, soft_wrap=True)
    if len(problems) > shown:
        console.print(f"  and {len(problems) - shown} more; all are in problems.csv")


def print_titles(comparisons: Sequence[Comparison], console: Console) -> None:
    """Say that several tables follow, since their figures may not be ranked together."""
    if len(comparisons) > 1:
        console.print(
            f"{len(comparisons)} tables: runs of another model, data set, budget, LoRA or device "
            "are never ranked together."
        )
