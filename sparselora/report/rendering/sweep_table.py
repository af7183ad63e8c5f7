"""Render the runs of a sweep as a table on a terminal."""

from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.report import formats

_COLUMNS = {
    "label": ("run", "{}"),
    "varied": ("overrides", "{}"),
    "seed": ("seed", "{:.0f}"),
    "status": ("status", "{}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "delta_dense": ("− dense", "{:+.4f}"),
    "ms_per_step": (formats.MS, "{:.1f}"),
    "speedup": (formats.SPEEDUP, "{:.3f}"),
    "speedup_interval": (formats.INTERVAL, "{}"),
    "bound": (formats.BOUND, "{:.2f}"),
    "efficiency": (formats.OF_BOUND, "{:.0%}"),
    "run_speedup": (formats.RUN_SPEEDUP, "{:.2f}"),
    "seconds_to_dense_accuracy": ("s to dense accuracy", "{:.0f}"),
    "ms_per_step_sparse": ("raw ms sparse", "{:.1f}"),
    "ms_per_step_dense": ("raw ms dense", "{:.1f}"),
    "realised_sparsity": ("sparsity", "{:.3f}"),
    "estimator_gflops": ("estimator GFLOPs", "{:.4f}"),
    "peak_memory_mb": ("peak MB", "{:.0f}"),
    "folder": ("record", "{}"),
}


def sweep_table(records: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of one sweep: completed ones first, by accuracy, best first.

    `delta_dense` is the accuracy beside that of the plain LoRA run that shares all but the sparsity
    (model, data, budget, seed), the last one where there are several. `varied` holds the overrides
    that are not the same in every row. `seconds_to_dense_accuracy` is the drift-corrected time at
    the first evaluation that reached that plain LoRA run's; missing where none did.
    """
    frame = records.copy()
    frame["estimator_gflops"] = frame["estimator_flops"] / 1e9
    frame["varied"] = _varied(frame["overrides"])
    frame["speedup_interval"] = [
        None if pd.isna(low) else formats.interval(low, high, "{:.3f}")
        for low, high in zip(frame["speedup_low"], frame["speedup_high"], strict=True)
    ]
    plain = frame[(frame["sparse_steps"] == 0) & (frame["status"] == "completed")]
    dense = plain.drop_duplicates("pairing", keep="last").set_index("pairing")["accuracy"]
    reached = dense.reindex(frame["pairing"]).to_numpy()
    frame["delta_dense"] = frame["accuracy"] - reached
    frame["seconds_to_dense_accuracy"] = [
        _seconds_to(row, target)
        for row, target in zip(frame.to_dict("records"), reached, strict=True)
    ]
    unfinished = (frame["status"] != "completed").rename("unfinished")
    order = frame.assign(unfinished=unfinished).sort_values(
        ["unfinished", "accuracy"], ascending=[True, False], kind="stable"
    )
    hidden = ["unfinished", "pairing", "evaluations"]
    return order.drop(columns=hidden).reset_index(drop=True)


def _varied(overrides: pd.Series) -> list[str | None]:
    rows = [
        dict(str(line).split("=", 1) for line in lines if "=" in str(line))
        if isinstance(lines, list)
        else {}
        for lines in overrides
    ]
    keys = {key: None for row in rows for key in row}
    changing = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    return [" ".join(f"{key}={row[key]}" for key in changing if key in row) or None for row in rows]


def _seconds_to(row: dict[Any, Any], target: float) -> float | None:
    if pd.isna(target) or pd.isna(row["dense_reference_ms"]) or not row["evaluations"]:
        return None
    for evaluation in row["evaluations"]:
        if evaluation["accuracy"] >= target:
            # Records of before a dense finish was possible: what was dense, was so at the start.
            first = max(evaluation["step"] - row["dense_steps"], 0)
            sparse = evaluation.get("sparse_steps", first)
            dense = evaluation["step"] - sparse
            steps = dense / row["dense_speedup"] + sparse / row["speedup"]
            return row["calibration_seconds"] + steps * row["dense_reference_ms"] / 1e3
    return None


def print_sweep(frame: pd.DataFrame, console: Console, title: str) -> None:
    """Print a row for each run; columns that hold nothing are left out."""
    table = Table(title=escape(title), title_justify="left")
    columns = [name for name in _COLUMNS if frame[name].notna().any()]
    if not frame.duplicated(["label", "seed"]).any() and "varied" in columns:
        columns.remove("varied")  # these two tell the rows apart
    for name in _FIRST_TO_GO:
        if name in columns and _width(frame, columns) > console.width:
            columns.remove(name)
    for name in columns:
        text = name in ("label", "varied", "status", "folder")
        table.add_column(_COLUMNS[name][0], justify="left" if text else "right", overflow="fold")
    for row in frame.to_dict("records"):
        table.add_row(*(_cell(row[name], _COLUMNS[name][1]) for name in columns))
    console.print(table)
    if frame["random_weights"].eq(True).any():
        console.print("Random weights: the speed is real, the accuracy means nothing.")
    if frame["timing_stable"].eq(False).any():
        console.print(
            "Unstable: stock against itself strays from 1 in at least one run; time again."
        )
    if frame["dense_reference_ms"].nunique() > 1:
        console.print(
            "ms/step of several studies: each is set against its own figure for stock LoRA; "
            f"compare {formats.SPEEDUP}."
        )
    if frame["device"].nunique() > 1:
        console.print("Several devices: times of one device say nothing about another's.")
    for row in frame[frame["error"].notna()].to_dict("records"):
        console.print(f"{row['status']}: {row['folder']}: {row['error']}", markup=False)


# Where the terminal is narrow these columns are left out, in this order; the file has them all.
_FIRST_TO_GO = (
    "estimator_gflops",
    "folder",
    "peak_memory_mb",
    "ms_per_step_dense",
    "seconds_to_dense_accuracy",
    "speedup_interval",
    "ms_per_step_sparse",
    "efficiency",
    "bound",
    "run_speedup",
)


def _width(frame: pd.DataFrame, names: list[str]) -> int:
    shown = ((_COLUMNS[name], frame[name]) for name in names)
    return formats.text_width(
        {head: [_cell(each, form) for each in cells] for (head, form), cells in shown}
    )


def _cell(value: Any, form: str) -> str:
    return escape(formats.cell(value, form))
