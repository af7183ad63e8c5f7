"""Frames and records → tables on a terminal."""

from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_COLUMNS = {
    "label": ("run", "{}"),
    "seed": ("seed", "{:.0f}"),
    "status": ("status", "{}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "delta_dense": ("− dense", "{:+.4f}"),
    "f1": ("F1", "{:.4f}"),
    "ms_per_step_sparse": ("ms/step sparse", "{:.1f}"),
    "ms_per_step_dense": ("ms/step dense", "{:.1f}"),
    "realised_sparsity": ("sparsity", "{:.3f}"),
    "estimator_gflops": ("estimator GFLOPs", "{:.4f}"),
    "peak_memory_mb": ("peak MB", "{:.0f}"),
    "folder": ("record", "{}"),
}


def sweep_table(records: pd.DataFrame) -> pd.DataFrame:
    """The runs of one sweep: completed ones first, by accuracy, best first.

    `delta_dense` is the accuracy beside that of the plain LoRA run of the same seed, model and data,
    where there is exactly one such run in the sweep.
    """
    frame = records.copy()
    frame["estimator_gflops"] = frame["estimator_flops"] / 1e9
    pairing = ["seed", "model", "data"]
    plain = frame[(frame["realised_sparsity"] == 0.0) & (frame["status"] == "completed")]
    dense = plain.drop_duplicates(pairing, keep=False).set_index(pairing)["accuracy"]
    keys = pd.MultiIndex.from_frame(frame[pairing])
    frame["delta_dense"] = frame["accuracy"] - dense.reindex(keys).to_numpy()
    unfinished = (frame["status"] != "completed").rename("unfinished")
    order = frame.assign(unfinished=unfinished).sort_values(
        ["unfinished", "accuracy"], ascending=[True, False], kind="stable"
    )
    return order.drop(columns="unfinished").reset_index(drop=True)


def print_sweep(frame: pd.DataFrame, console: Console, title: str) -> None:
    """A row a run; columns that hold nothing are left out."""
    table = Table(title=escape(title), title_justify="left")
    columns = [name for name in _COLUMNS if frame[name].notna().any()]
    for name in columns:
        text = name in ("label", "status", "folder")
        table.add_column(_COLUMNS[name][0], justify="left" if text else "right", overflow="fold")
    for row in frame.to_dict("records"):
        table.add_row(*(_cell(row[name], _COLUMNS[name][1]) for name in columns))
    console.print(table)
    if frame["random_weights"].eq(True).any():
        console.print("Random weights: the speed is real, the accuracy means nothing.")
    for row in frame[frame["error"].notna()].to_dict("records"):
        console.print(f"{row['status']}: {row['folder']}: {row['error']}", markup=False)


def _cell(value: Any, form: str) -> str:
    return "–" if pd.isna(value) else escape(form.format(value))


def print_run(content: dict[str, Any], path: str, console: Console) -> None:
    """What one finished run gave."""
    metrics, times = content["metrics"], content["step_time_ms"]
    table = Table(
        title=f"{escape(content['label'])}, seed {content['config']['seed']}", show_header=False
    )
    table.add_column(style="bold")
    table.add_column()
    final, best = metrics["validation"], metrics["best_validation"]
    table.add_row(
        "validation accuracy",
        f"{final['accuracy']:.4f} (F1 {final['f1']:.4f}, loss {final['loss']:.4f}) at the end; "
        f"best {best['accuracy']:.4f} at step {best['step']}; "
        f"always the commonest label {content['data']['majority_share']:.4f}",
    )
    if metrics["test"]:
        test = metrics["test"]
        table.add_row("test accuracy", f"{test['accuracy']:.4f} (F1 {test['f1']:.4f})")
    for phase, of_phase in times.items():
        if of_phase["steps"]:
            table.add_row(
                f"ms/step, {phase} phase",
                f"{of_phase['p50']:.1f} median, {of_phase['p10']:.1f} to {of_phase['p90']:.1f} "
                f"(10 % to 90 %), {of_phase['steps']} steps",
            )
    layers = content["sparsity"]["layers"]
    realised = content["sparsity"]["realised_mean"]
    by_layer = " ".join(f"{layer['realised_sparsity']:.3f}" for layer in layers)
    table.add_row("realised sparsity", f"{realised:.3f} mean; by layer {by_layer or 'none'}")
    parameters = content["parameters"]
    share = parameters["trained"] / parameters["total"]
    table.add_row("trained parameters", f"{parameters['trained']:,} ({share:.2%})")
    memory = content["peak_memory_mb"]
    table.add_row(
        "peak memory", "not told by this system" if memory is None else f"{memory:,.0f} MB"
    )
    table.add_row("record", escape(path))
    console.print(table)
    if content["config"]["model"]["random_init"]:
        console.print("Random weights: the speed is real, the accuracy means nothing.")
