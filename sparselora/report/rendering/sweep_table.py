"""Frames and records → tables on a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.report.rendering.run_table import curves_table, input_rows

_COLUMNS = {
    "label": ("run", "{}"),
    "varied": ("overrides", "{}"),
    "seed": ("seed", "{:.0f}"),
    "status": ("status", "{}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "delta_dense": ("− dense", "{:+.4f}"),
    "ms_per_step": ("ms/step", "{:.1f}"),
    "speedup": ("× stock", "{:.3f}"),
    "speedup_interval": ("95 %", "{}"),
    "bound": ("bound", "{:.2f}"),
    "efficiency": ("of bound", "{:.2f}"),
    "run_speedup": ("run ×", "{:.2f}"),
    "seconds_to_dense_accuracy": ("s to dense accuracy", "{:.0f}"),
    "ms_per_step_sparse": ("raw ms sparse", "{:.1f}"),
    "ms_per_step_dense": ("raw ms dense", "{:.1f}"),
    "realised_sparsity": ("sparsity", "{:.3f}"),
    "estimator_gflops": ("estimator GFLOPs", "{:.4f}"),
    "peak_memory_mb": ("peak MB", "{:.0f}"),
    "folder": ("record", "{}"),
}


def sweep_table(records: pd.DataFrame) -> pd.DataFrame:
    """The runs of one sweep: completed ones first, by accuracy, best first.

    `delta_dense` is the accuracy beside that of the plain LoRA run that shares all but the sparsity
    (model, data, budget, seed), the last one where there are several. `varied` holds the overrides
    that are not the same in every row. `seconds_to_dense_accuracy` is the drift-corrected time at
    the first evaluation that reached that plain LoRA run's; missing where none did.
    """
    frame = records.copy()
    frame["estimator_gflops"] = frame["estimator_flops"] / 1e9
    frame["varied"] = _varied(frame["overrides"])
    frame["speedup_interval"] = [
        None if pd.isna(low) else f"{low:.3f} to {high:.3f}"
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
    """A row a run; columns that hold nothing are left out."""
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
            "compare × stock."
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


def text_width(columns: Mapping[str, Iterable[str]]) -> int:
    """How wide a table is on a terminal, from its heads and cells."""
    widths = [max(len(head), *map(len, cells)) for head, cells in columns.items()]
    return sum(widths) + 3 * len(widths) + 1


def _width(frame: pd.DataFrame, names: list[str]) -> int:
    shown = ((_COLUMNS[name], frame[name]) for name in names)
    return text_width(
        {head: [_cell(each, form) for each in cells] for (head, form), cells in shown}
    )


def _cell(value: Any, form: str) -> str:
    return "–" if pd.isna(value) else escape(form.format(value))


def _others(metrics: dict[str, Any]) -> str:
    names = {"f1": "F1", "loss": "loss"}
    return ", ".join(f"{names[name]} {metrics[name]:.4f}" for name in names if name in metrics)


def print_run(content: dict[str, Any], path: str, console: Console) -> None:
    """What one finished run gave."""
    metrics, times = content["metrics"], content["step_time_ms"]
    table = Table(
        title=f"{escape(content['label'])}, seed {content['config']['seed']}", show_header=False
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    final, best = metrics["validation"], metrics["best_validation"]
    completes = content["config"]["task"]["name"] == "causal_lm"
    kind = "exact match" if completes else "accuracy"
    first = content["evaluations"][0]
    table.add_row(
        f"validation {kind}",
        f"{final['accuracy']:.4f} ({_others(final)}) at the end; "
        + (f"before training {first['accuracy']:.4f}; " if first["step"] == 0 else "")
        + f"best {best['accuracy']:.4f} at step {best['step']}; "
        f"always the commonest {'answer' if completes else 'label'} "
        f"{content['data']['majority_share']:.4f}",
    )
    if metrics["test"]:
        test = metrics["test"]
        table.add_row(f"test {kind}", f"{test['accuracy']:.4f} ({_others(test)})")
    for phase, of_phase in times.items():
        if of_phase["steps"]:
            table.add_row(
                f"ms/step, {phase} phase",
                f"{of_phase['p50']:.1f} median, {of_phase['p10']:.1f} to {of_phase['p90']:.1f} "
                f"(10 % to 90 %), {of_phase['steps']} steps",
            )
    timing = content.get("timing")
    if timing:
        table.add_row("timed, interleaved", _timing_line(content, timing))
    if content.get("timing_error"):
        table.add_row("timing failed", escape(content["timing_error"]))
    layers = content["sparsity"]["layers"]
    realised = content["sparsity"]["realised_mean"]
    by_layer = " ".join(f"{layer['realised_sparsity']:.3f}" for layer in layers)
    table.add_row("realised sparsity", f"{realised:.3f} mean; by layer {by_layer or 'none'}")
    shares = {
        name: sum(layer.get(key, 0.0) for layer in layers) / max(len(layers), 1)
        for name, key in (("query and key", "qk_sparsity"), ("value and output", "vo_sparsity"))
    }
    if any(shares.values()):
        text = ", ".join(f"{share:.3f} of {name}" for name, share in shares.items())
        table.add_row("attention left out", f"{text}, mean over layers")
    schedule = content.get("calibrated_schedule")
    if schedule:
        chosen = " ".join(f"{value:.3f}" for value in schedule["sparsities"])
        table.add_row("calibrated schedule", f"{chosen}, by the error curves below")
    parameters = content["parameters"]
    share = parameters["trained"] / parameters["total"]
    table.add_row("trained parameters", f"{parameters['trained']:,} ({share:.2%})")
    memory = content["peak_memory_mb"]
    table.add_row(
        "peak memory", "not told by this system" if memory is None else f"{memory:,.0f} MB"
    )
    for name, text in input_rows(content):
        table.add_row(name, escape(text))
    table.add_row("record", escape(path))
    console.print(table)
    if schedule:
        console.print(curves_table(schedule))
    if content["config"]["model"]["random_init"]:
        console.print("Random weights: the speed is real, the accuracy means nothing.")


def _timing_line(content: dict[str, Any], timing: dict[str, Any]) -> str:
    interval = f"{timing['speedup_low']:.3f} to {timing['speedup_high']:.3f}"
    line = (
        f"{timing['speedup']:.3f} × stock PEFT LoRA ({interval}, {timing['rounds']} rounds); "
        f"{content['ms_per_step']:.1f} ms/step where stock takes "
        f"{content['dense_reference_ms']:.1f}; the whole run {content['run_speedup']:.2f} ×"
    )
    if timing["own_speedup"] is not None:
        line += f"; {timing['efficiency']:.0%} of the bound of {timing['bound']:.2f} ×"
    if not timing["stable"]:
        line += (
            f"; unstable: stock against itself {timing['aa_low']:.3f} to {timing['aa_high']:.3f}"
        )
    return line
